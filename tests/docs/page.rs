//! A page of the documentation goes in, as text; its fenced blocks, its commands with what they print, its links and
//! headings come out. It never reads a file and never runs anything.

use std::ops::Range;

/// What stands for anything: within a line for any text, alone on a line for any number of lines.
pub(crate) const ANYTHING: char = '…';

/// A fenced block. Lines count from 0; `body` leaves the fences out.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) info: String,
    /// Spaces before the fences: a block in a list has some.
    pub(crate) indent: usize,
    pub(crate) body: Range<usize>,
}

/// What becomes of a block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    /// A transcript: its commands are run in order.
    Run,
    /// A transcript that no test can run.
    NotRun,
    /// A file that commands below use.
    File(&'a str),
    /// Anything that is no command.
    Other,
}

impl Block {
    pub(crate) fn kind(&self) -> Kind<'_> {
        let mut words = self.info.split_whitespace();
        match (words.next(), words.next()) {
            (Some("console"), None) => Kind::Run,
            (Some("console"), Some("not-run")) => Kind::NotRun,
            (_, Some(word)) => word.strip_prefix("file=").map_or(Kind::Other, Kind::File),
            _ => Kind::Other,
        }
    }
}

/// A command of a transcript, and the lines below it that it prints.
#[derive(Debug)]
pub(crate) struct Step {
    /// The line of the page at which it stands, from 0.
    pub(crate) line: usize,
    pub(crate) command: String,
    pub(crate) shown: Range<usize>,
}

#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) name: String,
    pub(crate) lines: Vec<String>,
    pub(crate) blocks: Vec<Block>,
}

impl Page {
    pub(crate) fn new(name: &str, text: &str) -> Result<Self, String> {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let mut blocks = Vec::new();
        let mut open: Option<(String, usize, usize)> = None;
        for (at, line) in lines.iter().enumerate() {
            let Some(info) = line.trim_start().strip_prefix("```") else { continue };
            open = match open {
                Some((info, indent, start)) => {
                    blocks.push(Block { info, indent, body: start..at });
                    None
                }
                None => Some((info.trim().to_owned(), line.len() - line.trim_start().len(), at + 1)),
            };
        }
        match open {
            Some((.., start)) => Err(format!("{name}:{start}: this block has no end")),
            None => Ok(Self { name: name.to_owned(), lines, blocks }),
        }
    }

    pub(crate) fn text(&self, range: Range<usize>) -> String {
        self.lines[range].join("\n")
    }

    /// The commands of a transcript: what follows `$ `, continued by lines that begin with `> `.
    pub(crate) fn steps(&self, block: &Block) -> Result<Vec<Step>, String> {
        let mut steps: Vec<Step> = Vec::new();
        for at in block.body.clone() {
            let line = self.lines[at].get(block.indent..).unwrap_or_default();
            if let Some(command) = line.strip_prefix("$ ") {
                steps.push(Step { line: at, command: command.to_owned(), shown: at + 1..at + 1 });
                continue;
            }
            let Some(step) = steps.last_mut() else {
                return Err(format!("{}:{}: a transcript begins with `$ `", self.name, at + 1));
            };
            match line.strip_prefix("> ") {
                Some(more) if step.shown.is_empty() => {
                    step.command = format!("{}\n{more}", step.command);
                    step.shown = at + 1..at + 1;
                }
                _ => step.shown.end = at + 1,
            }
        }
        Ok(steps)
    }

    /// What a command prints, without blank lines at the end.
    pub(crate) fn shown(&self, step: &Step) -> &[String] {
        let lines = &self.lines[step.shown.clone()];
        let end = lines.iter().rposition(|l| !l.trim().is_empty()).map_or(0, |last| last + 1);
        &lines[..end]
    }

