//! `vilab test` as its users see it: labs side by side, reports that their readers' own parsers take, what is left of a lab
//! that failed, and the grading of somebody else's lab.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what fails here fails the test; a skip must be seen"
)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const PASSES: &str = "
name: same
base: {links: [X -- Y]}
vis:
  v: {nodes: {a: X, b: Y}, links: [a -- b]}
tests:
  - ping: v/a -> v/b
";
const FAILS: &str = "
name: same
base: {links: [X -- Y]}
vis:
  v: {nodes: {a: X, b: Y}, links: [a -- b]}
apps:
  - {at: v/a, name: talker, run: [sh, -c, 'echo I have spoken; exec sleep 1000'], ready: {log: spoken}}
tests:
  - ping: v/a -> v/b
  - {name: 'a & b # \"c\"', ttl: {from: v/a, to: v/b, is: 63}}
  - down: X -- Y
  - ping: v/a -> v/b
";
const BROKEN: &str = "name: broken\nbase: {links: [X -- Y]}\nvis: {v: {nodes: {a: Q}}}\n";

/// A directory of its own, where labs keep their state too, so that nothing of other tests is seen.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Option<Self> {
        common::can("netns").then(|| Self { dir: tempfile::tempdir().unwrap() })
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn vilab(&self, args: &[&str]) -> Command {
        let mut command = common::vilab();
        let run = self.path("run");
        command.args(args).env("VILAB_RUNTIME_DIR", run).env_remove("GITHUB_STEP_SUMMARY");
        command
    }

    fn test(&self, args: &[&str], files: &[PathBuf]) -> Output {
        self.vilab(&["test"]).args(args).args(files).output().unwrap()
    }

    /// A lab that passes, one that fails, one that is wrong, and one that passes.
    fn mixed(&self) -> Vec<PathBuf> {
        let texts = [("1.yaml", PASSES), ("2.yaml", FAILS), ("3.yaml", BROKEN), ("4.yaml", PASSES)];
        texts.map(|(name, text)| self.file(name, text)).into()
    }

    fn labs(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("run")).map(|d| d.flatten().collect::<Vec<_>>());
        let names = entries.unwrap_or_default().into_iter().map(|e| e.file_name().into_string().unwrap());
        names.collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // The directory is this test's alone.
        let _down = self.vilab(&["down", "--all"]).output();
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Times left out.
fn timeless(text: &str) -> String {
    let mut words = text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    for word in &mut words {
        if word.trim_start_matches('(').parse::<f64>().is_ok() {
            "T".clone_into(word);
        }
    }
    words.join(" ")
}

#[test]
fn labs_side_by_side_say_the_same_as_one_after_the_other() {
    let Some(bench) = Bench::new() else { return };
    let files = bench.mixed();
    let [one, four] = ["1", "4"].map(|jobs| bench.test(&["--jobs", jobs], &files));
    assert_eq!(one.status.code(), Some(1), "{}", stderr(&one));
    assert_eq!(timeless(&stdout(&one)), timeless(&stdout(&four)));
    assert_eq!(stderr(&one), stderr(&four), "nothing but the error of the wrong lab, in a pipe");
    assert!(stderr(&one).contains("3.yaml:3:"), "{}", stderr(&one));
    let text = stdout(&one);
    let heads: Vec<&str> = text.lines().filter(|l| !l.starts_with(' ')).collect();
    assert_eq!(heads.len(), 4, "three labs that came up, and the sum: {text}");
    assert_eq!(heads[3], "4 of 6 tests of 4 labs passed; 1 lab could not be tested");
    assert!(bench.labs().is_empty(), "{:?}", bench.labs());
}

#[test]
fn reports_are_what_their_readers_parsers_take() {
    let Some(bench) = Bench::new() else { return };
    let (files, junit, page) = (bench.mixed(), bench.path("junit.xml"), bench.path("page.md"));
    let output = bench
        .vilab(&["test", "--tap", "--jobs", "4", "--junit"])
        .arg(&junit)
        .args(&files)
        .env("GITHUB_STEP_SUMMARY", &page)
        .output()
        .unwrap();
    check_tap(&bench, &stdout(&output));
    let xml = std::fs::read_to_string(junit).unwrap();
    let document = roxmltree::Document::parse(&xml).unwrap();
    let cases = |kind: &str| document.descendants().filter(|n| n.has_tag_name(kind)).count();
    assert_eq!(["testsuite", "testcase", "failure", "error"].map(cases), [4, 7, 2, 1]);
    let page = std::fs::read_to_string(page).unwrap();
    assert_eq!(page.matches("| ✅ |").count(), 2, "{page}");
    assert_eq!(page.matches("<details>").count(), 2, "{page}");
}

/// The protocol's own consumer, where there is one; its shape in any case.
fn check_tap(bench: &Bench, text: &str) {
    assert!(text.starts_with("TAP version 13\n1..7\n"), "{text}");
    if Command::new("prove").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("SKIPPED: this machine has no prove");
        return;
    }
    let file = bench.file("run.tap", text);
    let prove = Command::new("prove").args(["--exec", "cat"]).arg(file).output().unwrap();
    let said = stdout(&prove) + &stderr(&prove);
    assert!(said.contains("Failed tests:  3, 5-6") || said.contains("Failed 3/7 subtests"), "{said}");
    assert!(!said.contains("Parse errors"), "{said}");
}

