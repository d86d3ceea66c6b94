//! The process that serves the emulated routers of a lab. A state directory goes in; the routers are served until the
//! process is killed. It never makes a device.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use nix::sys::prctl;

use super::{Namespaces, engine};
use crate::error::{Context, Kind, Result};
use crate::recursion::{self, Config};

pub(super) fn config_file(dir: &Path) -> PathBuf {
    dir.join(super::dir::ROUTERS)
}

/// Serves the emulated routers of the lab whose state directory is `dir`.
///
/// # Errors
/// If it cannot start or stops.
pub fn run(dir: &Path) -> Result<()> {
    engine::told(serve(dir))
}

fn serve(dir: &Path) -> Result<()> {
    let what = || "cannot start serving emulated routers".to_owned();
    prctl::set_name(c"vilab-routers").doing(Kind::Environment, what)?;
    let file = File::open(config_file(dir)).doing(Kind::Environment, what)?;
    let config: Config = serde_json::from_reader(BufReader::new(file)).doing(Kind::Bug, what)?;
    recursion::run(&config, &Namespaces::at(super::namespaces_dir(dir)), engine::announce)
}
