//! What this machine can carry. Nothing goes in; what a process has tried comes out. It never tries anything itself: the
//! process ends, and with it the namespaces in which it tried.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};

use serde::de::DeserializeOwned;

use super::message::Failure;
use super::permission::{self, Settings};
use crate::error::{Context, Error, Kind, Result};
use crate::plan::Machine;
use crate::process;

/// The subcommand of the process.
pub const PROBE: &str = "machine-probe";
/// Its argument for what planning needs to know.
const QUICK: &str = "quick";
const CANNOT_TRY: &str = "cannot try what this machine can do";

/// A process that has tried what the machine can do, and keeps the namespace in which it did: the kernel holds up whoever
/// makes another while it takes one away. Both end with this.
#[derive(Debug)]
pub struct Trial {
    child: Child,
}

impl Drop for Trial {
    fn drop(&mut self) {
        // It reads to the end of its input, which closes here.
        let _ended = self.child.wait();
    }
}

/// What planning needs to know of the machine.
///
/// # Errors
/// If no namespaces can be made, with what to do about it.
pub fn machine() -> Result<(Machine, Trial)> {
    // Limits are those of the user namespace of who asks, not of the one that the probe was in.
    try_machine().map_err(|e| permission::explained(e, &Settings::read()))
}

fn try_machine() -> Result<(Machine, Trial)> {
    let mut command = process::myself("vilab: doctor", PROBE);
    command.arg(QUICK).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().doing(Kind::Environment, || CANNOT_TRY.into())?;
    let mut trial = Trial { child };
    let mut answer = String::new();
    if let Some(stdout) = &mut trial.child.stdout {
        BufReader::new(stdout).read_line(&mut answer).doing(Kind::Environment, || CANNOT_TRY.into())?;
    }
    if answer.is_empty() {
        return Err(silent(&mut trial.child));
    }
    Ok((told(&answer)?, trial))
}

/// It ended without an answer.
fn silent(child: &mut Child) -> Error {
    let mut said = String::new();
    let _read = child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
    let error = Error::environment(CANNOT_TRY);
    let status = child.wait().map(|status| status.to_string()).unwrap_or_default();
    error.because(if said.trim().is_empty() { status } else { said.trim().to_owned() })
}

/// What the process says of `argument`.
///
/// # Errors
/// Its own, or that it cannot be started.
pub fn ask<T: DeserializeOwned>(argument: &str) -> Result<T> {
    let answer = process::feed(process::myself("vilab: doctor", PROBE).arg(argument), "")
        .map_err(|e| e.context(CANNOT_TRY))?;
    told(&answer)
}

fn told<T: DeserializeOwned>(answer: &str) -> Result<T> {
    let told: Told<T> =
        serde_json::from_str(answer).doing(Kind::Bug, || "cannot read what was measured".into())?;
    told.map_err(Into::into)
}

/// What the process prints.
pub type Told<T> = std::result::Result<T, Failure>;
