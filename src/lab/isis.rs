//! The process that carries IS-IS over the virtual links of a lab. A state directory goes in; PDUs are carried until the
//! process is killed. It never configures the kernel.

use std::path::{Path, PathBuf};

use super::{Namespaces, engine};
use crate::error::Result;
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
    let config: Config = engine::begin_with(c"vilab-isis", "IS-IS over virtual links", &config_file(dir))?;
    isis::run(&config, &Namespaces::at(super::namespaces_dir(dir)), engine::announce)
}
