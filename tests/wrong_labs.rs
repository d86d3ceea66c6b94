//! Each wrong lab under `fixtures/wrong` gives exactly the errors that stand beside it. `VILAB_BLESS=1` writes them.

use std::path::{Path, PathBuf};

use vilab::error::Kind;
use vilab::lab;

fn fixtures() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir("fixtures/wrong")
        .expect("fixtures/wrong")
        .map(|entry| entry.expect("an entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "yaml"))
        .collect();
    found.sort();
    found
}

fn output(path: &Path) -> String {
    let error = lab::load(path).expect_err("a wrong lab must not load");
    assert_eq!(error.kind(), Kind::LabFile);
    let report = error.report().expect("errors of a lab file come with a report");
    format!("{}\n\nerror: {error}\n", report.render(false))
}

#[test]
fn each_wrong_lab_gives_its_exact_errors() {
    let bless = std::env::var_os("VILAB_BLESS").is_some();
    let mut wrong = Vec::new();
    for path in fixtures() {
        let (golden, got) = (path.with_extension("txt"), output(&path));
        if bless {
            std::fs::write(&golden, &got).expect("the golden file is writable");
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if got != expected {
            wrong.push(format!("{}\n--- expected\n{expected}\n--- got\n{got}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn there_are_at_least_twenty_wrong_labs() {
    assert!(fixtures().len() >= 20);
}
