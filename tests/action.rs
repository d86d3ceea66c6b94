//! The steps of action.yml, as a runner of GitHub's calls them: a release is installed and checked, labs are run and reported,
//! and nothing is left, however the run ends. The step that prepares a machine is left out, because it changes this one.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use common::bench::{Bench, entries, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LAB: &str = "
base: {links: [X -- Y]}
vis:
  v: {nodes: {a: X, b: Y}, links: [a -- b]}
tests:
  - ping: v/a -> v/b
";

/// A runner's directories.
struct Runner {
    bench: Bench,
}

impl Runner {
    fn new() -> Option<Self> {
        let runner = Self { bench: Bench::new()? };
        fs::create_dir_all(runner.home().join("bin")).unwrap();
        fs::create_dir_all(runner.home().join("results")).unwrap();
        Some(runner)
    }

    /// One with the program in place.
    fn installed() -> Option<Self> {
        let runner = Self::new()?;
        common::copy_program(&runner.home().join("bin/vilab"));
        Some(runner)
    }

    fn temp(&self) -> &Path {
        self.bench.dir.path()
    }

    fn home(&self) -> PathBuf {
        self.temp().join("vilab")
    }

    fn step(&self, step: &str, inputs: &[(&str, &str)]) -> Command {
        let mut command = Command::new("scripts/action");
        command
            .arg(step)
            .envs(inputs.iter().copied())
            .env("RUNNER_TEMP", self.temp())
            .env("GITHUB_ACTION_PATH", ".")
            .env("GITHUB_PATH", self.temp().join("path"))
            .env("GITHUB_STEP_SUMMARY", self.temp().join("summary.md"))
            .env_remove("VILAB_LAB")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, step: &str, inputs: &[(&str, &str)]) -> Output {
        self.step(step, inputs).output().unwrap()
    }

    /// Starts labs that wait, and comes back when one is up.
    fn begin(&self) -> Child {
        let file = self.bench.file("waits", &(LAB.to_owned() + "  - wait: 500s\n"));
        let mut command = self.step("test", &[("FILES", &file)]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let run = self.home().join("run");
        let is_up = |lab: &String| run.join(lab).join("state.json").exists();
        wait_for("the lab to come up", || run.exists() && entries(&run).iter().any(is_up));
        child
    }

    fn clean(&self) {
        let output = self.run("clean", &[]);
        assert!(output.status.success(), "{}", said(&output));
    }

    fn nothing_left(&self) {
        assert_eq!(entries(&self.home().join("run")), Vec::<String>::new());
        self.bench.nothing_left();
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let _clean = self.run("clean", &[]);
    }
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

#[test]
fn labs_are_run_and_reported_and_a_failure_leaves_its_bundle() {
    let Some(runner) = Runner::installed() else { return };
    runner.bench.file("passes", LAB);
    runner.bench.file("fails", &(LAB.to_owned() + "  - {ping: v/a -> v/b, not: true}\n"));
    let pattern = format!("{}/**/*.yaml", runner.temp().display());
    let output = runner.run("test", &[("FILES", &pattern), ("ARGUMENTS", "--jobs=1\n\n--tap\n")]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("TAP version 13"), "arguments are passed on: {}", said(&output));
    let results = runner.home().join("results");
    let junit = fs::read_to_string(results.join("junit.xml")).unwrap();
    assert!(junit.contains(r#"tests="3""#) && junit.contains(r#"failures="1""#), "{junit}");
    assert!(fs::read_to_string(runner.temp().join("summary.md")).unwrap().contains("fails"));
    let bundles = entries(&results.join("failed"));
    assert_eq!(bundles.len(), 1, "of the lab that failed: {bundles:?}");
    runner.clean();
    runner.nothing_left();
}

#[test]
fn what_matches_no_lab_is_an_error() {
    let Some(runner) = Runner::installed() else { return };
    let output = runner.run("test", &[("FILES", "nowhere/*.yaml")]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(said(&output), "::error::no lab matches nowhere/*.yaml\n");
}

#[test]
fn a_cancelled_run_leaves_nothing() {
    let Some(runner) = Runner::installed() else { return };
    let child = runner.begin();
    // What a runner sends first; some seconds later it would be SIGTERM.
    signal(&child, Signal::SIGINT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(128 + 2), "{}", said(&output));
    runner.nothing_left();
    // Also where there is nothing to do.
    runner.clean();
}

#[test]
fn a_killed_run_leaves_nothing_once_cleaned() {
    let Some(runner) = Runner::installed() else { return };
    let mut child = runner.begin();
    signal(&child, Signal::SIGKILL);
    child.wait().unwrap();
    runner.clean();
    runner.nothing_left();
}

#[test]
fn a_release_is_installed_and_one_that_is_not_as_published_is_refused() {
    let Some(runner) = Runner::new() else { return };
    let machine = common::run(Command::new("uname").arg("-m"));
    let name = format!("vilab-9.8.7-{}-linux-musl", machine.trim());
    let release = runner.temp().join("an/owner/releases/download/v9.8.7");
    fs::create_dir_all(release.join(&name)).unwrap();
    common::copy_program(&release.join(&name).join("vilab"));
    let archive = format!("{name}.tar.gz");
    common::run(Command::new("tar").args(["-czf", &archive, &name]).current_dir(&release));
    let sum = common::run(Command::new("sha256sum").arg(&archive).current_dir(&release));
    fs::write(release.join(format!("{archive}.sha256")), sum).unwrap();
    let server = format!("file://{}", runner.temp().display());
    let inputs = [("VERSION", "v9.8.7"), ("REPOSITORY", "an/owner"), ("GITHUB_SERVER_URL", &server)];

    let output = runner.run("install", &inputs);
    assert!(output.status.success() && said(&output).starts_with("vilab "), "{}", said(&output));
    let path = fs::read_to_string(runner.temp().join("path")).unwrap();
    assert_eq!(path, format!("{}\n", runner.home().join("bin").display()), "for the job's later steps");

    fs::remove_file(runner.home().join("bin/vilab")).unwrap();
    fs::write(release.join(&archive), "something else").unwrap();
    let output = runner.run("install", &inputs);
    assert!(!output.status.success(), "{}", said(&output));
    assert_eq!(entries(&runner.home().join("bin")), Vec::<String>::new());
}
