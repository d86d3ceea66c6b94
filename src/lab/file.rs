//! Reading a lab file. A path goes in; a [`Lab`] or all errors of the file come out. It never changes anything.

use std::path::Path;

use nix::unistd::{Uid, geteuid};

use super::{owner, user};
use crate::error::{Error, Kind, Result};
use crate::model::{self, Lab};
use crate::spec::{self, Diagnostic, Report};

/// Reads the lab of a file.
///
/// # Errors
/// All errors of the file, or that it cannot be read.
pub fn load(path: &Path) -> Result<Lab> {
    parse(path, &read(path)?, None)
}

/// Reads the lab of a file that is to be run on this machine: one that takes the place of `running`, see
/// [`model::parse_with`], or a new one.
///
/// # Errors
/// As [`load`], and if a VI has an owner that this machine does not know, or that the caller cannot give it to.
pub fn load_to_run(path: &Path, running: Option<&Lab>) -> Result<Lab> {
    let text = read(path)?;
    let lab = parse(path, &text, running)?;
    if lab.networks.iter().any(|n| n.owner.is_some()) {
        check_owners(path, &text)?;
    }
    Ok(lab)
}

fn read(path: &Path) -> Result<String> {
    let fault = |what: &str| Error::new(Kind::LabFile, format!("{what} {}", path.display()));
    let bytes = std::fs::read(path).map_err(|e| fault("cannot read").because(e))?;
    String::from_utf8(bytes).map_err(|e| fault("there is no text in").because(e.utf8_error()))
}

fn parse(path: &Path, text: &str, running: Option<&Lab>) -> Result<Lab> {
    model::parse_with(path, text, running)
}

/// The users of a machine are not in the file, so the pure stages cannot know them.
fn check_owners(path: &Path, text: &str) -> Result<()> {
    let (mut errors, mut faults) = (Vec::new(), Vec::new());
    let spec = spec::parse(text, &mut errors);
    for owner in spec.iter().flat_map(|s| &s.vis).filter_map(|v| v.owner.as_ref()) {
        if let Some((title, label)) = fault(&owner.value)? {
            faults.push(Diagnostic::new("owner", owner.span, title).label(label));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(Report::new(path, text, faults).into_error()) }
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
