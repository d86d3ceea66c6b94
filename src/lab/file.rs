//! Reading a lab file. A path goes in; a [`Lab`] or all errors of the file come out. It never changes anything.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::unistd::{Uid, geteuid};

use super::{owner, user};
use crate::error::{Error, Kind, Result};
use crate::model::{self, Expectations, Given, Imported, Lab, Source};
use crate::spec::{Diagnostic, Instances, Report, Span};

/// Reads the lab of a file.
///
/// # Errors
/// All errors of the file, or that it cannot be read.
pub fn load(path: &Path) -> Result<Lab> {
    load_with(path, &[], None)
}

/// Reads the lab of a file with values for its parameters; `running` is the lab whose place it takes: see
/// [`model::parse_with`].
///
/// # Errors
/// As [`load`].
pub fn load_with(path: &Path, given: &[Given], running: Option<&Lab>) -> Result<Lab> {
    let file = LabFile::read(path, given)?;
    model::parse_source(&file.source(path, given), running)
}

/// The flat lab of a file as YAML: see [`model::flat`].
///
/// # Errors
/// As [`load`].
pub fn flat(path: &Path, given: &[Given]) -> Result<String> {
    let file = LabFile::read(path, given)?;
    model::flat(&file.source(path, given))
}

/// Reads the lab of a file that is to be run on this machine: one that takes the place of `running`, see
/// [`model::parse_with`], or a new one.
///
/// # Errors
/// As [`load`], and if a VI has an owner that this machine does not know, or that the caller cannot give it to.
pub fn load_to_run(path: &Path, given: &[Given], running: Option<&Lab>) -> Result<Lab> {
    to_run(&LabFile::read(path, given)?, path, given, running)
}

/// As [`load_to_run`], of a text: `path` is what its errors call it, and what it imports is beside that.
///
/// # Errors
/// As [`load_to_run`].
pub fn load_text(path: &Path, text: &str, given: &[Given]) -> Result<Lab> {
    to_run(&LabFile::of(path, text.to_owned(), given), path, given, None)
}

fn to_run(file: &LabFile, path: &Path, given: &[Given], running: Option<&Lab>) -> Result<Lab> {
    let lab = model::parse_source(&file.source(path, given), running)?;
    if lab.networks.iter().any(|n| n.owner.is_some()) {
        check_owners(path, &file.text, given)?;
    }
    Ok(lab)
}

/// Reads a file of expectations: tests for labs of other files.
///
/// # Errors
/// All errors of the file, or that it cannot be read.
pub fn expectations(path: &Path) -> Result<Expectations> {
    Expectations::parse(path, &read(path)?)
}

/// A lab file and what it imports, as they were when they were read.
struct LabFile {
    text: String,
    imported: Imported,
}

impl LabFile {
    fn read(path: &Path, given: &[Given]) -> Result<Self> {
        Ok(Self::of(path, read(path)?, given))
    }

    fn of(path: &Path, text: String, given: &[Given]) -> Self {
        let beside = path.parent().unwrap_or(Path::new(""));
        let file = |name: String| {
            let found = std::fs::read(beside.join(&name)).map_err(|e| e.to_string());
            (name, found)
        };
        let imported = model::imports(&text, given).map(file).into_iter().collect();
        Self { text, imported }
    }

    fn source<'a>(&'a self, path: &'a Path, given: &'a [Given]) -> Source<'a> {
        Source { path, text: &self.text, given, imported: &self.imported }
    }
}

/// Standard input as a lab file.
const STDIN: &str = "-";

/// Where a lab file is, whatever becomes of the working directory; what it names is beside it. Standard input is in
/// the working directory.
#[must_use]
pub fn whereabouts(path: &Path) -> PathBuf {
    let found = if path == Path::new(STDIN) { std::path::absolute(path) } else { path.canonicalize() };
    found.unwrap_or_else(|_| path.to_owned())
}

/// What is in the file; of standard input, which can be read but once, always the same.
fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    static INPUT: Mutex<Option<Vec<u8>>> = Mutex::new(None);
    if path != Path::new(STDIN) {
        return std::fs::read(path);
    }
    let mut input = INPUT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(bytes) = &*input {
        return Ok(bytes.clone());
    }
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    Ok(input.insert(bytes).clone())
}

fn read(path: &Path) -> Result<String> {
    let fault = |what: &str| Error::new(Kind::LabFile, format!("{what} {}", path.display()));
    let bytes = bytes(path).map_err(|e| fault("cannot read").because(e))?;
    String::from_utf8(bytes).map_err(|e| no_text(path, e.as_bytes(), e.utf8_error().valid_up_to()))
}

/// Bytes that are no text, from `at` on.
fn no_text(path: &Path, bytes: &[u8], at: usize) -> Error {
    let shown = String::from_utf8_lossy(bytes);
    let width = shown[at..].chars().next().map_or(0, char::len_utf8);
    let byte = bytes.get(at).copied().unwrap_or_default();
    let fault = Diagnostic::new("not-text", Span::new(at, at + width), "the file is not UTF-8 text")
        .label(format!("the byte here is 0x{byte:02x}"));
    let fault = match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => fault.help("it begins as UTF-16 does: save it as UTF-8"),
        _ => fault,
    };
    Report::new(path, &shown, vec![fault], &Instances::default()).into_error()
}

/// The users of a machine are not in the file, so the pure stages cannot know them.
fn check_owners(path: &Path, text: &str, given: &[Given]) -> Result<()> {
    let mut faults = Vec::new();
    for owner in model::owners(text, given) {
        if let Some((title, label)) = fault(&owner.value)? {
            faults.push(Diagnostic::new("owner", owner.span, title).label(label));
        }
    }
    if faults.is_empty() {
        Ok(())
    } else {
        Err(Report::new(path, text, faults, &Instances::default()).into_error())
    }
}

/// Why this user cannot own a VI of a lab of the caller's.
fn fault(user: &str) -> Result<Option<(String, &'static str)>> {
    let looking = |e| Error::environment(format!("cannot look up user {user}")).because(e);
    let Some(owner) = owner::find(user).map_err(looking)? else {
        return Ok(Some((format!("this machine has no user `{user}`"), "the name of a user, or a number")));
    };
    if owner.uid == Uid::from_raw(0) {
        return Ok(Some((format!("`{user}` may change every VI"), "an owner is an unprivileged user")));
    }
    if user::needed() && owner.uid != geteuid() {
        let title = format!("only root can give a VI to `{user}`");
        return Ok(Some((title, "in your own lab every VI is yours")));
    }
    Ok(None)
}
