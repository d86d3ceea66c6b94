//! What the integration tests share: whether this machine can run them, and labs that go down when dropped.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "each test binary uses its part; a skip must be seen"
)]

pub mod bench;
pub mod page;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use vilab::lab::Running;
use vilab::observe::doctor;

/// Two layers on a base, and beside them a router that a whole VI plays.
pub const STACK_AND_ROUTER: &str = "
name: both
base:
  links: [X -- Y -- Z]
vis:
  low:
    nodes: {l: X, m: {at: Y, role: router}, r: Z}
    links: [l -- m -- r]
  high: {over: low, nodes: {a: l, b: r}, links: [a -- b]}
  inner:
    nodes:
      v1: {at: X, role: phantom, port: p1}
      w: {at: Y, role: router}
      v2: {at: Z, role: phantom, port: p2}
    links: [v1 -- w -- v2]
  outer:
    nodes: {c: X, d: Z, R: {role: router, emulate: inner}}
    links: [c -- R.p1, d -- R.p2]
";

/// Whether this machine has `feature`: `netns` (namespaces can be made), `kernel` (ipip, nftables, netem and ESP),
/// `frr` or `browser` (Chromium and its driver). Where the environment variable `VILAB_REQUIRE` names it, its absence is a failure instead of a visible skip.
#[must_use]
pub fn can(feature: &str) -> bool {
    let machine = doctor::machine().unwrap_or_default();
    let can = match feature {
        "kernel" => machine.ipip && machine.nft && machine.netem && machine.esp,
        "frr" => machine.frr.is_some(),
        "browser" => ["chromium", "chromedriver"].into_iter().all(vilab::process::installed),
        _ => machine.tun,
    };
    let required = std::env::var("VILAB_REQUIRE").unwrap_or_default();
    assert!(can || !required.split(',').any(|r| r == feature), "{feature} is required here and missing");
    if !can {
        println!("SKIPPED: this machine has no {feature}");
    }
    can
}

/// The dataplanes that this machine can test; of these, where the environment variable `VILAB_DATAPLANES` names some,
/// those: an emulated machine is too slow for both, and the fast path is the same on every kernel.
#[must_use]
pub fn dataplanes() -> Vec<&'static str> {
    let chosen = std::env::var("VILAB_DATAPLANES").unwrap_or_default();
    let is_chosen = |dataplane: &&str| chosen.is_empty() || chosen.split(',').any(|c| c == *dataplane);
    all_dataplanes().into_iter().filter(is_chosen).collect()
}

/// For tests of how the two work together.
#[must_use]
pub fn all_dataplanes() -> Vec<&'static str> {
    if !can("netns") {
        return Vec::new();
    }
    if can("kernel") { vec!["fastpath", "kernel"] } else { vec!["fastpath"] }
}

/// The kinds of routing this machine can test: that without daemons, and one with.
#[must_use]
pub fn routings() -> Vec<&'static str> {
    if can("frr") { vec!["static", "ospf"] } else { vec!["static"] }
}

/// The command itself: as built with the tests, or the one that the environment variable `VILAB_BINARY` names, for what a
/// debug build is too slow for.
#[must_use]
pub fn vilab() -> Command {
    Command::new(std::env::var("VILAB_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_vilab").to_owned()))
}

/// Copies the program as built with the tests. A process of its own does it: whatever another test starts meanwhile would
/// inherit a copy that is open for writing, and such a file cannot be run.
pub fn copy_program(to: &Path) {
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_vilab")).arg(to).status().unwrap();
    assert!(copied.success(), "cp: {copied}");
}

/// Runs a command and gives back its standard output; panics if it fails.
pub fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the command can be started");
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{out}\n{err}");
    out.into_owned()
}

/// A lab that is up until this is dropped.
#[derive(Debug)]
pub struct Up {
    name: String,
    _file: tempfile::NamedTempFile,
}

impl Up {
    /// Brings `text` up under the name `name`, which takes the place of the text's own.
    #[must_use]
    pub fn new(name: &str, text: &str, dataplane: &str) -> Self {
        Self::with(name, text, |up| {
            up.args(["--dataplane", dataplane]);
        })
    }

    /// As [`Self::new`], on the dataplanes that the text itself asks for.
    #[must_use]
    pub fn as_written(name: &str, text: &str) -> Self {
        Self::with(name, text, |_| ())
    }

    /// The same, with what `options` adds to the command.
    #[must_use]
    pub fn with(name: &str, text: &str, options: impl FnOnce(&mut Command)) -> Self {
        let lines =
            text.lines().map(|l| if l.starts_with("name:") { format!("name: {name}") } else { l.to_owned() });
        let renamed = lines.collect::<Vec<_>>().join("\n");
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a temporary file");
        std::fs::write(file.path(), renamed).expect("the lab is written");
        let mut command = vilab();
        command.arg("up");
        options(&mut command);
        run(command.arg(file.path()));
        Self { name: name.to_owned(), _file: file }
    }

    /// Brings up a lab of the project.
    #[must_use]
    pub fn lab(name: &str, file: &str, dataplane: &str) -> Self {
        Self::new(name, &text(file), dataplane)
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn running(&self) -> Running {
        Running::open(&self.name).expect("the lab is up")
    }
}

impl Up {
    /// The test has ended the lab itself.
    pub fn has_ended(mut self) {
        self.name.clear();
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if self.name.is_empty() {
            return;
        }
        let down = vilab().args(["down", &self.name]).output();
        assert!(
            std::thread::panicking() || down.is_ok_and(|o| o.status.success()),
            "{} goes down",
            self.name
        );
    }
}

/// The text of a lab of the project.
#[must_use]
pub fn text(file: &str) -> String {
    let path = PathBuf::from("labs").join(file);
    std::fs::read_to_string(&path).expect("a lab of the project")
}
