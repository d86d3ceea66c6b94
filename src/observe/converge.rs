//! Waiting until the routes of a lab are those expected. A [`Context`] and the [`Expected`] routes go in; how long
//! each network took comes out, or the first node and prefix that differ. It never waits for time to pass: the
//! kernel tells of every change, and only a node that changed is looked at again.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use serde::Serialize;

use super::causes::Inquiry;
use super::fib::{self, Difference, RouteRow};
use super::probe::timeout;
use super::{Context, each};
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::{Lab, Link, NetId, Network, NodeId, Routing};
use crate::netlink::monitor::{Monitor, Snapshot};
use crate::routing::{Expected, Faults};
use crate::sys::limits;

/// Between two looks at one node: routing daemons write routes in bursts, and a look reads the whole table.
const PAUSE: Duration = Duration::from_millis(10);
/// Time for dynamic routing to settle where nobody says: some seconds for the protocols' own timers, the rest for
/// machines a tenth as fast.
const PATIENCE: Duration = Duration::from_secs(60);
const PATIENCE_PER_NODE: Duration = Duration::from_millis(500);
const EVENTS: usize = 64;
/// Nodes that are looked at for what explains their routes.
const LOOKED_AT: usize = 8;

/// A network whose routes are those expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Converged {
    pub net: NetId,
    pub nodes: usize,
    /// Since the beginning of the wait. In JSON: milliseconds.
    #[serde(rename = "after_ms", serialize_with = "super::runner::as_millis")]
    pub after: Duration,
}

/// Time for tables that change while they are read to hold still.
const SETTLE: Duration = Duration::from_secs(1);

/// How long to wait for a lab where nobody says: longer the more nodes route dynamically.
#[must_use]
pub fn patience(lab: &Lab) -> Duration {
    match lab.nodes().filter(|n| lab.reacts(n.id) || lab.emulated(n.id).is_some()).count() {
        0 => SETTLE,
        nodes => PATIENCE + PATIENCE_PER_NODE * u32::try_from(nodes).unwrap_or(u32::MAX),
    }
}

/// Waits until the routes of all nodes are those expected under `faults`, at most `patience`. Networks with static
/// routes are looked at once: nothing would ever mend them. `progress` hears how many nodes of how many are done.
///
/// # Errors
/// Names the first node and prefix that differ, from the base up, and how many there are in each network.
pub fn converge(
    ctx: &Context<'_>,
    faults: &Faults,
    patience: Duration,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Converged>> {
    let expected = Expected::compute(ctx.lab, ctx.rib, faults);
    let networks = networks(ctx.lab, &expected);
    let nodes: Vec<NodeId> = networks.iter().flat_map(|n| &n.nodes).map(|n| n.id).collect();
    progress(0, nodes.len());
    let start = Instant::now();
    if nodes.len() > 256 {
        limits::raise_open_files()
            .doing(Kind::Environment, || "cannot raise the limit on open files".into())?;
    }
    let watched = each(&nodes, |node| Watched::open(ctx, &expected, *node))?.into_iter().flatten().collect();
    let mut wait = Wait { ctx, expected: &expected, start, total: nodes.len(), watched };
    let after = wait.run(start + patience, faults, progress)?;
    let converged = |n: &&Network| Converged {
        net: n.id,
        nodes: n.nodes.len(),
        after: after.get(&n.id).copied().unwrap_or_default(),
    };
    Ok(networks.iter().map(converged).collect())
}

/// Those whose routes are known, from the base up.
fn networks<'a>(lab: &'a Lab, expected: &Expected) -> Vec<&'a Network> {
    let mut networks: Vec<&Network> =
        lab.networks.iter().filter(|n| !expected.unknown.contains(&n.id)).collect();
    networks.sort_by_key(|n| (n.depth, n.id));
    networks
}

/// What a node's kernel has now.
pub(crate) fn snapshot(ctx: &Context<'_>, node: NodeId) -> Result<Snapshot> {
    let mut monitor = open(ctx, node)?;
    monitor
        .snapshot()?
        .ok_or_else(|| Error::kernel(format!("the routes of {} do not hold still", ctx.lab.full_name(node))))
}

