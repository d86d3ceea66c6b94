//! Setting links and nodes down and up, and impairing links. [`Faults`] and impairments go in; the kernel's devices
//! follow. [`Actions`] remembers those of a test run and undoes them: it never leaves a device changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::arrival::pass_time;
use super::devices::{self, Change};
use super::{Context, each, impair};
use crate::error::Result;
use crate::fastpath::control::Client;
use crate::model::{BASE, EndId, GATEWAYS, Impairment, LinkId, NodeId, Target};
use crate::plan;
use crate::routing::{Expected, Faults};

/// How long a wire may take to notice that both its ends are up, and how often to look.
const CARRIER: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(5);

/// Sets the devices that `touched` is about as `faults` says: one that is down for another reason stays down. What
/// the kernel forgot of a device that was down comes back with it, except what a routing daemon puts back.
///
/// # Errors
/// The first thing the kernel refuses; the rest is done all the same.
pub fn enact(ctx: &Context<'_>, faults: &Faults, touched: &Faults) -> Result<()> {
    let expected = Expected::compute(ctx.lab, ctx.rib, faults);
    let changes: Vec<(NodeId, Change)> =
        changes(ctx, faults, &expected, &touched.ends(ctx.lab)).into_iter().collect();
    let done = each(&changes, |(node, change)| Ok(devices::change(ctx, *node, change)))?;
    done.into_iter().collect::<Result<()>>()?;
    await_carrier(ctx, &changes)?;
    await_engine(ctx);
    Ok(())
}

/// The fast path's engine answers when it has followed what the kernel told it before: until then it may carry packets as if
/// nothing had happened. One that does not run will look at everything when it starts.
fn await_engine(ctx: &Context<'_>) {
    let answer = ctx.fastpath_control.as_deref().map(|path| Client::connect(path)?.counters());
    drop(answer);
}

/// Waits until wires that came up pass packets: the kernel notices a carrier on its own time (`linkwatch`, once a second
/// where it sees no hurry). One that never does is somebody else's doing, and no failure.
fn await_carrier(ctx: &Context<'_>, changes: &[(NodeId, Change)]) -> Result<()> {
    let deadline = Instant::now() + CARRIER;
    for (node, change) in changes {
        let wire = |end: &&EndId| matches!(end.link.net, BASE | GATEWAYS);
        let wires: Vec<EndId> = change.up.iter().filter(wire).copied().collect();
        while !wires.is_empty() && !devices::are_running(ctx, *node, &wires)? && Instant::now() < deadline {
            pass_time(Instant::now() + LOOK)?;
        }
    }
    Ok(())
}

/// What becomes of the touched ends on each node. A port that an emulated router has lost is not set down: it has no
/// carrier.
fn changes(
    ctx: &Context<'_>,
    faults: &Faults,
    expected: &Expected,
    touched: &BTreeSet<EndId>,
) -> BTreeMap<NodeId, Change> {
    let down = faults.ends(ctx.lab);
    let mut changes = BTreeMap::<NodeId, Change>::new();
    for end in touched {
        // A port of an emulated router is a device of the router and one of its edge.
        let at = ctx.lab.end(*end);
        for node in BTreeSet::from([at.node, ctx.lab.site(at).partition]) {
            let change = changes.entry(node).or_default();
            let list = if down.contains(end) { &mut change.down } else { &mut change.up };
            list.push(*end);
        }
    }
    for (node, change) in changes.iter_mut().filter(|(_, c)| !c.up.is_empty()) {
        change.restore = plan::restored(ctx.lab, expected, *node);
    }
    changes
}

/// The actions of a test run that are in force.
#[derive(Debug)]
pub struct Actions<'a> {
    ctx: &'a Context<'a>,
    faults: Faults,
    /// The links impaired by a test.
    impaired: BTreeSet<LinkId>,
}

impl<'a> Actions<'a> {
    #[must_use]
    pub fn new(ctx: &'a Context<'a>) -> Self {
        Self { ctx, faults: Faults::default(), impaired: BTreeSet::new() }
    }

    /// Sets a link, or all links of a node, down.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn down(&mut self, target: Target) -> Result<()> {
        self.faults.set(target, true);
        enact(self.ctx, &self.faults, &Faults::of(target))
    }

    /// Sets it up again, as far as no other action in force says otherwise.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn up(&mut self, target: Target) -> Result<()> {
        self.faults.set(target, false);
        enact(self.ctx, &self.faults, &Faults::of(target))
    }

    /// What is down.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Impairs both directions of a link.
    ///
    /// # Errors
    /// What the kernel or the engine says.
    pub fn impair(&mut self, link: LinkId, to: &[Impairment; 2]) -> Result<()> {
        self.impaired.insert(link);
        impair::impair(self.ctx, link, to)
    }

    /// Sets everything up again, impaired as it was before.
    ///
    /// # Errors
    /// The first failure; the rest is put back all the same.
    pub fn undo(&mut self) -> Result<()> {
        let touched = std::mem::take(&mut self.faults);
        let links = std::mem::take(&mut self.impaired);
        let enacted = enact(self.ctx, &self.faults, &touched);
        let cured = links.into_iter().map(|l| impair::impair(self.ctx, l, &self.ctx.lab.link(l).impair));
        cured.fold(enacted, Result::and)
    }
}

impl Drop for Actions<'_> {
    fn drop(&mut self) {
        drop(self.undo());
    }
}
