//! The lab's own processes: the one that runs the fast path, and the one that answers for names. A state directory
//! goes in; packets are forwarded, and questions answered, until the process is killed. They never configure the
//! kernel.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::prctl;
use serde::de::DeserializeOwned;

use super::Namespaces;
use super::message::{Failure, Message};
use crate::apply::Timings;
use crate::error::{Context, Kind, Result};
use crate::fastpath::{self, Config};
use crate::names;

pub(super) fn config_file(dir: &Path) -> PathBuf {
    dir.join(super::dir::FASTPATH)
}

pub(super) fn names_file(dir: &Path) -> PathBuf {
    dir.join(super::dir::NAMES)
}

pub(super) fn read_config(dir: &Path) -> Result<Config> {
    read(&config_file(dir)).doing(Kind::Bug, || "cannot read the fast path's part of the lab".into())
}

/// Whoever reads it finds the old one or the new one.
pub(super) fn write_config(dir: &Path, config: &Config) -> io::Result<()> {
    let half = dir.join(super::dir::FASTPATH_UNFINISHED);
    fs::write(&half, serde_json::to_vec(config)?)?;
    fs::rename(half, config_file(dir))
}

/// Runs the fast path of the lab whose state directory is `dir`.
///
/// # Errors
/// If it cannot start or stops.
pub fn run(dir: &Path) -> Result<()> {
    told(forward(dir))
}

/// Tells init why one of the lab's own processes ends.
pub(super) fn told(result: Result<()>) -> Result<()> {
    if let Err(e) = &result {
        let _gone = Message::Failed(Failure::from(e)).send(io::stdout());
    }
    result
}

/// Answers for the names of the lab whose state directory is `dir`.
///
/// # Errors
/// If it cannot start or stops.
pub fn answer(dir: &Path) -> Result<()> {
    told(resolve(dir))
}

fn resolve(dir: &Path) -> Result<()> {
    let config: names::Config = begin_with(c"vilab-names", "answering for names", &names_file(dir))?;
    names::run(&config, &Namespaces::at(super::namespaces_dir(dir)), announce)
}

/// It ends with the lab's PID namespace, and must not with the thread of init that started it, which ends at once.
fn begin(name: &CStr, doing: &str) -> Result<()> {
    prctl::set_name(name).doing(Kind::Environment, || format!("cannot start {doing}"))
}

/// The same for a process of which a file of the state directory says what it has to do.
pub(super) fn begin_with<T: DeserializeOwned>(name: &CStr, doing: &str, config: &Path) -> Result<T> {
    begin(name, doing)?;
    read(config).doing(Kind::Bug, || format!("cannot start {doing}"))
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn forward(dir: &Path) -> Result<()> {
    begin(c"vilab-fastpath", "the fast path")?;
    let config = read_config(dir)?;
    let namespaces = Namespaces::at(super::namespaces_dir(dir));
    let control = super::control_socket(dir);
    // That of the engine before this one, if that was killed.
    let _absent = std::fs::remove_file(&control);
    fastpath::run(&config, &namespaces, &control, announce)
}

/// How long the fast path may take to close what it has open.
const CLOSING: Duration = Duration::from_secs(5);

/// Has the fast path of a lab that is about to be killed, if there is one, close what it has open. The kernel closes what a
/// process leaves one after the other, which takes it 20 ms and more for each base node; and no namespace goes before.
pub(super) fn end(dir: &Path) {
    // Without an answer, the kernel does it.
    let _done =
        fastpath::control::Client::connect(&super::control_socket(dir)).and_then(|mut c| c.end(CLOSING));
}

/// Says that the process does its work, and closes standard output: whoever waits for it reads to the end.
pub(super) fn announce() {
    let _gone = Message::Ready(Timings::new()).send(io::stdout());
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _open = nix::unistd::dup2_stdout(&null);
    }
}