/// The routes of every node whose routes are known, expected under `faults` beside found.
///
/// # Errors
/// If a node cannot be entered or asked.
pub fn routes(ctx: &Context<'_>, faults: &Faults) -> Result<Vec<(NodeId, Vec<RouteRow>)>> {
    let expected = Expected::compute(ctx.lab, ctx.rib, faults);
    let networks = networks(ctx.lab, &expected);
    let nodes: Vec<NodeId> = networks.iter().flat_map(|n| &n.nodes).map(|n| n.id).collect();
    let rows = each(&nodes, |node| Ok(fib::rows(ctx.lab, &expected, *node, &snapshot(ctx, *node)?)))?;
    Ok(nodes.into_iter().zip(rows).collect())
}

/// The routes of one node, expected under `faults` beside found, and whether those expected are known in advance.
///
/// # Errors
/// If it cannot be entered or asked.
pub fn routes_of(ctx: &Context<'_>, faults: &Faults, node: NodeId) -> Result<(Vec<RouteRow>, bool)> {
    let expected = Expected::compute(ctx.lab, ctx.rib, faults);
    let rows = fib::rows(ctx.lab, &expected, node, &snapshot(ctx, node)?);
    Ok((rows, !expected.unknown.contains(&node.net)))
}

fn open(ctx: &Context<'_>, node: NodeId) -> Result<Monitor> {
    ctx.namespaces.run(&ctx.lab.node(node).netns, Monitor::open)?
}

/// A node whose routes may still change.
#[derive(Debug)]
struct Watched {
    node: NodeId,
    monitor: Monitor,
    /// As it was at the last look.
    difference: Option<Difference>,
    looked: Instant,
    /// Something changed since.
    stale: bool,
}

impl Watched {
    /// Looks at a node for the first time; `None` if it is as expected and stays so.
    fn open(ctx: &Context<'_>, expected: &Expected, node: NodeId) -> Result<Option<Self>> {
        let (difference, looked) = (None, Instant::now());
        let mut watched = Self { node, monitor: open(ctx, node)?, difference, looked, stale: true };
        watched.look(ctx, expected)?;
        Ok((!watched.is_settled() || !is_static(ctx.lab, node)).then_some(watched))
    }

    fn look(&mut self, ctx: &Context<'_>, expected: &Expected) -> Result<()> {
        let snapshot = self.monitor.snapshot()?;
        self.looked = Instant::now();
        self.stale = snapshot.is_none();
        if let Some(snapshot) = snapshot {
            self.difference = fib::compare(ctx.lab, expected, self.node, &snapshot);
        }
        Ok(())
    }

    fn is_settled(&self) -> bool {
        !self.stale && self.difference.is_none()
    }
}

/// Whether nothing would mend the routes of a node. The devices of an emulated router have a carrier, and so routes, when its
/// process has opened them and the kernel has noticed (`linkwatch`).
fn is_static(lab: &Lab, node: NodeId) -> bool {
    lab.net(node.net).routing == Routing::Static && !lab.reacts(node) && lab.emulated(node).is_none()
}

struct Wait<'a> {
    ctx: &'a Context<'a>,
    expected: &'a Expected,
    start: Instant,
    /// Nodes, those that are not watched included.
    total: usize,
    /// From the base up.
    watched: Vec<Watched>,
}

