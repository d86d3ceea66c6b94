//! What this machine can carry, and the plan that follows. A lab goes in; its plan comes out. It never tries anything
//! itself: a process does that which ends, and with it the namespaces in which it tried.

use std::thread;

use serde::de::DeserializeOwned;

use crate::error::{Context, Error, Kind, Result};
use crate::model::Lab;
use crate::plan::{self, Machine, Plan};
use crate::process;
use crate::routing::Rib;

/// The subcommand of the process.
pub const PROBE: &str = "machine-probe";
/// Its argument for what planning needs to know.
const QUICK: &str = "quick";

/// What planning needs to know of the machine.
///
/// # Errors
/// If no namespaces can be made, with what to do about it.
pub fn machine() -> Result<Machine> {
    ask(QUICK)
}

/// The plan of a lab for this machine.
///
/// # Errors
/// As [`machine`], and if the machine cannot carry the lab.
pub fn plan(lab: &Lab) -> Result<Plan> {
    let (rib, machine) = thread::scope(|scope| {
        let machine = scope.spawn(machine);
        let rib = Rib::compute(lab);
        (rib, machine.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    plan::build(lab, &rib, &machine?)
}

/// What the process says of `argument`.
///
/// # Errors
/// Its own, or that it cannot be started.
pub fn ask<T: DeserializeOwned>(argument: &str) -> Result<T> {
    let answer = process::feed(process::myself("vilab: doctor", PROBE).arg(argument), "");
    let answer = answer.map_err(|e| told(&e))?;
    serde_json::from_str(&answer).doing(Kind::Bug, || "cannot read what was measured".into())
}

/// The error of the process, which it has printed: its first line, causes and hint.
fn told(e: &Error) -> Error {
    let said = e.causes().last().map_or("", String::as_str);
    let after = |prefix: &str| said.lines().filter_map(|l| l.trim().strip_prefix(prefix)).collect::<Vec<_>>();
    let Some(what) = after("error: ").first().copied() else {
        return Error::environment("cannot try what this machine can do").because(e.what()).because(said);
    };
    let error = after("caused by: ").into_iter().fold(Error::environment(what), Error::because);
    error.hint(after("hint: ").first().copied().unwrap_or("vilab doctor says what is missing"))
}
