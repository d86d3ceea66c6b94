//! What explains that a packet does not go the computed way. A way, followed on paper, goes in; what is not as it must be
//! on it, with the node, the device, what is expected and what is found, comes out. It never changes anything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::resolve::{self, Found, Question, label};
use super::walk::{Event, Packet, Walk};
use super::{Context, Rule, converge, counters, foreign, rules};
use crate::error::Result;
use crate::fastpath::Reason;
use crate::model::{EndId, Lab, NodeId};
use crate::netlink::monitor::{RouteKind, Snapshot, TABLE_LOCAL};
use crate::routing::Faults;

/// As sysctl(8) names it.
pub(super) const FORWARDING: &str = "net.ipv4.ip_forward";

/// What is not as computed, and explains a difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    pub kind: CauseKind,
    /// A node.
    pub at: String,
    pub what: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CauseKind {
    Route,
    Device,
    Mtu,
    Address,
    Sysctl,
    Filter,
    Impairment,
    Service,
    /// More passed than a capture could take.
    Capture,
}

/// A look at the nodes of a way, each of whose kernels is asked once.
#[derive(Debug)]
pub(super) struct Inquiry<'a> {
    ctx: &'a Context<'a>,
    faults: &'a Faults,
    known: BTreeMap<NodeId, Snapshot>,
}

impl<'a> Inquiry<'a> {
    pub(super) fn new(ctx: &'a Context<'a>, faults: &'a Faults) -> Self {
        Self { ctx, faults, known: BTreeMap::new() }
    }

    /// What is not as computed on a way, whether or not a packet suffers from it.
    pub(super) fn drift(&mut self, walk: &Walk, packet: &Packet) -> Result<Vec<Cause>> {
        let (down, mut seen, mut causes) = (self.faults.ends(self.ctx.lab), BTreeSet::new(), Vec::new());
        for (end, size) in walk.devices.iter().flat_map(|(end, size)| [(*end, *size), (far(*end), *size)]) {
            if seen.insert(end) && !down.contains(&end) {
                causes.extend(self.device(end, size, packet.whole)?);
            }
        }
        for node in nodes(self.ctx.lab, walk) {
            causes.extend(self.addresses(node)?);
        }
        for node in forwarders(walk) {
            causes.extend(self.forwarding(node)?);
        }
        Ok(causes)
    }

    /// What is not as computed at one node, routes aside.
    pub(super) fn at(&mut self, node: NodeId) -> Result<Vec<Cause>> {
        let lab = self.ctx.lab;
        let (down, mut causes) = (self.faults.ends(lab), Vec::new());
        for end in lab.node(node).ends.iter().chain(&lab.node(node).wires).filter(|end| !down.contains(end)) {
            for end in [*end, far(*end)] {
                causes.extend(self.device(end, 0, false)?);
            }
        }
        causes.extend(self.addresses(node)?);
        causes.extend(self.forwarding(node)?);
        Ok(causes)
    }

    /// What takes packets away on a way, where one has not arrived.
    pub(super) fn losses(&self, walk: &Walk, from: NodeId, to: Ipv4Addr) -> Result<Vec<Cause>> {
        let mut causes: Vec<Cause> = route(self.ctx, self.faults, from, to)?.into_iter().collect();
        causes.extend(strong_hosts(self.ctx, walk)?);
        causes.extend(impairments(self.ctx.lab, walk));
        let way = nodes(self.ctx.lab, walk);
        causes.extend(foreign::rules(self.ctx, &way)?.into_iter().map(|(at, what)| Cause {
            kind: CauseKind::Filter,
            at,
            what: format!("a rule that is not the lab's may have dropped it: {what}"),
        }));
        Ok(causes)
    }

    fn snapshot(&mut self, node: NodeId) -> Result<&Snapshot> {
        if !self.known.contains_key(&node) {
            self.known.insert(node, converge::snapshot(self.ctx, node)?);
        }
        Ok(&self.known[&node])
    }

    /// A device that is down or gone, or whose MTU is not the computed one; `size` is that of the packet there.
    fn device(&mut self, end: EndId, size: usize, whole: bool) -> Result<Option<Cause>> {
        let lab = self.ctx.lab;
        let (at, device, wanted) =
            (lab.site(lab.end(end)).partition, &lab.end(end).dev, lab.link(end.link).mtu);
        let found = self.snapshot(at)?.links.values().find(|link| link.name == *device);
        let (kind, what) = match found {
            None => (CauseKind::Device, format!("device {device} is gone")),
            Some(link) if !link.up => (CauseKind::Device, format!("device {device} is down")),
            Some(link) if link.mtu != wanted => {
                let fits = usize::try_from(link.mtu).is_ok_and(|mtu| mtu >= size || !whole);
                let fate = if fits { String::new() } else { format!(": too small for the {size} bytes") };
                (CauseKind::Mtu, format!("device {device} has MTU {}, not {wanted}{fate}", link.mtu))
            }
            Some(_) => return Ok(None),
        };
        Ok(Some(Cause { kind, at: label(lab, at), what }))
    }