    /// Lines that are prose, with their numbers.
    pub(crate) fn prose(&self) -> impl Iterator<Item = (usize, &str)> {
        let in_block = |at: usize| self.blocks.iter().any(|b| (b.body.start - 1..=b.body.end).contains(&at));
        self.lines.iter().enumerate().filter(move |(at, _)| !in_block(*at)).map(|(at, l)| (at, l.as_str()))
    }

    /// Where links of the page lead, with the lines they stand on.
    pub(crate) fn links(&self) -> Vec<(usize, String)> {
        let mut links = Vec::new();
        for (at, line) in self.prose() {
            let line = without_code(line);
            for part in line.split("](").skip(1) {
                if let Some((target, _)) = part.split_once(')') {
                    links.push((at, target.to_owned()));
                }
            }
        }
        links
    }

    pub(crate) fn headings(&self) -> impl Iterator<Item = &str> {
        self.prose().filter(|(_, l)| l.starts_with('#')).map(|(_, l)| l.trim_start_matches('#').trim())
    }

    /// Whether a heading has this anchor.
    pub(crate) fn has_anchor(&self, anchor: &str) -> bool {
        self.headings().any(|heading| anchor_of(heading) == anchor)
    }

    /// What `<!-- needs: … -->` names: programs without which the page's commands cannot run.
    pub(crate) fn needs(&self) -> impl Iterator<Item = &str> {
        self.lines
            .iter()
            .filter_map(|l| l.strip_prefix("<!-- needs: ")?.strip_suffix(" -->"))
            .flat_map(str::split_whitespace)
    }

    /// What stands between backquotes, with the lines.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.prose().flat_map(|(at, line)| line.split('`').skip(1).step_by(2).map(move |code| (at, code)))
    }
}

fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

/// The anchor that forges and mdBook give a heading.
fn anchor_of(heading: &str) -> String {
    let plain = heading.replace('`', "").to_lowercase();
    plain
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | ' '))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// Whether lines are as shown.
pub(crate) fn matches(shown: &[String], printed: &[&str]) -> bool {
    let Some((first, rest)) = shown.split_first() else { return printed.is_empty() };
    if first.trim() == ANYTHING.to_string() {
        return (0..=printed.len()).any(|skipped| matches(rest, &printed[skipped..]));
    }
    let Some((line, below)) = printed.split_first() else { return false };
    let pattern = wildmatch::WildMatchPattern::<ANYTHING, '\u{0}'>::new(first.trim_end());
    pattern.matches(line.trim_end()) && matches(rest, below)
}

#[test]
fn patterns_match_what_they_should() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let is = |shown: &str, printed: &str| matches(&lines(shown), &printed.lines().collect::<Vec<_>>());
    assert!(is("a … c\n…\nz", "a b c\nd\ne\nz"));
    assert!(is("a\n…", "a") && is("…", "") && is("a…", "a  "));
    assert!(!is("a", "a\nb") && !is("a\nb", "a") && !is("a … c", "a b d") && !is("…\nz", "y"));
}

#[test]
fn transcripts_are_read_as_they_are_written() {
    let text = "```console\n$ cat <<X\n> one\n> X\none\n$ true\n```\n```console not-run\n$ docker\n```\n\
                ```yaml file=a.yaml\n```\n`](no)` [yes](to#x)\n";
    let page = Page::new("p", text).unwrap();
    let steps = page.steps(&page.blocks[0]).unwrap();
    assert_eq!(steps[0].command, "cat <<X\none\nX");
    assert_eq!((page.text(steps[0].shown.clone()), steps[1].line), ("one".to_owned(), 5));
    let kinds: Vec<_> = page.blocks.iter().map(Block::kind).collect();
    assert_eq!(kinds, [Kind::Run, Kind::NotRun, Kind::File("a.yaml")]);
    assert_eq!(page.links(), [(12, "to#x".to_owned())]);
    assert!(Page::new("p", "```\n").is_err());
    assert_eq!(anchor_of("`vilab up`: what, and why?"), "vilab-up-what-and-why");
}
