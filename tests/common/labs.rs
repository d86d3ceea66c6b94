//! The labs of the project, for tests that need no machine to run them on.

use std::path::PathBuf;

#[must_use]
pub(crate) fn labs() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["labs", "labs/mixed"]
        .iter()
        .flat_map(|dir| std::fs::read_dir(dir).expect("a directory of labs"))
        .map(|entry| entry.expect("an entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "yaml"))
        .collect();
    found.sort();
    found
}
