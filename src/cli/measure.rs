//! Where commands ask [`crate::observe`] to measure. A running lab goes in, verdicts come out. It never prints.

use std::path::PathBuf;

use crate::apply::Progress;
use crate::error::Result;
use crate::lab::{Namespaces, Running, State};
use crate::observe::{self, Context};
use crate::routing::Rib;

/// The stage of [`verify`], which counts networks where the others count operations.
pub(super) const VERIFY: &str = "verify";

/// Checks a lab that has just been built, network by network.
pub(super) fn verify(
    state: &State,
    namespaces: &Namespaces,
    fastpath_control: Option<PathBuf>,
    progress: &mut dyn FnMut(&Progress),
) -> Result<()> {
    let rib = Rib::compute(&state.lab);
    let dataplanes = &state.dataplanes;
    let context = Context { lab: &state.lab, rib: &rib, namespaces, dataplanes, fastpath_control };
    let total = state.lab.networks.len() + usize::from(!state.lab.gateways.is_empty());
    let mut done = 0;
    let mut report = |done| progress(&Progress { stage: VERIFY.into(), done, total });
    report(done);
    observe::verify(&context, &mut |_| {
        done += 1;
        report(done);
    })?;
    Ok(())
}

/// Calls `f` with what measuring a running lab takes.
pub(super) fn with_context<T>(lab: &Running, f: impl FnOnce(&Context<'_>) -> T) -> T {
    let state = lab.state();
    let rib = Rib::compute(&state.lab);
    f(&Context {
        lab: &state.lab,
        rib: &rib,
        namespaces: &lab.namespaces(),
        dataplanes: &state.dataplanes,
        fastpath_control: lab.fastpath_control(),
    })
}
