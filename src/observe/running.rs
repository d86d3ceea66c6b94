//! What commands and the page do with a running lab: look at it, follow a probe, set things down and up, impair links. A
//! lab and a wish go in; what came of it goes out. It never parses what users wrote, and commands that change a lab take turns.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Cause, CauseKind, Context, LinkStats, Live, Trace, enact, follow, follow_live, impair, measure};
use crate::error::{Context as _, Error, Kind, Result};
use crate::lab::control::Status;
use crate::lab::course::State as Course;
use crate::lab::{Running, State};
use crate::model::{EndId, GATEWAYS, Impairment, Lab, LinkId, LinkMeasured, NodeId, Target};
use crate::plan::{self, Way};
use crate::routing::{Faults, Rib};

/// Calls `f` with what measuring a running lab takes.
pub fn with_context<T>(lab: &Running, f: impl FnOnce(&Context<'_>) -> T) -> T {
    let state = lab.state();
    let rib = Rib::compute(&state.lab);
    f(&Context {
        lab: &state.lab,
        rib: &rib,
        namespaces: &lab.namespaces(),
        dataplanes: &state.dataplanes,
        netem: state.netem,
        fastpath_control: lab.fastpath_control(),
        strands_control: lab.strands_control(),
    })
}

/// What is followed.
#[derive(Debug, Clone)]
pub enum Followed {
    /// A probe, of so many bytes with DF, or a usual one.
    Probe(Option<usize>),
    /// A packet of the nodes' own.
    Live(Live),
}

/// Follows a packet from one node to another of a running lab, and says, if it is not as computed, which services do not run.
///
/// # Errors
/// If nothing joins their networks, an address is missing, or the lab cannot be observed.
pub fn follow_in(running: &Running, from: NodeId, to: NodeId, what: &Followed) -> Result<Trace> {
    let lab = &running.state().lab;
    if !lab.joined(from.net).contains(&to.net) {
        let title = format!("{} and {} are in different networks", lab.full_name(from), lab.full_name(to));
        return Err(Error::usage(title).hint("no gateway joins them: neither knows the other"));
    }
    running.join()?;
    let faults = running.faults()?;
    let mut trace = with_context(running, |context| match what {
        Followed::Live(live) => follow_live(context, &faults, from, to, live),
        Followed::Probe(size) => follow(context, &faults, from, to, *size),
    })?;
    if !trace.is_as_computed() || !trace.arrived {
        trace.causes.extend(down_services(lab, &running.init()?.services()?));
    }
    Ok(trace)
}

/// What the lab needs and what does not run: the engine, routing daemons, the adapter.
#[must_use]
pub fn down_services(lab: &Lab, all: &[Status]) -> Vec<Cause> {
    let apps: Vec<&str> = lab.apps.iter().map(|app| app.name.as_str()).collect();
    let down = |s: &&Status| !apps.contains(&s.name.as_str()) && s.state != Course::Running;
    all.iter()
        .filter(down)
        .map(|s| {
            let last = s.last.as_ref().map(|last| format!(", {last}")).unwrap_or_default();
            let what = format!("{} does not run: {}{last}", s.name, s.state);
            Cause {
                kind: CauseKind::Service,
                at: s.node.clone().unwrap_or_else(|| "the lab".to_owned()),
                what,
            }
        })
        .collect()
}

impl Trace {
    /// `vilab.trace/1`.
    ///
    /// # Errors
    /// Only by a bug.
    pub fn to_json(&self, lab: &str) -> Result<Value> {
        let mut value =
            json!({ "schema": "vilab.trace/1", "lab": lab, "as_computed": self.is_as_computed() });
        let whole = serde_json::to_value(self).doing(Kind::Bug, || "cannot write JSON".into())?;
        if let (Some(to), Value::Object(from)) = (value.as_object_mut(), whole) {
            to.extend(from);
        }
        Ok(value)
    }
}

/// Sets a link or a node down, or up again, and notes it for later commands; all that is down then.
///
/// # Errors
/// If a record cannot be read or written, or the kernel refuses.
pub fn set_fault(running: &Running, target: Target, down: bool) -> Result<Faults> {
    running.join()?;
    let mut all = Faults::default();
    with_context(running, |context| {
        running.set_fault(target, down, |faults| {
            enact(context, faults, &Faults::of(target))?;
            all = faults.clone();
            Ok(())
        })
    })?;
    Ok(all)
}

/// The ends of a target that what else is down keeps down.
#[must_use]
pub fn kept_down(lab: &Lab, target: Target, faults: &Faults) -> usize {
    let ends = faults.ends(lab);
    Faults::of(target).ends(lab).iter().filter(|e| ends.contains(e)).count()
}

/// Has a link do this to packets, both ways, and notes it and what all impaired links are measured to do then; what this one does.
///
/// # Errors
/// If it is a gateway, or the kernel or the engine refuses.
pub fn set_impairment(
    running: &mut Running,
    link: LinkId,
    to: [Impairment; 2],
) -> Result<Option<LinkMeasured>> {
    if link.net == GATEWAYS {
        return Err(Error::usage("a gateway is not impaired").hint("impair a link on either side of it"));
    }
    let differs = to != running.state().lab.link(link).impair;
    if differs && needs_engine(running.state(), link, &to) {
        running.start_engine()?;
    }
    running.join()?;
    if differs {
        with_context(running, |context| impair(context, link, &to))?;
    }
    running.amend(|state| state.lab.networks[link.net.0].links[link.index].impair = to)?;
    // The others too: those above it have changed with it.
    let impaired: Vec<LinkId> = running.state().lab.impaired_links().collect();
    let links: Vec<LinkId> = impaired.iter().copied().filter(|l| *l != link).chain([link]).collect();
    let mut measured = with_context(running, |context| measure(context, &links))?;
    let this = measured.iter().copied().find(|m| m.link == link);
    measured.retain(|m| impaired.contains(&m.link));
    measured.sort_by_key(|m| m.link);
    running.amend(|state| state.measured = measured)?;
    Ok(this)
}

/// Whether the engine has a part in impairing a link.
fn needs_engine(state: &State, link: LinkId, to: &[Impairment; 2]) -> bool {
    let way =
        |side: usize| plan::way(&state.lab, &state.dataplanes, state.netem, EndId { link, side }, &to[side]);
    [0, 1].map(way).iter().any(|way| !matches!(way, Way::Netem { .. }))
}

impl LinkStats {
    /// `up`, `down`, `dead` where what carries it does not, or `gone`. `dead` are the links that are so as computed.
    #[must_use]
    pub fn state(&self, dead: &BTreeSet<LinkId>) -> &'static str {
        match self.ends {
            [Some(a), Some(b)] if !a.up || !b.up => "down",
            [Some(_), Some(_)] if dead.contains(&self.link) => "dead",
            [Some(_), Some(_)] => "up",
            _ => "gone",
        }
    }
}
