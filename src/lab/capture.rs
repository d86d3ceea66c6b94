//! The process that captures a lab from its beginning, for `up --capture`. A state directory goes in; packets are written
//! to the file until the lab ends. It is told to end before the lab does, so that the file holds what came last.

use std::fs::{self, OpenOptions};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::control::{Client, Request};
use super::{Namespaces, engine};
use crate::capture::{Filter, Options, Selection, Session};
use crate::error::{Context, Kind, Result};
use crate::sys::signals;

/// What `up` is asked to capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// An absolute path.
    pub file: PathBuf,
    pub filter: Filter,
}

pub(super) fn config_file(dir: &Path) -> PathBuf {
    dir.join(super::dir::CAPTURE)
}

/// Captures the lab whose state directory is `dir`.
///
/// # Errors
/// If it cannot start, or the file cannot be written.
pub fn run(dir: &Path) -> Result<()> {
    engine::told(capture(dir))
}

fn capture(dir: &Path) -> Result<()> {
    let Capture { file, filter } = engine::begin_with(c"vilab-capture", "the capture", &config_file(dir))?;
    let what = || format!("cannot write {}", file.display());
    // A process that is started anew goes on with another section of the file.
    let mut out = OpenOptions::new().append(true).create(true).open(&file).doing(Kind::Environment, what)?;
    let signals = signals::to_end().doing(Kind::Environment, || "cannot prepare for signals".into())?;
    let options = Options { selection: Selection::default(), filter, count: None, duration: None };
    let session = Session::open(options, Namespaces::at(super::namespaces_dir(dir)))?;
    engine::announce();
    session.run(&mut out, &[signals.as_fd()], None, &mut |_| ()).map(drop)
}

/// Ends the capture of a lab that is about to end, if it has one, so that nothing it holds is lost.
pub(super) fn end(dir: &Path) {
    if fs::exists(config_file(dir)).unwrap_or(false) {
        let stop = Request::Stop { service: super::init::CAPTURE.name.to_owned() };
        // A lab that does not answer ends all the same.
        let _unanswered = Client::connect(&super::init_socket(dir)).and_then(|mut init| init.tell(&stop));
    }
}
