//! Printing. Text and values go in; they come out on standard error for people, on standard output where they are
//! what was asked for. A reader that is gone is no failure.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use serde::Serialize;

use crate::error::{Context, Error, Kind, Result};

/// An error with its causes and hint, the errors of a lab file underlined in its text.
pub(super) fn error(e: &Error) {
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    match e.report() {
        Some(report) => note(&format!("{}\nerror: {}", report.render(colour).trim_end(), e.what())),
        None => note(&format!("error: {e}")),
    }
}

/// An error of one lab among several.
pub(super) fn error_in(lab: &str, e: &Error) {
    note(&format!("error: {lab}: {e}"));
}

/// A line for people.
pub(super) fn note(text: &str) {
    let _unread = writeln!(io::stderr(), "{text}");
}

/// Why something that was asked for is not written, if a reader that is gone is not the reason.
static LOST: OnceLock<io::Error> = OnceLock::new();

/// A line of what was asked for.
pub(super) fn line(text: &str) {
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    if let Some(e) = written.err().filter(|e| e.kind() != io::ErrorKind::BrokenPipe) {
        let _not_the_first = LOST.set(e);
    }
}

/// Fails when a [`line`] could not be written.
pub(super) fn check() -> Result<()> {
    let fault = |e: &io::Error| Error::environment("cannot write to standard output").because(e);
    LOST.get().map_or(Ok(()), |e| Err(fault(e)))
}

/// One JSON value, as a line on standard output.
pub(super) fn json_line(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(value).doing(Kind::Bug, || "cannot write JSON".into())?;
    line(&text);
    Ok(())
}

/// One JSON value, alone on standard output.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).doing(Kind::Bug, || "cannot write JSON".into())?;
    line(&text);
    Ok(())
}
