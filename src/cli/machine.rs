//! What the machine can do, measured in a process of its own. Nothing goes in, a [`Machine`] comes out. Nothing is
//! left: the process ends, and with it the namespaces it tried things in.

use crate::error::{Context, Error, Kind, Result};
use crate::lab::user;
use crate::observe::nesting::Nesting;
use crate::observe::{doctor, nesting};
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

/// How many tunnels nest, where there are tunnels.
pub(super) fn nesting() -> Result<Nesting> {
    ask(Probe::Nesting)
}

fn ask<T: serde::de::DeserializeOwned>(what: Probe) -> Result<T> {
    let argument = match what {
        Probe::Quick => "quick",
        Probe::Nesting => "nesting",
    };
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

/// The process that tries things.
pub(super) fn probe(what: Probe) -> Result<()> {
    if user::needed() {
        user::enter(nix::unistd::getuid(), nix::unistd::getgid())?;
    }
    match what {
        Probe::Quick => super::output::json(&doctor::machine()?),
        Probe::Nesting => super::output::json(&nesting::nesting()?),
    }
}
