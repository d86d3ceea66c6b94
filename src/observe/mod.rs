//! Measuring a running lab and comparing it with what the pure stages predicted. A [`Context`] goes in; measured
//! values, names instead of numbers, and verdicts come out. It never prints, and what it changes in the lab for a
//! test (links set down, a rule switched off) it puts back.

mod across;
mod actions;
mod arrival;
mod causes;
mod converge;
mod counters;
mod devices;
pub mod doctor;
mod esp;
pub mod events;
mod exec;
mod fib;
mod foreign;
mod headers;
mod impair;
mod inject;
mod isolated;
mod names;
pub mod nesting;
mod passage;
mod patience;
mod ping;
mod probe;
mod quality;
mod reach;
mod resolve;
mod routes;
mod rules;
mod runner;
mod running;
mod sizes;
mod strands;
mod tcp;
mod trace;
mod walk;
pub mod watch;
mod wire;
mod wires;

use std::num::NonZero;
use std::path::PathBuf;
use std::thread;

pub use actions::{Actions, enact};
pub use causes::{Cause, CauseKind};
pub use converge::{Converged, converge, patience, routes as route_rows, routes_of};
pub use counters::counters;
pub use devices::{EndStats, LinkStats, gateways, links};
pub use fib::{Difference, RouteRow};
pub use impair::impair;
pub use names::{layers, name_of, pair, path, seen_from, side_by_side};
pub use passage::{HeaderSeen, Live, Passing, Stack, Trace, follow, follow_live};
pub use quality::measure;
pub use reach::{Reached, Verified, reach, verify, verify_within};
pub use resolve::{Chain, Found, Question, Resolution, Step, Way, resolve};
pub use rules::{Rule, rules};
pub use runner::{Moment, TestResult, run_tests};
pub use running::{Followed, down_services, follow_in, kept_down, set_fault, set_impairment, with_context};
pub use strands::{LinkStrands, strands};
pub use trace::{Hop, trace};

use crate::error::Result;
use crate::lab::Namespaces;
use crate::model::{Dataplane, Lab};
use crate::routing::Rib;

/// A running lab, and what is known about it without looking.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    pub lab: &'a Lab,
    pub rib: &'a Rib,
    pub namespaces: &'a Namespaces,
    /// What carries each base node, in the order of the base network's nodes.
    pub dataplanes: &'a [Dataplane],
    /// Impairments of the kernel's devices are netem's; else the engine's.
    pub netem: bool,
    /// Control socket of the fast path, where a base node uses it.
    pub fastpath_control: Option<PathBuf>,
    /// That of what watches strands, where the kernel has any.
    pub strands_control: Option<PathBuf>,
}

/// Calls `f` for each item on a few threads; results in the order of the items, or the first error in that order.
pub(crate) fn each<T: Sync, R: Send>(items: &[T], f: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let threads = thread::available_parallelism().map_or(2, NonZero::get).clamp(2, 16);
    let share = items.len().div_ceil(threads).max(1);
    let parts = thread::scope(|scope| {
        let workers: Vec<_> = items
            .chunks(share)
            .map(|chunk| scope.spawn(|| chunk.iter().map(&f).collect::<Result<Vec<R>>>()))
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Result<Vec<_>>>()
    })?;
    Ok(parts.into_iter().flatten().collect())
}