impl Wait<'_> {
    /// When each network that was waited for was as expected, counted from the start.
    fn run(
        &mut self,
        until: Instant,
        faults: &Faults,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<BTreeMap<NetId, Duration>> {
        let what = || "cannot wait for route changes".to_owned();
        let epoll = self.watch().doing(Kind::Kernel, what)?;
        let mut events = vec![EpollEvent::empty(); EVENTS];
        let mut settled = BTreeMap::new();
        let mut told = None;
        loop {
            self.look()?;
            let open = self.note(&mut settled);
            if told.replace(open) != Some(open) {
                progress(self.total - open, self.total);
            }
            let now = Instant::now();
            if open > 0 && (now >= until || self.is_hopeless()) {
                let error = self.error(now);
                return Err(self.causes(faults).into_iter().fold(error, Error::because));
            }
            let due = self.watched.iter().filter(|w| w.stale).map(|w| w.looked + PAUSE).min();
            let due = if open == 0 { now } else { due.map_or(until, |due| due.min(until)) };
            let wait = due.saturating_duration_since(now);
            let ready = match epoll.wait(&mut events, timeout(wait)) {
                Err(Errno::EINTR) => 0,
                other => other.doing(Kind::Kernel, what)?,
            };
            if open == 0 && ready == 0 {
                return Ok(settled);
            }
            for event in &events[..ready] {
                let index = usize::try_from(event.data()).unwrap_or(usize::MAX);
                if let Some(watched) = self.watched.get_mut(index) {
                    watched.stale |= watched.monitor.changed()?;
                }
            }
        }
    }

    fn watch(&self) -> nix::Result<Epoll> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (i, watched) in self.watched.iter().enumerate() {
            epoll.add(watched.monitor.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, i as u64))?;
        }
        Ok(epoll)
    }

    fn look(&mut self) -> Result<()> {
        let now = Instant::now();
        for watched in self.watched.iter_mut().filter(|w| w.stale && w.looked + PAUSE <= now) {
            watched.look(self.ctx, self.expected)?;
        }
        Ok(())
    }

    /// Notes which networks have settled, and forgets those that no longer have; how many nodes are open.
    fn note(&self, settled: &mut BTreeMap<NetId, Duration>) -> usize {
        let mut open: BTreeMap<NetId, usize> = BTreeMap::new();
        for watched in &self.watched {
            *open.entry(watched.node.net).or_default() += usize::from(!watched.is_settled());
        }
        for (net, open) in &open {
            if *open > 0 {
                settled.remove(net);
            } else {
                settled.entry(*net).or_insert_with(|| self.start.elapsed());
            }
        }
        open.values().sum()
    }

    /// Whether a node differs that nothing will mend.
    fn is_hopeless(&self) -> bool {
        self.watched.iter().any(|w| !w.stale && w.difference.is_some() && is_static(self.ctx.lab, w.node))
    }

    /// Those that differ; where nothing will mend some, these alone.
    fn open(&self) -> Vec<&Watched> {
        let (lab, hopeless) = (self.ctx.lab, self.is_hopeless());
        let counts = |w: &&Watched| !w.is_settled() && (!hopeless || is_static(lab, w.node));
        self.watched.iter().filter(counts).collect()
    }

    /// What explains it at the first nodes: devices, addresses.
    fn causes(&self, faults: &Faults) -> Vec<String> {
        let mut inquiry = Inquiry::new(self.ctx, faults);
        let nodes: Vec<NodeId> = self.open().iter().map(|w| w.node).take(LOOKED_AT).collect();
        // A node that cannot be asked explains nothing.
        let causes = nodes.into_iter().flat_map(|node| inquiry.at(node).unwrap_or_default());
        let mut words: Vec<String> = causes.map(|cause| format!("at {}: {}", cause.at, cause.what)).collect();
        words.sort();
        words.dedup();
        words
    }

    fn error(&self, now: Instant) -> Error {
        let lab = self.ctx.lab;
        let hopeless = self.is_hopeless();
        let open = self.open();
        let Some(first) = open.first() else { return Error::bug("nothing differs") };
        let name = &lab.net(first.node.net).name;
        let time = now.saturating_duration_since(self.start).as_secs_f64();
        let mut error = Error::new(
            Kind::Failed,
            match hopeless {
                true => format!("the routes of {name} are not the computed ones"),
                false => format!("the routes of {name} are not the computed ones after {time:.1} s"),
            },
        )
        .because(first_words(lab, first));
        for network in &lab.networks {
            let of_network = || open.iter().filter(|w| w.node.net == network.id);
            let routes: usize = of_network().filter_map(|w| w.difference.as_ref()).map(|d| d.routes).sum();
            let (differ, nodes) = (of_network().count(), network.nodes.len());
            if differ > 0 {
                let name = &network.name;
                let plural = if routes == 1 { "" } else { "s" };
                let of = format!("at {differ} of {nodes} nodes");
                error = error.because(format!("in {name}, {routes} route{plural} {of} not as computed"));
                if let Some([a, b]) = confusing(network) {
                    error = error.because(format!(
                        "FRR's isisd confuses parallel links of different cost, such as {} and {}, once one of them has come up \
                         later than the other (FRR issue 19470); links of the same cost it does not",
                        a.name, b.name
                    ));
                }
            }
        }
        error
    }
}

