//! The process that serves the emulated routers of a lab. A state directory goes in; the routers are served until the
//! process is killed. It never makes a device.

use std::path::{Path, PathBuf};

use super::{Namespaces, engine};
use crate::error::Result;
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
    let config: Config = engine::begin_with(c"vilab-routers", "serving emulated routers", &config_file(dir))?;
    recursion::run(&config, &Namespaces::at(super::namespaces_dir(dir)), engine::announce)
}
