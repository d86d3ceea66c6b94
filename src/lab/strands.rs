//! The process that watches the strands of links over parallel underlays. A state directory goes in; the strands are
//! watched until the process is killed. It never makes a device.

use std::path::{Path, PathBuf};

use super::{Namespaces, engine};
use crate::error::Result;
use crate::strands::{self, Config};

pub(super) fn config_file(dir: &Path) -> PathBuf {
    dir.join(super::dir::STRANDS)
}

/// Watches the strands of the lab whose state directory is `dir`.
///
/// # Errors
/// If it cannot start or stops.
pub fn run(dir: &Path) -> Result<()> {
    engine::told(watch(dir))
}

fn watch(dir: &Path) -> Result<()> {
    let config: Config = engine::begin_with(c"vilab-strands", "watching strands", &config_file(dir))?;
    let control = super::strands_socket(dir);
    // That of the process before this one, if that was killed.
    let _absent = std::fs::remove_file(&control);
    strands::run(&config, &Namespaces::at(super::namespaces_dir(dir)), &control, engine::announce)
}