    /// Addresses that a node lacks, of devices that are up.
    fn addresses(&mut self, node: NodeId) -> Result<Vec<Cause>> {
        let lab = self.ctx.lab;
        // Those of an emulated router are at its edges, and its process puts them there.
        if lab.fabric(node.net).is_some() || lab.emulated(node).is_some() {
            return Ok(Vec::new());
        }
        let down = self.faults.ends(lab);
        let snapshot = self.snapshot(node)?;
        let missing = wanted(lab, node, &down).filter_map(|(dev, addr)| lacks(snapshot, dev, addr));
        let cause = |what| Cause { kind: CauseKind::Address, at: label(lab, node), what };
        Ok(missing.map(cause).collect())
    }

    /// A router whose kernel does not forward.
    fn forwarding(&self, node: NodeId) -> Result<Option<Cause>> {
        let lab = self.ctx.lab;
        let off = lab.node(node).forwards && !forwards(self.ctx, node)?;
        let what = || format!("{FORWARDING} is 0, not 1");
        Ok(off.then(|| Cause { kind: CauseKind::Sysctl, at: label(lab, node), what: what() }))
    }
}

/// Whether the kernel of a node forwards.
pub(super) fn forwards(ctx: &Context<'_>, node: NodeId) -> Result<bool> {
    let file = format!("/proc/sys/{}", FORWARDING.replace('.', "/"));
    let read = || std::fs::read_to_string(file);
    // What cannot be read explains nothing.
    let value = ctx.namespaces.run(&ctx.lab.node(node).netns, read)?;
    Ok(value.map_or(true, |value| value.trim() != "0"))
}

fn far(end: EndId) -> EndId {
    EndId { side: 1 - end.side, ..end }
}

/// All nodes of a way, base nodes among them, in order of their layers.
fn nodes(lab: &Lab, walk: &Walk) -> BTreeSet<NodeId> {
    let events = walk.events.iter().filter_map(|event| match event {
        Event::Added { at, .. } | Event::Removed { at, .. } | Event::Forwarded { at, .. } => Some(*at),
        Event::Wire { .. } => None,
    });
    let ends = walk.devices.iter().flat_map(|(end, _)| [*end, far(*end)]);
    events.chain(ends.map(|end| lab.site(lab.end(end)).partition)).collect()
}

fn forwarders(walk: &Walk) -> BTreeSet<NodeId> {
    let at = |event: &Event| match event {
        Event::Forwarded { at, .. } => Some(*at),
        Event::Added { .. } | Event::Removed { .. } | Event::Wire { .. } => None,
    };
    walk.events.iter().filter_map(at).collect()
}

/// The addresses that a node must have, each with its device.
fn wanted<'a>(
    lab: &'a Lab,
    node: NodeId,
    down: &'a BTreeSet<EndId>,
) -> impl Iterator<Item = (&'a str, Ipv4Addr)> {
    let at = lab.node(node);
    let own = at.host.iter().chain(&at.stacked).map(|addr| ("lo", *addr));
    let ends = at.ends.iter().chain(&at.wires).filter(|end| !down.contains(end));
    own.chain(ends.map(|end| (lab.end(*end).dev.as_str(), lab.end(*end).addr)))
}

/// What is wrong with an address of a device that is up, in words.
fn lacks(snapshot: &Snapshot, dev: &str, addr: Ipv4Addr) -> Option<String> {
    let (index, link) = snapshot.links.iter().find(|(_, link)| link.name == dev)?;
    let local = || snapshot.routes.iter().filter(|r| r.table == TABLE_LOCAL && r.kind == RouteKind::Local);
    if !link.up || local().any(|r| r.prefix.contains(&addr) && !r.prefix.addr().is_loopback()) {
        return None;
    }
    let of_device = local().filter(|r| r.hops.iter().any(|hop| hop.ifindex == *index));
    let found: Vec<String> =
        of_device.map(|r| r.prefix.addr()).filter(|a| !a.is_loopback()).map(|a| a.to_string()).collect();
    let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
    Some(format!("device {dev} lacks its address {addr}; it has {found}"))
}

/// The first route on the way that is not the computed one.
fn route(ctx: &Context<'_>, faults: &Faults, from: NodeId, to: Ipv4Addr) -> Result<Option<Cause>> {
    let found = resolve::resolve(ctx, faults, &Question { from, name: None, to })?;
    let step = found.measured.differs_from(&found.computed);
    let step =
        step.and_then(|at| Some((found.measured.steps.get(at - 1)?, found.computed.steps.get(at - 1))));
    Ok(step.map(|(measured, computed)| {
        let wanted = computed.map(|c| told(&c.found)).filter(|w| !w.is_empty());
        let wanted = wanted.map(|w| format!("; computed: {w}")).unwrap_or_default();
        Cause {
            kind: CauseKind::Route,
            at: measured.at.clone(),
            what: format!("{}{wanted}", told(&measured.found)),
        }
    }))
}

