//! What the machine can do, measured in a process of its own, and plans for it. Nothing goes in, a [`Machine`] comes out.
//! Nothing is left: the process ends, and with it the namespaces it tried things in.

use std::fs::File;
use std::io;

use crate::error::Result;
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
            let held = tell(doctor::machine_and_namespace, |(machine, held)| (machine, Some(held)))?;
            // Until who asked has done what it asked for.
            let _ended = io::copy(&mut io::stdin(), &mut io::sink());
            drop(held);
            Ok(())
        }
        Probe::Nesting => tell(nesting::nesting, |nesting| (nesting, None)).map(drop),
    }
}

/// Prints what is measured, in one line. What is to be held comes back.
fn tell<M, T: serde::Serialize>(
    measure: impl FnOnce() -> Result<M>,
    split: impl FnOnce(M) -> (T, Option<File>),
) -> Result<Option<File>> {
    let measured = match user::needed() {
        true => user::enter(nix::unistd::getuid(), nix::unistd::getgid()).and_then(|()| measure()),
        false => measure(),
    };
    let (told, held): (Told<T>, _) = match measured.map(split) {
        Ok((told, held)) => (Ok(told), held),
        Err(e) => (Err(Failure::from(&e)), None),
    };
    super::output::json_line(&told)?;
    Ok(held)
}
