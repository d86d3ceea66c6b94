//! What the machine can do, measured in a process of its own, and plans for it. Nothing goes in, a [`Machine`] comes out.
//! Nothing is left: the process ends, and with it the namespaces it tried things in.

use crate::error::{Context, Kind, Result};
use crate::lab::message::Failure;
use crate::lab::permission::{self, Settings};
use crate::lab::user;
use crate::model::Lab;
use crate::observe::doctor::{self, Facts};
use crate::observe::nesting::{self, Nesting};
use crate::plan::{self, Machine, Plan};
use crate::process;
use crate::routing::Rib;

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
    // Limits are those of the user namespace of who asks, not of the one that the probe was in.
    ask(Probe::Quick).map_err(|e| permission::explained(e, &Settings::read()))
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
    let answer = process::feed(process::myself("vilab: doctor", PROBE).arg(argument), "")
        .map_err(|e| e.context("cannot try what this machine can do"))?;
    let told: Told<T> =
        serde_json::from_str(&answer).doing(Kind::Bug, || "cannot read what was measured".into())?;
    told.map_err(Into::into)
}

/// What the process that tries things prints.
type Told<T> = std::result::Result<T, Failure>;

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

/// The plan of a lab for this machine; where there is none, how to get what the machine lacks.
pub(super) fn plan(lab: &Lab, rib: &Rib, machine: &Machine) -> Result<Plan> {
    plan::build(lab, rib, machine).map_err(|e| match e.kind() {
        Kind::Environment => {
            let refusal = |machine: &Machine| plan::build(lab, rib, machine).err();
            doctor::mended(e, machine, &Facts::gather(), refusal)
        }
        Kind::Failed | Kind::Usage | Kind::LabFile | Kind::Kernel | Kind::Bug => e,
    })
}
