//! The test `exec`. A node, a command and what it must print and end with go in; a verdict comes out. It never waits
//! longer than [`PATIENCE`] for one run of the command.

use std::process::Command;
use std::time::Duration;

use wildmatch::WildMatch;

use super::Context;
use super::runner::Verdict;
use crate::error::{Error, Result};
use crate::model::NodeId;
use crate::process::{self, Ended};

/// How long one run may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Exit status of a shell for a program that is not there, and for one that cannot be run (POSIX, 2.8.2).
const NOT_FOUND: i32 = 127;
const NOT_RUN: i32 = 126;
/// Lines of output that are shown.
const SHOWN: usize = 10;

/// What an `exec:` asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exec<'a> {
    pub(crate) at: NodeId,
    pub(crate) argv: &'a [String],
    /// `*` stands for anything, `?` for one character; line ends at the end count neither here nor in what is printed.
    pub(crate) stdout: Option<&'a str>,
    pub(crate) status: u8,
}

/// Holds when the command ends with the status and prints what matches.
pub(crate) fn test(ctx: &Context<'_>, asked: &Exec<'_>) -> Result<Verdict> {
    let (program, arguments) =
        asked.argv.split_first().ok_or_else(|| Error::bug("a command without a program"))?;
    let node = ctx.lab.node(asked.at);
    let ended = ctx.namespaces.run_in_node(&node.netns, || {
        let mut command = Command::new(program);
        command.args(arguments).env("VILAB_LAB", &ctx.lab.name);
        command.env("VILAB_NODE", ctx.lab.full_name(asked.at));
        process::try_within(&mut command, PATIENCE)
    })??;
    Ok(judge(asked, &ended.unwrap_or_else(|e| not_begun(program, &e))))
}

/// As a shell says it.
fn not_begun(program: &str, e: &std::io::Error) -> Ended {
    let status = if e.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN };
    Ended { status: Some(status), stdout: Vec::new(), stderr: format!("{program}: {e}").into_bytes() }
}

fn judge(asked: &Exec<'_>, ended: &Ended) -> Verdict {
    let status = ended
        .status
        .map_or_else(|| format!("not ended after {} s", PATIENCE.as_secs()), |s| format!("exit status {s}"));
    let wanted = format!("exit status {}", asked.status);
    let mut verdict = Verdict::of(status == wanted, wanted, status);
    let printed = String::from_utf8_lossy(&ended.stdout);
    let printed = printed.trim_end_matches('\n');
    if let Some(pattern) = asked.stdout {
        let matches = WildMatch::new(pattern.trim_end_matches('\n')).matches(printed);
        let shown = if matches { pattern.to_owned() } else { excerpt("stdout", printed) };
        verdict.and(Verdict::of(matches, pattern.to_owned(), shown));
    } else if !verdict.holds {
        verdict.measured.push(excerpt("stdout", printed));
    }
    if !verdict.holds && !ended.stderr.is_empty() {
        let said = String::from_utf8_lossy(&ended.stderr);
        verdict.measured.push(excerpt("stderr", said.trim_end()));
    }
    verdict.measured = verdict.measured.iter().flat_map(|m| m.lines().map(str::to_owned)).collect();
    verdict
}

/// The last lines, under the name of the stream.
fn excerpt(stream: &str, text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(SHOWN);
    let lines: Vec<String> = lines[from..].iter().map(|l| format!("{stream}: {l}")).collect();
    if lines.is_empty() { format!("{stream}: nothing") } else { lines.join("\n") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BASE;

    fn verdict(pattern: Option<&str>, status: Option<i32>, stdout: &str) -> Verdict {
        let argv = ["true".to_owned()];
        let at = NodeId { net: BASE, index: 0 };
        let (stdout, stderr) = (stdout.as_bytes().to_vec(), b"why\n".to_vec());
        judge(&Exec { at, argv: &argv, stdout: pattern, status: 0 }, &Ended { status, stdout, stderr })
    }

    #[test]
    fn patterns_span_lines_and_take_brackets_as_they_are() {
        for (pattern, printed, holds) in [
            ("*Directory listing*", "<title>\nDirectory listing for /\n</title>\n", true),
            ("[1]", "[1]\n", true),
            ("10.128.0.?", "10.128.0.2\n", true),
            ("10.128.0.?", "10.128.0.22\n", false),
            ("a", "ab\n", false),
            ("", "\n", true),
            ("one\ntwo\n", "one\ntwo\n", true),
            ("one\ntwo\n", "one\n", false),
        ] {
            assert_eq!(verdict(Some(pattern), Some(0), printed).holds, holds, "{pattern}");
        }
    }

    #[test]
    fn a_failure_shows_what_was_printed() {
        let failed = verdict(Some("yes"), Some(7), "no\n");
        assert_eq!(failed.expected, ["exit status 0", "yes"]);
        assert_eq!(failed.measured, ["exit status 7", "stdout: no", "stderr: why"]);
        assert_eq!(
            verdict(None, None, "").measured,
            ["not ended after 30 s", "stdout: nothing", "stderr: why"]
        );
    }
}
