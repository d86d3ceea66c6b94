//! Which module may use which: the pure stages import nothing that does I/O, and only the command line prints.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What each module may import of the crate. A module that is not here may not exist.
const ALLOWED: [(&str, &[&str]); 26] = [
    ("error", &["spec"]),
    ("spec", &["error", "model", "spec"]),
    ("expand", &["expand", "model", "spec"]),
    ("model", &["error", "expand", "model", "packet", "routing", "spec"]),
    ("routing", &["model", "routing"]),
    ("graph", &["graph", "model", "routing"]),
    ("names", &["error", "lab", "model", "names", "sys"]),
    (
        "plan",
        &[
            "error",
            "fastpath",
            "isis",
            "model",
            "names",
            "packet",
            "plan",
            "recursion",
            "routing",
            "shape",
            "strands",
        ],
    ),
    ("packet", &["packet"]),
    ("shape", &["model", "shape"]),
    ("recursion", &["error", "lab", "netlink", "recursion", "routing", "sys"]),
    ("sys", &["sys"]),
    ("netlink", &["error", "netlink", "packet", "plan", "sys"]),
    ("process", &["error", "process", "sys"]),
    ("apply", &["apply", "error", "lab", "netlink", "plan", "process", "sys"]),
    ("capture", &["capture", "error", "lab", "netlink", "packet", "process", "sys"]),
    ("fastpath", &["error", "fastpath", "lab", "model", "netlink", "packet", "shape", "sys"]),
    ("isis", &["error", "lab", "packet", "sys"]),
    ("strands", &["error", "fastpath", "lab", "model", "netlink", "packet", "process", "sys"]),
    (
        "lab",
        &[
            "apply",
            "capture",
            "error",
            "fastpath",
            "isis",
            "lab",
            "model",
            "names",
            "netlink",
            "plan",
            "process",
            "recursion",
            "routing",
            "spec",
            "strands",
            "sys",
        ],
    ),
    (
        "observe",
        &[
            "capture", "error", "fastpath", "lab", "model", "netlink", "observe", "packet", "plan",
            "process", "routing", "shape", "sys",
        ],
    ),
    ("view", &["error", "graph", "lab", "model", "observe", "routing", "spec", "view"]),
    ("testing", &["error", "lab", "model", "observe", "process", "routing", "sys"]),
    ("cli", &["*"]),
    ("lib", &["*"]),
    ("main", &["cli"]),
];

/// Words that pure stages do not say: they would be I/O, clocks, chance or the environment.
const IMPURE: [&str; 9] = [
    "std::fs",
    "std::net::Tcp",
    "std::process",
    "std::thread",
    "std::env",
    "Instant::now",
    "SystemTime::now",
    "nix::",
    "libc::",
];
const PURE: [&str; 8] = ["spec", "expand", "routing", "plan", "packet", "model", "shape", "graph"];
/// Pure parts of modules that are not pure as a whole.
const PURE_PARTS: [&str; 3] = ["src/recursion/exchange", "src/capture/merge.rs", "src/capture/point.rs"];

fn is_pure(path: &Path, module: &str) -> bool {
    PURE.contains(&module) || PURE_PARTS.iter().any(|part| path.starts_with(part))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a source directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn module(path: &Path) -> String {
    let inside = path.strip_prefix("src").expect("under src");
    let first = inside.components().next().expect("a component").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The module's own code: comments and its unit tests left out.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("a source file");
    let text = text.split("#[cfg(test)]").next().unwrap_or("").to_owned();
    text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn all() -> Vec<(PathBuf, String, String)> {
    let mut found = Vec::new();
    sources(Path::new("src"), &mut found);
    found.sort();
    found.into_iter().map(|p| (p.clone(), module(&p), code(&p))).collect()
}

/// The modules named in `crate::a` and `use crate::{a, b}`.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => group.split('}').next().unwrap_or("").split(',').collect(),
            None => vec![rest],
        };
        for name in names {
            let word: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.push(word);
        }
    }
    found
}

#[test]
fn modules_import_only_what_they_may() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    let mut wrong = Vec::new();
    for (path, module, code) in all() {
        let Some(may) = allowed.get(module.as_str()) else {
            wrong.push(format!("{}: module `{module}` has no place in the layers", path.display()));
            continue;
        };
        for import in imports(&code) {
            if !may.contains(&"*") && !may.contains(&import.as_str()) {
                wrong.push(format!("{}: `{module}` may not import `{import}`", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_stages_do_no_io() {
    let mut wrong = Vec::new();
    for (path, module, code) in all() {
        for word in IMPURE.iter().filter(|w| is_pure(&path, &module) && code.contains(**w)) {
            wrong.push(format!("{}: `{word}` in a pure stage", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_command_line_prints_or_exits() {
    let mut wrong = Vec::new();
    for (path, module, code) in all() {
        for word in ["println!", "eprintln!", "print!", "eprint!", "dbg!", "process::exit"] {
            if module != "cli" && code.contains(word) {
                wrong.push(format!("{}: `{word}` outside src/cli", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