/// Two parallel links that isisd may take for each other. It gives the n-th link to a neighbour in its own link state the n-th of the
/// neighbour's adjacencies, and these stand in the order in which they came up.
fn confusing(network: &Network) -> Option<[&Link; 2]> {
    if network.routing != Routing::Isis {
        return None;
    }
    let between = |link: &Link| {
        let mut nodes = link.ends.each_ref().map(|end| end.node);
        nodes.sort();
        nodes
    };
    let mut first = BTreeMap::new();
    network.links.iter().find_map(|link| {
        let other = *first.entry(between(link)).or_insert(link);
        (other.cost != link.cost).then_some([other, link])
    })
}

fn first_words(lab: &Lab, watched: &Watched) -> String {
    let name = lab.full_name(watched.node);
    match &watched.difference {
        Some(Difference { prefix, expected, found, .. }) => {
            let prefix = prefix_words(lab, watched.node.net, *prefix);
            format!("{name}, to {prefix}: expected {expected}, found {found}")
        }
        None => format!("{name}: its routes do not hold still"),
    }
}

/// Whose a prefix is, and the prefix.
fn prefix_words(lab: &Lab, net: NetId, prefix: Ipv4Net) -> String {
    let in_prefix = |addr: Ipv4Addr| prefix.contains(&addr);
    let link = lab.net(net).links.iter().find(|l| prefix.prefix_len() == 31 && in_prefix(l.ends[0].addr));
    match (link, lab.owner(net, prefix.network())) {
        (Some(link), _) => format!("link {} ({prefix})", link.name),
        (None, Some(node)) if prefix.prefix_len() == 32 => format!("{} ({prefix})", lab.node(node).name),
        (None, _) => prefix.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model;

    /// A router whose exits are computed has routes when its devices have a carrier, which takes a moment.
    #[test]
    fn emulated_routers_are_waited_for_and_static_ones_are_not() {
        let text = include_str!("../../labs/recursion-in-recursion.yaml");
        let lab = model::parse(Path::new("lab.yaml"), text).unwrap();
        let node = |name: &str| lab.nodes().find(|n| lab.full_name(n.id) == name).unwrap().id;
        assert!(!is_static(&lab, node("outer/R")) && !is_static(&lab, node("core/Q")));
        assert!(is_static(&lab, node("core/v1")) && is_static(&lab, node("base/r1")));
        let line = model::parse(Path::new("l.yaml"), "name: l\nbase: {links: [X -- Y]}\n").unwrap();
        assert!(patience(&line) == SETTLE && patience(&lab) > PATIENCE);
    }

    #[test]
    fn parallel_links_that_isisd_confuses_are_named() {
        let names = |routing: &str, cost: u32| {
            let text = format!(
                "name: l\nbase:\n  routing: {routing}\n  links: [X -- Y, Y -- Z, {{link: Y -- X, cost: {cost}}}]\n"
            );
            let lab = model::parse(Path::new("l.yaml"), &text).unwrap();
            confusing(&lab.networks[0]).map(|links| links.map(|l| l.name.clone()))
        };
        assert_eq!(names("isis", 7), Some(["X--Y".to_owned(), "Y--X.2".to_owned()]));
        assert_eq!((names("isis", 1), names("ospf", 7)), (None, None));
    }
}
