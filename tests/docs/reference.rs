//! The pages of reference, against the program: its help, its JSON, the texts of its errors, its exit codes. They are read
//! from the sources and from the program as built; nothing here knows them by heart.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::common;
use crate::page::Page;

/// The page of the command line.
pub(crate) const CLI: &str = "docs/cli.md";

fn page(path: &str) -> Page {
    let text = std::fs::read_to_string(path).expect("a page");
    Page::new(path, &text).unwrap_or_else(|e| panic!("{e}"))
}

/// What the book is made of, as the script that makes it says.
pub(crate) fn book_files() -> Vec<String> {
    let script = std::fs::read_to_string("scripts/book").expect("scripts/book");
    let line = script.lines().find_map(|l| l.strip_prefix("readonly parts=(")?.strip_suffix(')'));
    line.expect("scripts/book says what the book is made of").split_whitespace().map(str::to_owned).collect()
}

fn help(words: &[&str]) -> String {
    let mut command = common::vilab();
    // As wide as where there is no terminal.
    command.args(words).arg("--help").stdin(Stdio::null()).env_remove("COLUMNS");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("VILAB_")) {
        command.env_remove(name);
    }
    common::run(&mut command).trim_end().lines().map(|l| l.trim_end().to_owned() + "\n").collect()
}

/// The names of all commands, those for users.
fn commands() -> Vec<String> {
    let help = help(&[]);
    let list = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("commands");
    let word =
        |line: &str| line.strip_prefix("  ")?.split(' ').next().filter(|w| !w.is_empty()).map(str::to_owned);
    list.lines().filter_map(word).filter(|name| name != "help").collect()
}

#[test]
fn the_command_line_is_what_help_says() {
    let old = std::fs::read_to_string(CLI).expect("the page");
    let begin = "<!-- from here on: vilab --help -->\n";
    let head = old.split(begin).next().expect("a head");
    let mut text = format!("{head}{begin}\n## `vilab`\n\n```text\n{}```\n", help(&[]));
    for name in commands() {
        write!(text, "\n## `vilab {name}`\n\n```text\n{}```\n", help(&[&name])).expect("text");
    }
    if std::env::var_os("VILAB_BLESS").is_some() {
        std::fs::write(CLI, &text).expect("the page is writable");
        return;
    }
    assert!(old == text, "{CLI} is not what --help says: VILAB_BLESS=1 writes it");
}

#[test]
fn commands_that_prose_names_are_there() {
    let known = commands();
    let mut wrong = Vec::new();
    for page in crate::pages() {
        for (at, code) in page.code() {
            let Some(rest) = code.strip_prefix("vilab ") else { continue };
            let word = rest.split_whitespace().next().unwrap_or_default();
            let alias = ["deploy", "destroy", "connect", "ps", "inspect"].contains(&word);
            let is_word = word.chars().all(|c| c.is_ascii_lowercase());
            if is_word && !alias && !known.iter().any(|k| k == word) {
                wrong.push(format!("{}:{}: `{code}`", page.name, at + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "no such commands:\n{}", wrong.join("\n"));
}

/// Every file of the program's source.
fn sources() -> Vec<String> {
    let mut dirs = vec![PathBuf::from("src")];
    let mut texts = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                texts.push(std::fs::read_to_string(path).expect("a source"));
            }
        }
    }
    texts
}

/// Text in quotes, with `…` for what is filled in, and without the line ends and quotes that Rust escapes.
fn literals(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut chars = source.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '"' {
            continue;
        }
        let mut text = String::new();
        while let Some(c) = chars.next() {
            match c {
                '"' => break,
                '\\' if chars.peek() == Some(&'\n') => {
                    while chars.next_if(|c| c.is_whitespace()).is_some() {}
                }
                '\\' => text.extend(chars.next()),
                '{' => {
                    while chars.next_if(|c| *c != '}' && *c != '"').is_some() {}
                    chars.next_if_eq(&'}');
                    text.push('…');
                }
                c => text.push(c),
            }
        }
        found.push(text);
    }
    found
}

#[test]
fn errors_that_are_explained_are_the_programs_own() {
    let page = page("docs/troubleshooting.md");
    let known: Vec<String> = sources().iter().flat_map(|s| literals(s)).collect();
    let quoted: Vec<&str> = page.headings().filter_map(|h| h.strip_prefix('`')?.strip_suffix('`')).collect();
    assert!(quoted.len() > 30, "{quoted:?}");
    let unknown: Vec<&&str> = quoted.iter().filter(|q| !known.iter().any(|k| k.contains(**q))).collect();
    assert!(unknown.is_empty(), "no source has {unknown:#?}");
}