#[test]
fn json_is_as_its_schema_says() {
    let Some(bench) = Bench::new() else { return };
    let schema = std::fs::read_to_string("docs/test-results.schema.json").unwrap();
    let validator = jsonschema::validator_for(&serde_json::from_str(&schema).unwrap()).unwrap();
    let expectations = grading("expectations.yaml");
    let graded = ["--json", "--expect", expectations.to_str().unwrap()];
    let bundles = bench.path("bundles");
    let plain = ["--json", "--jobs", "4", "--bundle", bundles.to_str().unwrap()];
    for (args, files) in [(&plain[..], bench.mixed()), (&graded[..], vec![grading("unfinished.yaml")])] {
        let output = bench.test(args, &files);
        let mut value: Value = serde_json::from_str(&stdout(&output)).expect("JSON alone on standard output");
        let errors: Vec<String> = validator.iter_errors(&value).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}\n{value:#}");
        value["labs"][0]["tests"][0]["passed"] = "yes".into();
        assert!(!validator.is_valid(&value), "the schema says something");
    }
}

#[test]
fn a_lab_that_failed_leaves_what_tells_why() {
    let Some(bench) = Bench::new() else { return };
    let (files, dir) = (bench.mixed(), bench.path("bundles"));
    let output = bench.test(&["--jobs", "4", "--bundle", dir.to_str().unwrap()], &files);
    let names: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "those that failed: {names:?}");
    let read = |name: &str| {
        std::fs::read_to_string(dir.join("2").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    };
    assert_eq!(read("lab.yaml"), FAILS);
    assert!(read("plan.txt").contains("ip ") && read("flat.yaml").contains("name: same"));
    assert!(read("routes.txt").starts_with("0 of "), "{}", read("routes.txt"));
    assert!(read("trace.txt").contains("a probe from v/a to v/b"), "{}", read("trace.txt"));
    assert!(read("links.txt").contains("v/a--b") && read("counters.txt").contains("base node"));
    assert!(read("logs/talker").contains("I have spoken"));
    assert!(read("report.txt").contains("FAIL") && stdout(&output).contains(dir.join("2").to_str().unwrap()));
    let wrong = std::fs::read_to_string(dir.join("3/report.txt")).unwrap();
    assert!(wrong.contains("3.yaml:3:"), "{wrong}");
    let again = bench.test(&["--jobs", "4", "--bundle", dir.to_str().unwrap()], &files[..1]);
    assert!(again.status.success() && !dir.join("1").exists());
}

#[test]
fn a_lab_is_kept_when_it_fails_and_says_how_to_go_on() {
    let Some(bench) = Bench::new() else { return };
    let files = [bench.file("good.yaml", PASSES), bench.file("bad.yaml", FAILS)];
    let output = bench.test(&["--keep-on-fail"], &files);
    let text = stdout(&output);
    let words: Vec<&str> = text.split(['`', '\n']).collect();
    let enter = words.iter().find(|w| w.starts_with("vilab shell -l ")).expect("how to enter");
    let leave = words.iter().find(|w| w.starts_with("vilab down ")).expect("how to take it down");
    let lab = leave.trim_start_matches("vilab down ");
    assert!(lab.starts_with("same-test-") && enter.contains(lab));
    assert_eq!(bench.labs().iter().filter(|l| !l.contains('.')).collect::<Vec<_>>(), [lab]);
    let ping = bench.vilab(&["exec", "-l", lab, "v/a", "--", "ping", "-c1", "-W5", "b"]).output().unwrap();
    assert!(ping.status.success(), "actions are undone: {}", stderr(&ping));
    common::run(&mut bench.vilab(&["down", lab]));
    assert!(bench.labs().is_empty());
}

#[test]
fn an_interrupted_run_leaves_no_lab() {
    let Some(bench) = Bench::new() else { return };
    let waits = PASSES.to_owned() + "  - wait: 100s\n";
    let files: Vec<PathBuf> = (0..4).map(|i| bench.file(&format!("{i}.yaml"), &waits)).collect();
    let mut command = bench.vilab(&["test", "--jobs", "2"]);
    let child = command.args(&files).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while bench.labs().iter().filter(|l| bench.path("run").join(l).join("state.json").exists()).count() < 2 {
        assert!(std::time::Instant::now() < deadline, "two labs come up");
        std::thread::yield_now();
    }
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(128 + 15), "{}", stderr(&output));
    assert!(stderr(&output).contains("nothing is left"), "{}", stderr(&output));
    assert!(bench.labs().is_empty(), "{:?}", bench.labs());
}

