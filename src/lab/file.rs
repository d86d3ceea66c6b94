//! Reading a lab file. A path goes in; a [`Lab`] or all errors of the file come out. It never changes anything.

use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::model::{self, Lab};

/// Reads the lab of a file.
///
/// # Errors
/// All errors of the file, or that it cannot be read.
pub fn load(path: &Path) -> Result<Lab> {
    load_with(path, None)
}

/// Reads the lab of a file that takes the place of `running`: see [`model::parse_with`].
///
/// # Errors
/// As [`load`].
pub fn load_with(path: &Path, running: Option<&Lab>) -> Result<Lab> {
    let fault = |what: &str| Error::new(Kind::LabFile, format!("{what} {}", path.display()));
    let bytes = std::fs::read(path).map_err(|e| fault("cannot read").because(e))?;
    let text = String::from_utf8(bytes).map_err(|e| fault("there is no text in").because(e.utf8_error()))?;
    model::parse_with(path, &text, running)
}
