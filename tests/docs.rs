//! The documentation holds: every command of README.md, docs/ and labs/ is run and prints what the page shows, every link
//! leads somewhere, every page is in the book, and the reference says what the program says. `VILAB_BLESS=1` writes what
//! commands print into the pages, and what the program says of itself into the reference; CONTRIBUTING.md has the rules.

mod common;
#[path = "docs/page.rs"]
mod page;
#[path = "docs/reference.rs"]
mod reference;
#[path = "docs/session.rs"]
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use page::{Kind, Page};
use session::Done;

/// How the commands begin that no test can run, and why. Each must stand somewhere in a `console not-run` block, and nothing
/// else may.
const NOT_RUN: &[(&str, &str)] = &[
    ("cargo install", "compiles the program anew"),
    ("cargo build", "compiles the program anew"),
    ("scripts/bench-", "measures, for minutes"),
    ("cargo run", "compiles the program anew"),
    ("make test", "runs this test"),
    ("sudo ", "changes the machine"),
    ("docker ", "needs a container engine"),
];

/// The table of contents.
const SUMMARY: &str = "docs/SUMMARY.md";

/// Pages at work at once: most of the time they wait.
const AT_ONCE: usize = 6;

#[must_use]
fn bless() -> bool {
    std::env::var_os("VILAB_BLESS").is_some()
}

