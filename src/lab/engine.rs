//! The process that runs the fast path of a lab. A state directory goes in; packets are forwarded until the process
//! is killed. It never configures the kernel.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use nix::sys::prctl;
use nix::sys::signal::Signal;

use super::Namespaces;
use super::message::{Failure, Message};
use crate::apply::Timings;
use crate::error::{Context, Kind, Result};
use crate::fastpath::{self, Config};

pub(super) fn config_file(dir: &Path) -> PathBuf {
    dir.join(super::dir::FASTPATH)
}

/// Runs the fast path of the lab whose state directory is `dir`.
///
/// # Errors
/// If it cannot start or stops.
pub fn run(dir: &Path) -> Result<()> {
    let result = forward(dir);
    if let Err(e) = &result {
        let _gone = Message::Failed(Failure::from(e)).send(io::stdout());
    }
    result
}

fn forward(dir: &Path) -> Result<()> {
    let what = || "cannot start the fast path".to_owned();
    prctl::set_pdeathsig(Signal::SIGKILL).doing(Kind::Environment, what)?;
    prctl::set_name(c"vilab-fastpath").doing(Kind::Environment, what)?;
    let file = File::open(config_file(dir)).doing(Kind::Environment, what)?;
    let config: Config = serde_json::from_reader(BufReader::new(file)).doing(Kind::Bug, what)?;
    let namespaces = Namespaces::at(super::namespaces_dir(dir));
    let control = super::control_socket(dir);
    // That of the engine before this one, if that was killed.
    let _absent = std::fs::remove_file(&control);
    fastpath::run(&config, &namespaces, &control, announce)
}

/// Says that the engine forwards, and closes standard output: whoever waits for it reads to the end.
fn announce() {
    let _gone = Message::Ready(Timings::new()).send(io::stdout());
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _open = nix::unistd::dup2_stdout(&null);
    }
}