#[test]
fn what_cannot_be_written_or_read_is_told_before_any_lab_is_built() {
    let Some(bench) = Bench::new() else { return };
    let files = [bench.file("good.yaml", PASSES)];
    let missing = bench.path("no/such/file");
    let occupied = bench.path("bundles/good");
    std::fs::create_dir_all(&occupied).unwrap();
    let cases: [(&[&str], i32, &str); 7] = [
        (&["--junit", missing.to_str().unwrap()], 4, "cannot write"),
        (&["--expect", missing.to_str().unwrap()], 3, "cannot read"),
        (&["--expect", files[0].to_str().unwrap()], 3, "unknown key `base` in a file of expectations"),
        (&["--bundle", occupied.parent().unwrap().to_str().unwrap()], 2, "is no bundle"),
        (&["--jobs", "0"], 2, "--jobs"),
        (&["--tap", "--json"], 2, "cannot be used with"),
        (&["--reveal"], 2, "--expect"),
    ];
    for (args, code, words) in cases {
        let output = bench.test(args, &files);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{args:?}: {}", stdout(&output));
    }
}

fn grading(name: &str) -> PathBuf {
    Path::new("fixtures/grading").join(name)
}

fn grade(bench: &Bench, options: &[&str], files: &[PathBuf]) -> Output {
    let expectations = grading("expectations.yaml");
    let mut args = vec!["--jobs", "4", "--expect", expectations.to_str().unwrap()];
    args.extend(options);
    bench.test(&args, files)
}

#[test]
fn labs_are_graded_by_what_they_do() {
    let Some(bench) = Bench::new() else { return };
    if !common::can("frr") {
        return;
    }
    let files = ["solution.yaml", "static.yaml", "unfinished.yaml"].map(grading);
    let output = grade(&bench, &[], &files);
    let text = stdout(&output);
    let points: Vec<Vec<&str>> = text
        .lines()
        .filter(|l| l.starts_with("fixtures/") && !l.contains(" on "))
        .map(|l| l.split_whitespace().collect())
        .collect();
    let expected =
        [["solution.yaml", "10", "10"], ["static.yaml", "7", "10"], ["unfinished.yaml", "2", "10"]];
    assert_eq!(points.len(), 3, "{text}");
    for (row, [file, reached, worth]) in points.iter().zip(expected) {
        assert_eq!(row[..], [grading(file).to_str().unwrap(), reached, worth]);
    }
    assert_eq!(output.status.code(), Some(1));
    let solution = grade(&bench, &[], &files[..1]);
    assert_eq!(solution.status.code(), Some(0), "{}", stdout(&solution));
}

#[test]
fn what_is_expected_stays_hidden_in_every_report_unless_revealed() {
    let Some(bench) = Bench::new() else { return };
    let files = [grading("unfinished.yaml")];
    for reveal in [false, true] {
        let (junit, page, dir) = (bench.path("junit.xml"), bench.path("page.md"), bench.path("bundles"));
        let mut reports = String::new();
        for format in [&["--tap"][..], &["--json"], &[]] {
            let mut options = vec!["--junit", junit.to_str().unwrap(), "--bundle", dir.to_str().unwrap()];
            options.extend(format);
            options.extend(reveal.then_some("--reveal"));
            let expectations = grading("expectations.yaml");
            let mut command = bench.vilab(&["test", "--expect", expectations.to_str().unwrap()]);
            let output =
                command.args(&options).args(&files).env("GITHUB_STEP_SUMMARY", &page).output().unwrap();
            reports += &(stdout(&output) + &stderr(&output));
        }
        let bundle = std::fs::read_dir(dir.join("unfinished")).unwrap().map(|e| e.unwrap().path());
        for file in bundle.filter(|p| p.is_file()).chain([junit, page]) {
            reports += &std::fs::read_to_string(file).unwrap();
        }
        for secret in ["guests", "isolated", "TTL 63", "1000 bytes", "a probe from", "(line "] {
            assert_eq!(reports.contains(secret), reveal, "{secret}: {reports}");
        }
        assert!(reports.contains("through one router"), "a name is for students");
    }
}

#[test]
fn a_students_file_cannot_change_what_is_asked_nor_run_programs() {
    let Some(bench) = Bench::new() else { return };
    let cheat = "name: offices\nparams: {who: paris}\nbase: {links: [X -- Y]}
vis: {office: {nodes: {paris: X, rome: Y}, links: [paris -- rome]}}
tests: [{name: the offices reach each other, wait: 1ms}, {name: test 4, wait: 1ms}]\n";
    let output = grade(&bench, &[], &[bench.file("cheat.yaml", cheat)]);
    assert!(stdout(&output).contains("2 of 10 points"), "{}", stdout(&output));
    let runs = cheat.to_owned() + "apps: [{at: office/rome, run: touch /tmp/graded}]\n";
    let output = grade(&bench, &[], &[bench.file("runs.yaml", &runs)]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("runs programs") && stdout(&output).contains("0 of 10 points"));
    let allowing = bench.file("e.yaml", "apps: true\ntests: [{ping: office/paris -> office/rome}]\n");
    let runs = cheat.to_owned() + "apps: [{at: office/rome, run: sleep 1000}]\n";
    let files = [bench.file("runs.yaml", &runs)];
    let output = bench.test(&["--expect", allowing.to_str().unwrap()], &files);
    assert!(output.status.success(), "{}", stderr(&output));
}