/// Every page, by its path from the top of the project.
fn pages() -> Vec<Page> {
    let mut paths: Vec<PathBuf> =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(PathBuf::from).to_vec();
    let mut dirs = vec![PathBuf::from("docs"), PathBuf::from("labs")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("a directory of pages") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Page {
    let text = std::fs::read_to_string(path).expect("a page");
    Page::new(&path.to_string_lossy(), &text).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_command_works_and_prints_what_the_page_shows() {
    if !common::can("netns") {
        return;
    }
    let only = std::env::var("VILAB_PAGE").unwrap_or_default();
    let mut pages: Vec<Page> = pages().into_iter().filter(|p| p.name.contains(&only) && runs(p)).collect();
    // Those that wait for routing protocols take longest.
    pages.sort_by_key(|p| !p.needs().any(|need| need == "frr"));
    let (next, wrong) = (AtomicUsize::new(0), std::sync::Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(pages.len()) {
            scope.spawn(|| {
                while let Some(page) = pages.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = judge(page);
                    if !found.is_empty() {
                        wrong.lock().expect("no thread has failed").insert(&page.name, found);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no thread has failed");
    let report: Vec<String> = wrong.into_values().flatten().collect();
    assert!(report.is_empty(), "{} commands are not as shown\n{}", report.len(), report.join("\n"));
}

/// Whether a page has commands, and this machine the programs that they need.
fn runs(page: &Page) -> bool {
    let required = std::env::var("VILAB_REQUIRE").is_ok_and(|r| r.contains("netns"));
    let missing: Vec<&str> = page.needs().filter(|need| !has(need)).collect();
    assert!(missing.is_empty() || !required, "{} needs {missing:?}", page.name);
    if !missing.is_empty() {
        eprintln!("SKIPPED: {} needs {missing:?}", page.name);
    }
    missing.is_empty() && page.blocks.iter().any(|b| b.kind() == Kind::Run)
}

fn has(program: &str) -> bool {
    if program == "frr" {
        return common::can("frr");
    }
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|dir| Path::new(dir).join(program).exists())
}

/// What is not as the page shows it.
fn judge(page: &Page) -> Vec<String> {
    let started = std::time::Instant::now();
    let done = match session::run(page) {
        Ok(done) => done,
        Err(e) => return vec![e],
    };
    eprintln!("{}: {} commands, {:.1} s", page.name, done.len(), started.elapsed().as_secs_f64());
    if bless() {
        return write(page, &done);
    }
    done.iter().filter_map(|d| difference(page, d)).collect()
}

fn difference(page: &Page, done: &Done) -> Option<String> {
    let place = format!("{}:{}: {}", page.name, done.step.line + 1, done.step.command);
    match done.status {
        None => return Some(format!("{place}\n--- was not reached")),
        Some(0) => (),
        Some(status) => return Some(format!("{place}\n--- exit status {status}\n{}", done.printed)),
    }
    let shown = page.shown(&done.step);
    let printed: Vec<&str> = done.printed.trim_end().lines().collect();
    // The kernel takes up to a second to say of a route that its device has a carrier now.
    let later: Vec<&str> = printed.iter().map(|l| l.trim_end().trim_end_matches(" linkdown")).collect();
    if shown.is_empty() || page::matches(shown, &printed) || page::matches(shown, &later) {
        return None;
    }
    Some(format!("{place}\n--- shown\n{}\n--- printed\n{}", shown.join("\n"), done.printed))
}

/// Puts what was printed in place of what is not as shown; lines that match stay as they are shown.
fn write(page: &Page, done: &[Done]) -> Vec<String> {
    let mut lines = page.lines.clone();
    let mut failed = Vec::new();
    for done in done.iter().rev().filter(|d| difference(page, d).is_some()) {
        if done.status != Some(0) {
            failed.extend(difference(page, done));
            continue;
        }
        let shown = page.shown(&done.step);
        let printed: Vec<&str> = done.printed.trim_end().lines().collect();
        let as_shown = |at: usize| shown.get(at).filter(|_| shown.len() == printed.len());
        let kept = |(at, line): (usize, &&str)| match as_shown(at) {
            Some(shown) if page::matches(std::slice::from_ref(shown), &[*line]) => shown.clone(),
            _ => line.trim_end().to_owned(),
        };
        let new: Vec<String> = printed.iter().enumerate().map(kept).collect();
        lines.splice(done.step.shown.clone(), new);
    }
    std::fs::write(&page.name, lines.join("\n") + "\n").expect("the page is writable");
    failed
}

#[test]
fn no_command_stands_outside_of_transcripts_and_nothing_slips_by_unrun() {
    let mut wrong = Vec::new();
    let mut met = BTreeSet::<&str>::new();
    for page in pages() {
        for block in &page.blocks {
            match block.kind() {
                Kind::Run if block.indent > 0 => {
                    wrong.push(format!("{}:{}: what is run is not indented", page.name, block.body.start));
                }
                Kind::Run => wrong.extend(page.steps(block).err()),
                Kind::NotRun => {
                    for step in page.steps(block).unwrap_or_else(|e| panic!("{e}")) {
                        let known = NOT_RUN.iter().find(|(begins, _)| step.command.starts_with(begins));
                        met.extend(known.map(|(begins, _)| *begins));
                        if known.is_none() {
                            wrong.push(format!(
                                "{}:{}: can be run: {}",
                                page.name,
                                step.line + 1,
                                step.command
                            ));
                        }
                    }
                }
                // What `--help` prints, examples included.
                Kind::Other if page.name == reference::CLI => {}
                Kind::File(_) | Kind::Other => {
                    let shell = ["sh", "bash", "shell"].contains(&block.info.as_str());
                    for at in block.body.clone().filter(|at| shell || is_command(&page.lines[*at])) {
                        let line = &page.lines[at];
                        wrong.push(format!("{}:{}: not in a `console` block: {line}", page.name, at + 1));
                    }
                }
            }
        }
    }
    let unmet = NOT_RUN.iter().filter(|(begins, _)| !met.contains(begins));
    wrong.extend(unmet.map(|(begins, _)| format!("no page says `{begins}`")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether a line looks like one to type.
fn is_command(line: &str) -> bool {
    let line = line.trim_start();
    let typed = line.strip_prefix("$ ").unwrap_or(line);
    // A line of TOML begins with the name, too.
    let assigned = typed.split_whitespace().nth(1) == Some("=");
    line.starts_with("$ ")
        || !assigned && ["vilab ", "sudo ", "cargo ", "docker "].iter().any(|p| typed.starts_with(p))
}

#[test]
fn links_lead_somewhere_also_in_the_book() {
    let pages: BTreeMap<String, Page> = pages().into_iter().map(|p| (p.name.clone(), p)).collect();
    let in_book = reference::book_files();
    let mut wrong = Vec::new();
    for page in pages.values().filter(|p| p.name != SUMMARY) {
        for (at, link) in page.links() {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { page.name.clone() } else { beside(&page.name, file) };
            let place = format!("{}:{}: {link}", page.name, at + 1);
            let is_page = !target.ends_with(".md") || pages.contains_key(&target) && target != SUMMARY;
            if !Path::new(&target).is_file() {
                wrong.push(format!("{place}: there is no file {target}"));
            } else if !is_page {
                wrong.push(format!("{place}: {target} is no page of the book"));
            } else if !in_book.iter().any(|top| target == *top || target.starts_with(&format!("{top}/"))) {
                wrong.push(format!("{place}: {target} is not in the book (scripts/book)"));
            } else if !anchor.is_empty() && !pages.get(&target).is_some_and(|p| p.has_anchor(anchor)) {
                wrong.push(format!("{place}: {target} has no such heading"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Where a link of a page leads, from the top of the project.
fn beside(page: &str, link: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => (),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

#[test]
fn every_page_is_in_the_book_once() {
    let summary = read(Path::new(SUMMARY));
    let listed: Vec<String> = summary.links().iter().map(|(_, link)| beside(SUMMARY, link)).collect();
    let mut wrong: Vec<String> = pages()
        .iter()
        .filter(|p| p.name != SUMMARY && !listed.contains(&p.name))
        .map(|p| format!("{SUMMARY} lacks {}: add a line for it, or the book has no such page", p.name))
        .collect();
    wrong.extend(
        listed.iter().filter(|l| !Path::new(l).is_file()).map(|l| format!("{SUMMARY}: there is no {l}")),
    );
    let mut seen = BTreeSet::new();
    wrong.extend(listed.iter().filter(|l| !seen.insert(*l)).map(|l| format!("{SUMMARY} has {l} twice")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
