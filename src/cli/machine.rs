//! What the machine can do, measured in a process of its own. Nothing goes in, a [`Machine`] comes out. Nothing is
//! left: the process ends, and with it the namespaces it tried things in.

use crate::error::{Context, Error, Kind, Result};
use crate::lab::user;
use crate::observe::doctor;
use crate::plan::Machine;
use crate::process;

/// The subcommand under which [`probe`] is started.
pub(super) const PROBE: &str = "machine-probe";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Probe {
    /// What planning needs to know.
    Quick,
    /// The limit on nested tunnels.
    Nesting,
}

/// What planning needs to know of the machine.
pub(super) fn machine() -> Result<Machine> {
    ask(Probe::Quick)
}

fn ask<T: serde::de::DeserializeOwned>(what: Probe) -> Result<T> {
    let argument = match what {
        Probe::Quick => "quick",
        Probe::Nesting => "nesting",
    };
    let answer = process::feed(process::myself("vilab: doctor", PROBE).arg(argument), "");
    let answer = answer.map_err(|e| cannot().because(e.causes().join("; ")))?;
    serde_json::from_str(&answer).doing(Kind::Bug, || "cannot read what was measured".into())
}

fn cannot() -> Error {
    Error::environment("this machine cannot make a lab's namespaces")
        .hint("vilab doctor says what is missing")
}

/// The process that tries things.
pub(super) fn probe(what: Probe) -> Result<()> {
    if user::needed() {
        user::enter(nix::unistd::getuid(), nix::unistd::getgid())?;
    }
    match what {
        Probe::Quick => super::output::json(&doctor::machine()?),
        Probe::Nesting => Ok(()),
    }
}
