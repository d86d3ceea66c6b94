//! Where commands ask [`crate::observe`] to measure. A running lab goes in, verdicts come out. It never prints.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::apply::{Progress, StageTime, Timings};
use crate::error::Result;
use crate::lab::{Namespaces, Running, State};
use crate::observe::{self, Context};
use crate::routing::{Faults, Rib};

/// The stages of [`verify`].
const ROUTING: &str = "routing";
const VERIFY: &str = "verify";

/// What a stage of [`verify`] counts, where the others count operations.
pub(super) fn unit(stage: &str) -> Option<&'static str> {
    match stage {
        ROUTING => Some("nodes"),
        VERIFY => Some("networks"),
        _ => None,
    }
}

/// Checks a lab that has just been built: waits until its routes are the computed ones, then probes network by
/// network.
pub(super) fn verify(
    state: &State,
    namespaces: &Namespaces,
    fastpath_control: Option<PathBuf>,
    patience: Option<Duration>,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Timings> {
    let rib = Rib::compute(&state.lab);
    let dataplanes = &state.dataplanes;
    let context = Context { lab: &state.lab, rib: &rib, namespaces, dataplanes, fastpath_control };
    let mut report = |stage: &str, done, total| progress(&Progress { stage: stage.into(), done, total });
    let start = Instant::now();
    let patience = patience.unwrap_or_else(|| observe::patience(&state.lab));
    observe::converge(&context, &Faults::default(), patience, &mut |done, total| {
        report(ROUTING, done, total);
    })?;
    let settled = Instant::now();
    let total = state.lab.networks.len() + usize::from(!state.lab.gateways.is_empty());
    let mut done = 0;
    report(VERIFY, done, total);
    observe::verify(&context, &mut |_| {
        done += 1;
        report(VERIFY, done, total);
    })?;
    let stage =
        |stage: &str, took: Duration| StageTime { stage: stage.into(), ms: took.as_secs_f64() * 1000.0 };
    Ok(vec![stage(ROUTING, settled - start), stage(VERIFY, settled.elapsed())])
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
