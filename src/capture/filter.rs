//! Filters in tcpdump's words. An expression goes in; instructions for the kernel come out, one program for each kind of
//! device. It never compiles by itself: `tcpdump -ddd` does, as on every machine.

use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::process;
use crate::sys::filter::Instruction;

/// Bytes of a packet that are kept where nobody says: what tcpdump keeps.
pub const WHOLE: u32 = 262_144;
/// Time for tcpdump, which may look names up.
const PATIENCE: Duration = Duration::from_secs(30);
/// `BPF_RET | BPF_K`: so many bytes of the packet are kept.
const RETURN: u16 = 6;

/// What passes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// As written.
    pub text: Option<String>,
    /// Bytes of a packet that are kept.
    pub snaplen: u32,
    /// For devices with Ethernet headers, and for those without any.
    pub ethernet: Vec<Instruction>,
    pub raw: Vec<Instruction>,
}

impl Filter {
    /// Everything passes.
    #[must_use]
    pub fn all(snaplen: u32) -> Self {
        let program = vec![(RETURN, 0, 0, snaplen)];
        Self { text: None, snaplen, ethernet: program.clone(), raw: program }
    }

    /// What `text` says.
    ///
    /// # Errors
    /// If tcpdump does not understand it, or is not there.
    pub fn compile(text: &str, snaplen: u32) -> Result<Self> {
        let ethernet = program(text, "EN10MB", snaplen)?;
        // What only Ethernet has, an Ethernet address or ARP, passes no device without it.
        let raw = program(text, "RAW", snaplen).or_else(|e| match e.kind() {
            Kind::Usage => Ok(vec![(RETURN, 0, 0, 0)]),
            Kind::Failed | Kind::LabFile | Kind::Environment | Kind::Kernel | Kind::Bug => Err(e),
        })?;
        Ok(Self { text: Some(text.to_owned()), snaplen, ethernet, raw })
    }
}

fn program(text: &str, link_type: &str, snaplen: u32) -> Result<Vec<Instruction>> {
    let mut command = Command::new("tcpdump");
    // `--`: the expression is no option.
    command.args(["-ddd", "-y", link_type, "-s", &snaplen.to_string(), "--", text]).env("LC_ALL", "C");
    let ended = process::run_within(&mut command, PATIENCE)
        .map_err(|e| e.hint("filters are compiled by tcpdump: install it, or capture without a filter"))?;
    let said = String::from_utf8_lossy(&ended.stderr);
    let wrong = || Error::usage(format!("tcpdump does not understand the filter `{text}`"));
    match ended.status {
        Some(0) => parse(&String::from_utf8_lossy(&ended.stdout))
            .ok_or_else(|| Error::new(Kind::Environment, "tcpdump -ddd printed no program")),
        Some(_) => Err(match said.lines().last() {
            Some(line) => wrong().because(line.trim_start_matches("tcpdump: ")),
            None => wrong(),
        }),
        None => Err(Error::environment(format!("tcpdump does not end in {PATIENCE:?}"))),
    }
}

/// What `tcpdump -ddd` prints: how many instructions, and each as four numbers.
fn parse(text: &str) -> Option<Vec<Instruction>> {
    let mut lines = text.lines();
    let count: usize = lines.next()?.trim().parse().ok()?;
    let program: Option<Vec<Instruction>> = lines.map(instruction).collect();
    program.filter(|p| p.len() == count && count > 0)
}

fn instruction(line: &str) -> Option<Instruction> {
    let mut words = line.split_whitespace();
    let whole = (
        words.next()?.parse().ok()?,
        words.next()?.parse().ok()?,
        words.next()?.parse().ok()?,
        words.next()?.parse().ok()?,
    );
    words.next().is_none().then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_as_tcpdump_prints_it() {
        let text = "4\n40 0 0 12\n21 0 1 2048\n6 0 0 262144\n6 0 0 0\n";
        let program = parse(text).unwrap();
        assert_eq!(program, [(40, 0, 0, 12), (21, 0, 1, 2048), (6, 0, 0, 262_144), (6, 0, 0, 0)]);
        for bad in ["", "0\n", "2\n6 0 0 0\n", "1\n6 0 0\n", "1\n6 0 0 0 0\n", "1\n6 0 256 0\n"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
