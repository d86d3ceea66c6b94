//! What this machine can carry. Nothing goes in; what a process has tried comes out. It never tries anything itself: the
//! process ends, and with it the namespaces in which it tried.

use serde::de::DeserializeOwned;

use super::message::Failure;
use super::permission::{self, Settings};
use crate::error::{Context, Kind, Result};
use crate::plan::Machine;
use crate::process;

/// The subcommand of the process.
pub const PROBE: &str = "machine-probe";
/// Its argument for what planning needs to know.
const QUICK: &str = "quick";

/// What planning needs to know of the machine.
///
/// # Errors
/// If no namespaces can be made, with what to do about it.
pub fn machine() -> Result<Machine> {
    // Limits are those of the user namespace of who asks, not of the one that the probe was in.
    ask(QUICK).map_err(|e| permission::explained(e, &Settings::read()))
}

/// What the process says of `argument`.
///
/// # Errors
/// Its own, or that it cannot be started.
pub fn ask<T: DeserializeOwned>(argument: &str) -> Result<T> {
    let answer = process::feed(process::myself("vilab: doctor", PROBE).arg(argument), "")
        .map_err(|e| e.context("cannot try what this machine can do"))?;
    let told: Told<T> =
        serde_json::from_str(&answer).doing(Kind::Bug, || "cannot read what was measured".into())?;
    told.map_err(Into::into)
}

/// What the process prints.
pub type Told<T> = std::result::Result<T, Failure>;
