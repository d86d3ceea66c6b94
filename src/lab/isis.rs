//! The process that carries IS-IS over the virtual links of a lab. A state directory goes in; PDUs are carried until the
//! process is killed. It never configures the kernel.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use nix::sys::prctl;

use super::{Namespaces, engine};
use crate::error::{Context, Kind, Result};
use crate::isis::{self, Config};

pub(super) fn config_file(dir: &Path) -> PathBuf {
    dir.join(super::dir::ISIS)
}

/// Carries the PDUs of the lab whose state directory is `dir`.
///
/// # Errors
/// If it cannot start or stops.
pub fn run(dir: &Path) -> Result<()> {
    engine::told(carry(dir))
}

fn carry(dir: &Path) -> Result<()> {
    let what = || "cannot start IS-IS over virtual links".to_owned();
    prctl::set_name(c"vilab-isis").doing(Kind::Environment, what)?;
    let file = File::open(config_file(dir)).doing(Kind::Environment, what)?;
    let config: Config = serde_json::from_reader(BufReader::new(file)).doing(Kind::Bug, what)?;
    isis::run(&config, &Namespaces::at(super::namespaces_dir(dir)), engine::announce)
}
