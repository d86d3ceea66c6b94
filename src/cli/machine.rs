//! What the machine can do, measured in a process of its own. Nothing goes in, a [`Machine`] comes out. Nothing is
//! left: the process ends, and with it the namespaces it tried things in.

use crate::error::Result;
use crate::lab::machine::ask;
use crate::lab::user;
use crate::observe::nesting::Nesting;
use crate::observe::{doctor, nesting};

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
    if user::needed() {
        user::enter(nix::unistd::getuid(), nix::unistd::getgid())?;
    }
    match what {
        Probe::Quick => super::output::json(&doctor::machine()?),
        Probe::Nesting => super::output::json(&nesting::nesting()?),
    }
}