#[test]
fn every_rule_of_lab_files_is_explained() {
    let page = page("docs/troubleshooting.md");
    let mut rules = BTreeSet::new();
    for entry in std::fs::read_dir("fixtures/wrong").expect("fixtures") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "txt") {
            let text = std::fs::read_to_string(path).expect("a fixture");
            let rule = |l: &str| Some(l.strip_prefix("error[")?.split_once(']')?.0.to_owned());
            rules.extend(text.lines().filter_map(rule));
        }
    }
    let row = |rule: &str| page.lines.iter().any(|l| l.starts_with(&format!("| `{rule}` |")));
    let missing: Vec<&String> = rules.iter().filter(|rule| !row(rule)).collect();
    assert!(rules.len() > 15 && missing.is_empty(), "docs/troubleshooting.md lacks rows for {missing:?}");
}

#[test]
fn exit_codes_are_those_of_the_program() {
    let source = std::fs::read_to_string("src/cli/mod.rs").expect("the command line");
    let page = page("docs/exit-codes.md");
    for code in ["0", "1", "2", "3", "4", "5", "70"] {
        assert!(source.contains(&format!(" {code};")) || source.contains(&format!("=> {code},")), "{code}");
        assert!(page.lines.iter().any(|l| l.starts_with(&format!("| {code} |"))), "{code} is not explained");
    }
}

/// The fields of a schema as the page has them: rows of the table below its heading.
fn documented(page: &Page, schema: &str) -> Vec<(String, bool)> {
    let mut rows = Vec::new();
    let mut inside = false;
    for line in &page.lines {
        if line.starts_with('#') {
            inside = line.contains(&format!("`{schema}`"));
        }
        let row = line.strip_prefix("| `").and_then(|l| l.split_once("` |"));
        if let (true, Some((field, said))) = (inside, row) {
            rows.push((field.to_owned(), said.trim_start().starts_with("where")));
        }
    }
    rows
}

/// The paths of all fields: `nodes[].name`.
fn paths(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                found.insert(path.clone());
                paths(value, &path, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| paths(item, &format!("{at}[]"), found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (),
    }
}

#[test]
fn every_schema_is_documented() {
    let page = page("docs/json.md");
    let is_schema = |text: &String| {
        let version = text.strip_prefix("vilab.").and_then(|rest| rest.split_once('/'));
        version
            .is_some_and(|(name, n)| name.chars().all(|c| c.is_ascii_lowercase()) && n.parse::<u32>().is_ok())
    };
    // What a lab keeps of itself is for nobody else.
    let schemas: BTreeSet<String> = sources()
        .iter()
        .flat_map(|s| literals(s))
        .filter(is_schema)
        .filter(|s| s != "vilab.state/1")
        .collect();
    assert!(schemas.len() > 10, "{schemas:?}");
    let missing: Vec<_> =
        schemas.iter().filter(|s| !page.headings().any(|h| h.contains(&format!("`{s}`")))).collect();
    assert!(missing.is_empty(), "docs/json.md lacks {missing:?}");
}

#[test]
fn fields_of_json_are_documented() {
    let Some(bench) = common::bench::Bench::new() else { return };
    let lab = "labs/recursion.yaml";
    bench.ok(&["up", lab]);
    let page = page("docs/json.md");
    let wrong_lab = "fixtures/wrong/unknown-node.yaml";
    let outputs: [&[&str]; 14] = [
        &["up", "labs/figure-09-header.yaml"],
        &["status"],
        &["down", "figure-09"],
        &["status"],
        &["rules"],
        &["resolve", "nodeA", "nodeB"],
        &["trace", "nodeA", "nodeB"],
        &["wait"],
        &["check", lab, wrong_lab],
        &["plan", lab],
        &["apply", lab],
        &["doctor"],
        &["impair", "X -- Y", "--delay", "1ms"],
        &["test", "labs/figure-09-header.yaml"],
    ];
    let mut wrong = Vec::new();
    for words in outputs {
        if words[0] == "down" {
            bench.ok(words);
            continue;
        }
        let output = bench.command(words).arg("--json").output().expect("it runs");
        let value: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{words:?}: {e}"));
        let schema = value["schema"].as_str().expect("a schema");
        let documented = documented(&page, schema);
        let (mut found, mut open) = (BTreeSet::new(), BTreeSet::new());
        paths(&value, "", &mut found);
        // `roles.*`: whose keys are names.
        open.extend(documented.iter().filter_map(|(field, _)| field.strip_suffix(".*")));
        let covered = |path: &String| {
            documented.iter().any(|(field, _)| field == path)
                || open
                    .iter()
                    .any(|o| path.strip_prefix(o).is_some_and(|r| r.is_empty() || r.starts_with(['.', '['])))
        };
        wrong.extend(
            found.iter().filter(|p| *p != "schema" && !covered(p)).map(|p| format!("{schema} has {p}")),
        );
        let gone = documented
            .iter()
            .filter(|(field, optional)| !optional && !found.contains(field.trim_end_matches(".*")));
        wrong.extend(gone.map(|(field, _)| format!("{schema} has no {field}")));
        if std::env::var_os("VILAB_BLESS").is_some() {
            println!("{schema} {}: {found:#?}", words.join(" "));
        }
    }
    assert!(wrong.is_empty(), "docs/json.md: {}", wrong.join("\n"));
    assert!(Path::new("docs/test-results.schema.json").exists());
}
