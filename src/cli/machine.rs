//! What the machine can do, measured in a process of its own, and plans for it. Nothing goes in, a [`Machine`] comes out.
//! Nothing is left: the process ends, and with it the namespaces it tried things in.

use std::io;

use crate::error::{Error, Result};
use crate::lab::machine::{Told, ask};
use crate::lab::message::Failure;
use crate::lab::user;
use crate::observe::doctor;
use crate::observe::nesting::{self, Nesting};
use crate::plan::Machine;

pub(super) use crate::lab::machine::PROBE;

/// What planning needs to know of the machine.
pub(super) fn machine() -> Result<Machine> {
    crate::lab::machine::machine().map(|(machine, _)| machine)
}

/// How [`Probe::Nesting`] is written.
const NESTING: &str = "nesting";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Probe {
    /// What planning needs to know.
    Quick,
    /// The limit on nested tunnels.
    Nesting,
}

/// How many tunnels nest, where there are tunnels.
pub(super) fn nesting() -> Result<Nesting> {
    ask(NESTING)
}

/// The process that tries things.
pub(super) fn probe(what: Probe) -> Result<()> {
    match what {
        Probe::Quick => {
            let measured = measured(doctor::machine_and_namespace);
            tell(measured.as_ref().map(|(machine, _)| machine))?;
            // The namespace stays until who asked has done what it asked for.
            let _ended = io::copy(&mut io::stdin(), &mut io::sink());
            drop(measured);
            Ok(())
        }
        Probe::Nesting => tell(measured(nesting::nesting).as_ref()),
    }
}

/// Measures where labs may be made.
fn measured<T>(measure: impl FnOnce() -> Result<T>) -> Result<T> {
    match user::needed() {
        true => user::enter(nix::unistd::getuid(), nix::unistd::getgid()).and_then(|()| measure()),
        false => measure(),
    }
}

/// Prints it in one line.
fn tell<T: serde::Serialize>(measured: std::result::Result<&T, &Error>) -> Result<()> {
    let told: Told<&T> = measured.map_err(Failure::from);
    super::output::json_line(&told)
}
