//! Where commands ask [`crate::observe`] to measure. A running lab goes in, verdicts come out. It never prints.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::apply::{Progress, StageTime, Timings};
use crate::error::Result;
use crate::lab::{Namespaces, State};
use crate::model::LinkMeasured;
use crate::observe::{self, Context};
use crate::routing::{Faults, Rib};

pub(super) use crate::observe::with_context;

/// The stages of [`verify`].
const ROUTING: &str = "routing";
const VERIFY: &str = "verify";
const MEASURE: &str = "measure";

/// What a stage of [`verify`] counts, where the others count operations.
pub(super) fn unit(stage: &str) -> Option<&'static str> {
    match stage {
        ROUTING => Some("nodes"),
        VERIFY => Some("networks"),
        MEASURE => Some("links"),
        _ => None,
    }
}

/// Checks a lab that has just been built: waits until its routes are the computed ones, then probes network by
/// network, and measures what its impaired links do.
pub(super) fn verify(
    state: &State,
    rib: &Rib,
    namespaces: &Namespaces,
    fastpath_control: Option<PathBuf>,
    patience: Option<Duration>,
    progress: &mut dyn FnMut(&Progress),
) -> Result<(Timings, Vec<LinkMeasured>)> {
    let dataplanes = &state.dataplanes;
    let netem = state.netem;
    let context = Context {
        lab: &state.lab,
        rib,
        namespaces,
        dataplanes,
        netem,
        fastpath_control,
        // Nothing that is verified is known to what watches strands alone.
        strands_control: None,
    };
    let mut report = |stage: &str, done, total| progress(&Progress { stage: stage.into(), done, total });
    let start = Instant::now();
    let patience = patience.unwrap_or_else(|| observe::patience(&state.lab));
    observe::converge(&context, &Faults::default(), patience, &mut |done, total| {
        report(ROUTING, done, total);
    })?;
    let settled = Instant::now();
    let total = state.lab.named_networks().count() + usize::from(!state.lab.gateways.is_empty());
    let mut done = 0;
    report(VERIFY, done, total);
    observe::verify(&context, &mut |_| {
        done += 1;
        report(VERIFY, done, total);
    })?;
    let verified = Instant::now();
    let stage =
        |stage: &str, took: Duration| StageTime { stage: stage.into(), ms: took.as_secs_f64() * 1000.0 };
    let mut timings = vec![stage(ROUTING, settled - start), stage(VERIFY, verified - settled)];
    let count = state.lab.impaired_links().count();
    if count == 0 {
        return Ok((timings, Vec::new()));
    }
    report(MEASURE, 0, count);
    let measured = impaired(&context)?;
    report(MEASURE, count, count);
    timings.push(stage(MEASURE, verified.elapsed()));
    Ok((timings, measured))
}

/// What the impaired links of a lab do.
pub(super) fn impaired(context: &Context<'_>) -> Result<Vec<LinkMeasured>> {
    let links: Vec<_> = context.lab.impaired_links().collect();
    if links.is_empty() { Ok(Vec::new()) } else { observe::measure(context, &links) }
}
