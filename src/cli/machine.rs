//! What the machine can do, measured in a process of its own, and plans for it. Nothing goes in, a [`Machine`] comes out.
//! Nothing is left: the process ends, and with it the namespaces it tried things in.

use crate::error::Result;
use crate::lab::machine::{Told, ask};
use crate::lab::message::Failure;
use crate::lab::user;
use crate::observe::doctor;
use crate::observe::nesting::{self, Nesting};

pub(super) use crate::lab::machine::{PROBE, machine};

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
        Probe::Quick => tell(doctor::machine),
        Probe::Nesting => tell(nesting::nesting),
    }
}

fn tell<T: serde::Serialize>(measure: impl FnOnce() -> Result<T>) -> Result<()> {
    let measured = match user::needed() {
        true => user::enter(nix::unistd::getuid(), nix::unistd::getgid()).and_then(|()| measure()),
        false => measure(),
    };
    let told: Told<T> = measured.map_err(|e| Failure::from(&e));
    super::output::json(&told)
}