/// What a step of a resolution says of a route; nothing for steps that say something else.
fn told(found: &Found) -> String {
    match found {
        Found::Route { prefix, ways, .. } | Found::Exit { prefix, ways } => {
            let ways: Vec<String> =
                ways.iter().map(|w| format!("{} dev {}", w.neighbour, w.device)).collect();
            format!("{prefix} via {}", ways.join(" or "))
        }
        Found::Broken { why } => why.clone(),
        Found::Own => "it is its own address".to_owned(),
        Found::Name { .. }
        | Found::Link { .. }
        | Found::Parallel { .. }
        | Found::Strand { .. }
        | Found::Tunnel { .. }
        | Found::Inside { .. }
        | Found::Port { .. }
        | Found::Served { .. }
        | Found::Again { .. }
        | Found::Unknown => String::new(),
    }
}

/// Entries of the strong-host rule on the way that are not in force.
fn strong_hosts(ctx: &Context<'_>, walk: &Walk) -> Result<Vec<Cause>> {
    let lab = ctx.lab;
    let passed: BTreeSet<EndId> = walk.devices.iter().map(|(end, _)| far(*end)).collect();
    let nodes: BTreeSet<NodeId> = passed.iter().map(|end| lab.site(lab.end(*end)).base).collect();
    let nodes: Vec<NodeId> = nodes.into_iter().collect();
    // A dataplane that does not run is a cause of its own.
    let Ok(rules) = rules(ctx, &nodes) else { return Ok(Vec::new()) };
    let missing = rules.into_iter().filter(|rule| !rule.in_force && passed.contains(&rule.end));
    let cause = |rule: Rule| Cause {
        kind: CauseKind::Filter,
        at: lab.full_name(rule.node),
        what: lacking(lab, &rule),
    };
    Ok(missing.map(cause).collect())
}

fn lacking(lab: &Lab, rule: &Rule) -> String {
    let name = |node: NodeId| lab.node(node).name.clone();
    let from = rule.from.map(name).unwrap_or_default();
    let (dev, link) = (&lab.end(rule.end).dev, lab.full_link_name(rule.end.link));
    let instead = rule.instead.map(|node| format!(" but from {}", name(node))).unwrap_or_default();
    format!(
        "its strong-host rule does not accept {} from {from}{instead}: device {dev} of link {link}",
        rule.addr
    )
}

/// Links of the way that lose packets because somebody asked for it.
fn impairments(lab: &Lab, walk: &Walk) -> Vec<Cause> {
    let loses = |(end, _): &(EndId, usize)| {
        let share = lab.link(end.link).impair[end.side].loss_ppm;
        let (name, device) = (lab.full_link_name(end.link), &lab.end(*end).dev);
        (share > 0).then(|| Cause {
            kind: CauseKind::Impairment,
            at: label(lab, lab.site(lab.end(*end)).partition),
            what: format!(
                "device {device} loses {} % of what it sends, for link {name} is impaired so",
                f64::from(share) / 10_000.0
            ),
        })
    };
    walk.devices.iter().filter_map(loses).collect()
}

/// Counters of dropped packets by base node and name; nothing where a dataplane cannot be asked, which is then a cause itself.
type Counts = BTreeMap<String, BTreeMap<String, u64>>;

/// What has been dropped, and why.
#[derive(Debug)]
pub(super) struct Drops(Option<Counts>);

impl Drops {
    pub(super) fn now(ctx: &Context<'_>) -> Self {
        let mut all = counters::counters(ctx).ok();
        for counters in all.iter_mut().flat_map(BTreeMap::values_mut) {
            // What follows is IPv4; the kernels' own IPv6 is dropped all the time.
            let told = |reason: &&Reason| **reason != Reason::NotIpv4;
            counters.retain(|name, _| Reason::ALL.iter().filter(told).any(|reason| reason.as_str() == name));
        }
        Self(all)
    }

    /// What was counted between two looks.
    pub(super) fn rises(&self, after: &Self) -> Vec<Cause> {
        let (Some(before), Some(after)) = (&self.0, &after.0) else {
            let what = "a dataplane does not tell what it counts".to_owned();
            return vec![Cause { kind: CauseKind::Service, at: "the lab".to_owned(), what }];
        };
        let mut causes = Vec::new();
        for (node, counters) in after {
            for (name, count) in counters {
                let was = before.get(node).and_then(|c| c.get(name)).copied().unwrap_or(0);
                if *count > was {
                    let what = format!("{name} counted {}", count - was);
                    causes.push(Cause { kind: CauseKind::Filter, at: format!("base/{node}"), what });
                }
            }
        }
        causes
    }
}
