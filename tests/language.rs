//! Labs under `fixtures/labs` use the language's corners: names that other tools take for booleans and numbers, ranges,
//! generators, parameters, templates, every form of links and nodes, YAML's own. They pass on each dataplane this machine
//! has. A lab under `fixtures/failing` has tests that must fail.

mod common;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use vilab::fastpath::Reason;
use vilab::spec::DROPPED_BY;

fn labs() -> Vec<PathBuf> {
    let entries = fs::read_dir("fixtures/labs").expect("fixtures/labs");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

#[test]
fn the_corners_of_the_language_hold() {
    for dataplane in common::dataplanes() {
        let output = common::run(common::vilab().args(["test", "--dataplane", dataplane]).args(labs()));
        println!("{output}");
    }
}

#[test]
fn a_flat_lab_is_the_same_lab() {
    let dir = tempfile::tempdir().expect("a directory");
    for file in labs() {
        let flat = common::run(common::vilab().arg("expand").arg(&file));
        let copy = dir.path().join("flat.yaml");
        fs::write(&copy, &flat).expect("the flat lab is written");
        assert_eq!(common::run(common::vilab().arg("expand").arg(&copy)), flat, "{}", file.display());
        let plan = |file| common::run(common::vilab().arg("plan").arg(file));
        assert_eq!(plan(&copy), plan(&file), "{}", file.display());
    }
}

#[test]
fn of_every_kind_of_test_a_wrong_one_fails() {
    for dataplane in common::dataplanes() {
        let output = common::vilab()
            .args(["test", "--json", "--dataplane", dataplane, "fixtures/failing/controls.yaml"])
            .output()
            .expect("vilab runs");
        assert_eq!(output.status.code(), Some(1));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let tests = report["labs"][0]["tests"].as_array().expect("tests");
        assert!(tests.len() > 60);
        for test in tests {
            let fails = test["name"].as_str().is_some_and(|name| name.starts_with("fails: "));
            assert_eq!(test["passed"].as_bool(), Some(!fails), "{dataplane}: {test:#}");
        }
    }
}

fn from_stdin(command: &str, text: &[u8]) -> Output {
    let mut child = common::vilab()
        .args([command, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("vilab runs");
    child.stdin.take().expect("a pipe").write_all(text).expect("vilab reads");
    child.wait_with_output().expect("vilab ends")
}

#[test]
fn standard_input_is_a_lab_file_with_any_line_ends() {
    let text = fs::read_to_string("fixtures/labs/yaml.yaml").expect("a lab");
    let plan = common::run(common::vilab().args(["plan", "fixtures/labs/yaml.yaml"]));
    let other = format!("\u{feff}{}", text.replace('\n', "\r\n"));
    for text in [text, other] {
        let output = from_stdin("plan", text.as_bytes());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout), plan);
    }
    let wrong = from_stdin("check", b"name: x\nbase: {link: [X -- Y]}\n");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains(" --> -:2:8"));
}

#[test]
fn bytes_that_are_no_text_are_shown_where_they_are() {
    for (bytes, said) in [
        (b"name: x\nbase: {links: [Z\xfcrich -- Basel]}\n".as_slice(), [" --> -:2:17", "0xfc", "not UTF-8"]),
        (b"\xff\xfen\0a\0m\0e\0".as_slice(), [" --> -:1:1", "0xff", "UTF-16"]),
    ] {
        let output = from_stdin("check", bytes);
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(said.iter().all(|words| text.contains(words)), "{text}");
    }
}

#[test]
fn an_app_without_a_name_leaves_the_names_that_others_are_given() {
    let lab = "
name: t
base: {links: [X -- Y]}
apps:
  - {at: X, run: sleep 1}
  - {at: X, run: sleep 1, name: sleep.2}
  - {at: Y, run: sleep 1, name: sleep}
  - {at: Y, run: /bin/sleep 1}
";
    let lab = vilab::model::parse(Path::new("t.yaml"), lab).expect("a good lab");
    let names: Vec<&str> = lab.apps.iter().map(|app| app.name.as_str()).collect();
    assert_eq!(names, ["sleep.3", "sleep.2", "sleep", "sleep.4"]);
}

#[test]
fn the_word_null_is_a_name_where_names_stand() {
    let lab = "
name: t
base: {nodes: [null, X], links: [null -- X, {line: [X, null]}]}
vis:
  null: {nodes: {null: X, a: \"null\"}, links: [a -- null]}
tests:
  - ping: null/a -> null/null
";
    let lab = vilab::model::parse(Path::new("t.yaml"), lab).expect("a good lab");
    let names = lab.networks.iter().flat_map(|net| net.nodes.iter().map(|node| node.name.as_str()));
    assert_eq!(names.collect::<Vec<_>>(), ["null", "X", "null", "a"]);
    for nothing in ["nodes: [~]", "nodes: {~: }", "nodes:\n  -", "links: [{line: [X, ~]}]"] {
        let text = format!("name: t\nbase:\n  {nothing}\n");
        assert!(vilab::model::parse(Path::new("t.yaml"), &text).is_err(), "{text}");
    }
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    let output = common::vilab()
        .args(["expand", "fixtures/labs/names.yaml"])
        .stdout(full)
        .output()
        .expect("vilab runs");
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write to standard output"));
}

#[test]
fn tests_name_the_reasons_for_which_packets_are_dropped() {
    let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(reasons, DROPPED_BY);
}
