//! Successive recursive resolution (paper, III): name, address, prefix, next hop, link, and the same one layer below,
//! down to the base network. A lab, a node, a destination and something to [`Look`] things up in go in; the [`Chain`]
//! of what resolved what comes out. It never asks a kernel itself: what is computed and what is measured take one way.
//!
//! ```text
//! outer/a      10.128.0.2  ->  10.128.0.2/32 via R           route
//! outer link   172.16.0.1  ->  link address 192.168.0.3      link
//!   base/X     192.168.0.3 ->  10.0.0.2                      tunnel, and so on below; then
//! outer/R.p1   10.128.0.2  ->  exit p2, exit VH core/v2      exit resolution
//!   core/v1    10.129.0.4  ->  ...                           route of the VI that plays R
//! ```

pub(super) mod look;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::Serialize;

use super::Context;
use crate::error::Result;
use crate::model::{Carrier, EndId, Lab, NetId, NodeId, Port, Spread};
use crate::routing::{Expected, Faults};
use look::{Computed, Measured};

/// What a node does with a packet for an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The address is one of its own.
    Own,
    /// It leaves by one of these ends, in order.
    Route { prefix: Ipv4Net, ends: Vec<EndId> },
    /// It is dropped, and why.
    Lost(String),
    /// Nobody can compute it.
    Unknown,
}

/// Where steps are looked up.
pub(crate) trait Look {
    /// What the namespace of `node` does with a packet for `to`.
    fn route(&mut self, node: NodeId, to: Ipv4Addr) -> Result<Answer>;

    /// Whether the device of an end is up.
    fn is_up(&mut self, end: EndId) -> Result<bool>;

    /// Why a node does not pass packets on; nothing where it does.
    fn bars(&mut self, node: NodeId) -> Result<Option<String>>;
}

/// One way out of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Way {
    pub device: String,
    /// The node at the other end of the link.
    pub neighbour: String,
    /// Of that end.
    pub address: Ipv4Addr,
    /// Inside an emulated router: the VH of the inner VI that is the port it leaves by.
    pub exit_vh: Option<String>,
}

/// What was found, and by what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum Found {
    /// The node's hosts file, and its name server: the same names.
    Name { address: Ipv4Addr },
    /// A route; of several ways of equal cost the first is followed. By a `wire` a neighbour is reached at once.
    Route { prefix: Ipv4Net, ways: Vec<Way>, wire: bool },
    /// An edge of an emulated router: the port by which what has this prefix leaves the router.
    Exit { prefix: Ipv4Net, ways: Vec<Way> },
    /// The link addresses of a virtual link; what is for the second is resolved one layer below.
    Link { from: Option<Ipv4Addr>, to: Option<Ipv4Addr>, protected: bool },
    /// The link rides on several networks at once; all of them follow.
    Parallel { spread: Spread, strands: usize },
    /// One of these: the network below, its share of packets, and its link addresses.
    Strand { below: String, weight: u32, from: Option<Ipv4Addr>, to: Option<Ipv4Addr> },
    /// The base tunnel between two base nodes that carries a link address.
    Tunnel { from: Option<Ipv4Addr>, to: Ipv4Addr, node: String },
    /// Both ends of the link are on one node below.
    Inside { node: String },
    /// At the exit of an emulated router: the device of the port, with no route looked up.
    Port { device: String },
    /// The process that joins an emulated router with its edges carries it there.
    Served { to: String },
    /// The address is the node's own.
    Own,
    /// As in an earlier step and those that follow it.
    Again { step: usize },
    /// Here the chain breaks.
    Broken { why: String },
    /// Routes from here on are not vilab's to compute.
    Unknown,
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// From 1.
    pub step: usize,
    /// Layers below that of the question the chain began with.
    pub nesting: usize,
    /// The network.
    pub layer: String,
    /// The node or link that is asked.
    pub at: String,
    /// A name or an address.
    pub asked: String,
    #[serde(flatten)]
    pub found: Found,
}

/// What resolved what, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Chain {
    pub steps: Vec<Step>,
    /// Whether it ends at the node that has the address.
    pub arrives: bool,
}

impl Chain {
    /// Where it breaks; in a chain that arrives, the first of the strands of parallel underlays that are broken.
    #[must_use]
    pub fn broken(&self) -> Option<&Step> {
        let mut all = self.steps.iter().filter(|s| matches!(s.found, Found::Broken { .. }));
        if self.arrives { all.next() } else { all.next_back() }
    }

    /// Where it ceases to be known.
    #[must_use]
    pub fn unknown(&self) -> Option<&Step> {
        self.steps.iter().find(|s| s.found == Found::Unknown)
    }

    /// Number of the first step that is not that of `computed`, as far as that one is known.
    #[must_use]
    pub fn differs_from(&self, computed: &Self) -> Option<usize> {
        let known = computed.unknown().map_or(usize::MAX, |s| s.step - 1);
        let count = self.steps.len().max(computed.steps.len()).min(known);
        (0..count).find(|i| self.steps.get(*i) != computed.steps.get(*i)).map(|i| i + 1)
    }
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub from: NodeId,
    /// The name whose address it is, where a name was asked for.
    pub name: Option<String>,
    pub to: Ipv4Addr,
}

/// A question's chain as the kernels have it, and as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resolution {
    pub measured: Chain,
    pub computed: Chain,
}

/// Resolves `question` in a running lab in which `faults` were set.
///
/// # Errors
/// If a kernel cannot be asked. A chain that breaks is no error.
pub fn resolve(ctx: &Context<'_>, faults: &Faults, question: &Question) -> Result<Resolution> {
    let expected = Expected::compute(ctx.lab, ctx.rib, faults);
    Ok(Resolution {
        measured: chain(ctx.lab, question, &mut Measured::new(ctx))?,
        computed: chain(ctx.lab, question, &mut Computed::new(ctx.lab, &expected, faults))?,
    })
}

/// The chain of a question.
pub(crate) fn chain(lab: &Lab, question: &Question, look: &mut dyn Look) -> Result<Chain> {
    let mut resolver = Resolver { lab, look, steps: Vec::new(), seen: BTreeMap::new() };
    if let Some(name) = &question.name {
        resolver.push(0, question.from, name, Found::Name { address: question.to });
    }
    let arrives = resolver.resolve(question.from, question.to, 0)?;
    Ok(Chain { steps: resolver.steps, arrives })
}

/// The name of a node; that of an edge is the port as a lab file has it.
pub(super) fn label(lab: &Lab, node: NodeId) -> String {
    match lab.fabric(node.net) {
        Some(emulated) => format!("{}.{}", lab.full_name(emulated.router), lab.node(node).name),
        None => lab.full_name(node),
    }
}

/// The port in whose namespace a node of a fabric is.
pub(super) fn port(lab: &Lab, node: NodeId) -> Option<&Port> {
    lab.fabric(node.net)?.ports.iter().find(|p| p.edge == node)
}

/// The ends whose devices are in the namespace of `node`. Those of an emulated router are twice there: where it routes
/// and at its edge.
fn ends(lab: &Lab, node: NodeId) -> impl Iterator<Item = EndId> {
    let at = lab.node(node);
    let edge = port(lab, node).map(|p| p.end);
    at.ends.iter().chain(&at.wires).copied().chain(edge)
}

/// What became of a resolution that has begun.
struct Seen {
    first: usize,
    /// `None` while it goes on.
    arrives: Option<bool>,
}

/// What a node does with a packet.
enum Next {
    Arrived,
    Lost,
    Out(EndId),
}

struct Resolver<'a> {
    lab: &'a Lab,
    look: &'a mut dyn Look,
    steps: Vec<Step>,
    /// By node and address.
    seen: BTreeMap<(NodeId, Ipv4Addr), Seen>,
}

impl Resolver<'_> {
    /// From a node to an address of its network, and all that is below. True if it arrives.
    fn resolve(&mut self, from: NodeId, to: Ipv4Addr, nesting: usize) -> Result<bool> {
        match self.seen.get(&(from, to)) {
            Some(Seen { first, arrives: Some(arrives) }) => {
                let (step, arrives) = (*first, *arrives);
                self.push(nesting, from, &to.to_string(), Found::Again { step });
                return Ok(arrives);
            }
            Some(Seen { first, arrives: None }) => {
                let why = format!("this is part of step {first}: it would pass through itself");
                self.broken(nesting, from, to, why);
                return Ok(false);
            }
            None => {}
        }
        let first = self.steps.len() + 1;
        self.seen.insert((from, to), Seen { first, arrives: None });
        let arrives = self.follow(from, to, nesting)?;
        self.seen.insert((from, to), Seen { first, arrives: Some(arrives) });
        Ok(arrives)
    }

    /// Hop after hop.
    fn follow(&mut self, from: NodeId, to: Ipv4Addr, nesting: usize) -> Result<bool> {
        let mut at = from;
        let mut passed = BTreeSet::new();
        loop {
            if !passed.insert(at) {
                self.broken(nesting, at, to, "it comes here again: the routes form a loop".into());
                return Ok(false);
            }
            let end = match self.leave(at, to, passed.len() > 1, nesting)? {
                Next::Arrived => return Ok(true),
                Next::Lost => return Ok(false),
                Next::Out(end) => end,
            };
            if let Some(emulated) = self.lab.emulated(at) {
                let edge = emulated.port(end).map_or(at, |p| p.edge);
                let to_edge = label(self.lab, edge);
                self.push(nesting, at, &to.to_string(), Found::Served { to: to_edge });
            }
            match self.cross(end, to, nesting)? {
                Some(next) => at = next,
                None => return Ok(false),
            }
        }
    }

    /// By which end a packet for `to` leaves a node; `passing` if it came from another.
    fn leave(&mut self, at: NodeId, to: Ipv4Addr, passing: bool, nesting: usize) -> Result<Next> {
        let asked = to.to_string();
        let (prefix, ends) = match self.look.route(at, to)? {
            Answer::Own => {
                let router = self.lab.fabric(at.net).map(|e| e.router);
                let router = router.filter(|r| self.lab.addresses(*r).any(|a| a == to));
                if let Some(router) = router {
                    self.push(nesting, at, &asked, Found::Served { to: label(self.lab, router) });
                }
                self.push(nesting, router.unwrap_or(at), &asked, Found::Own);
                return Ok(Next::Arrived);
            }
            Answer::Lost(why) => {
                self.broken(nesting, at, to, why);
                return Ok(Next::Lost);
            }
            Answer::Unknown => {
                self.push(nesting, at, &asked, Found::Unknown);
                return Ok(Next::Lost);
            }
            Answer::Route { prefix, ends } => (prefix, ends),
        };
        if let Some(why) = if passing { self.look.bars(at)? } else { None } {
            self.broken(nesting, at, to, why);
            return Ok(Next::Lost);
        }
        let Some(first) = ends.first().copied() else {
            self.broken(nesting, at, to, format!("the route to {prefix} has no next hop"));
            return Ok(Next::Lost);
        };
        let ways = ends.iter().map(|end| self.way(*end)).collect();
        let found = match self.lab.fabric(first.link.net) {
            Some(_) => Found::Exit { prefix, ways },
            None => Found::Route { prefix, ways, wire: self.lab.link(first.link).carrier.is_none() },
        };
        self.push(nesting, at, &asked, found);
        Ok(Next::Out(first))
    }

    fn way(&self, end: EndId) -> Way {
        let peer = self.lab.peer(end);
        let exit = port(self.lab, peer.node).filter(|_| self.lab.fabric(end.link.net).is_some());
        Way {
            device: self.lab.end(end).dev.clone(),
            neighbour: label(self.lab, self.lab.site(peer).partition),
            address: peer.addr,
            exit_vh: exit.map(|p| label(self.lab, p.phantom)),
        }
    }

    /// Over a link, from this end: the node that has the packet then; `None` if it does not get there.
    fn cross(&mut self, end: EndId, to: Ipv4Addr, nesting: usize) -> Result<Option<NodeId>> {
        let far = EndId { side: 1 - end.side, ..end };
        if !(self.look.is_up(end)? && self.look.is_up(far)?) {
            let name = &self.lab.link(end.link).name;
            let near = self.lab.site(self.lab.end(end)).partition;
            self.broken(nesting, near, self.lab.peer(end).addr, format!("link {name} is down"));
            return Ok(None);
        }
        if !self.descend(end, nesting)? {
            return Ok(None);
        }
        let next = self.lab.site(self.lab.peer(end)).partition;
        match port(self.lab, next).filter(|_| self.lab.fabric(end.link.net).is_some()) {
            Some(exit) => {
                let (device, out) = (self.lab.end(exit.end).dev.clone(), exit.end);
                self.push(nesting, next, &to.to_string(), Found::Port { device });
                self.cross(out, to, nesting)
            }
            None => Ok(Some(next)),
        }
    }

    /// What carries a link, from this end; true if it does.
    fn descend(&mut self, end: EndId, nesting: usize) -> Result<bool> {
        let (lab, link) = (self.lab, self.lab.link(end.link));
        let (near, far) = (lab.end(end), lab.peer(end));
        let (from, to, protected) = (near.link_addr, far.link_addr, link.security.is_some());
        let ways = lab.ways(end);
        match link.carrier {
            None => Ok(true),
            Some(Carrier::Inside) => {
                let node = label(lab, lab.site(near).base);
                self.push_link(nesting, end, Found::Link { from, to, protected });
                self.push_link(nesting, end, Found::Inside { node });
                Ok(true)
            }
            Some(Carrier::Tunnel) => {
                self.push_link(nesting, end, Found::Link { from, to, protected });
                let Some((base, outer)) = ways.first().copied() else { return Ok(true) };
                let node = label(lab, lab.site(far).base);
                let found = Found::Tunnel { from: lab.node(base).host, to: outer, node };
                let asked = to.map_or_else(|| link.name.clone(), |to| to.to_string());
                self.push(nesting + 1, base, &asked, found);
                self.resolve(base, outer, nesting + 1)
            }
            Some(Carrier::Stacked) => {
                self.push_link(nesting, end, Found::Link { from, to, protected });
                let Some((below, to)) = ways.first().copied() else { return Ok(true) };
                self.resolve(below, to, nesting + 1)
            }
            Some(Carrier::Parallel) => self.spread(end, nesting),
        }
    }

    /// All strands of a link; true if one of them carries it.
    fn spread(&mut self, end: EndId, nesting: usize) -> Result<bool> {
        let lab = self.lab;
        let Some(parallel) = &lab.link(end.link).parallel else { return Ok(false) };
        let strands = parallel.strands.len();
        self.push_link(nesting, end, Found::Parallel { spread: parallel.spread, strands });
        let mut carried = false;
        for strand in &parallel.strands {
            let below = lab.net(strand.below).name.clone();
            let (from, to) = (strand.link_addrs[end.side], strand.link_addrs[1 - end.side]);
            self.push_link(nesting, end, Found::Strand { below, weight: strand.weight, from, to });
            let at = lab.stands_on(end, strand.below);
            if let Some((at, to)) = at.zip(to) {
                carried |= self.resolve(at, to, nesting + 1)?;
            }
        }
        Ok(carried)
    }

    fn push(&mut self, nesting: usize, at: NodeId, asked: &str, found: Found) {
        let net = self.lab.fabric(at.net).map_or(at.net, |e| e.router.net);
        self.push_step(nesting, net, label(self.lab, at), asked.to_owned(), found);
    }

    /// A step at a link, which is asked for the address at its other end.
    fn push_link(&mut self, nesting: usize, end: EndId, found: Found) {
        let lab = self.lab;
        let net = lab.fabric(end.link.net).map_or(end.link.net, |e| e.router.net);
        let of = lab.fabric(end.link.net).map(|e| format!("{}.", lab.full_name(e.router)));
        let of = of.unwrap_or_else(|| format!("{}/", lab.net(net).name));
        let at = format!("{of}{}", lab.link(end.link).name);
        self.push_step(nesting, net, at, lab.peer(end).addr.to_string(), found);
    }

    fn push_step(&mut self, nesting: usize, net: NetId, at: String, asked: String, found: Found) {
        let step = self.steps.len() + 1;
        let layer = self.lab.net(net).name.clone();
        self.steps.push(Step { step, nesting, layer, at, asked, found });
    }

    fn broken(&mut self, nesting: usize, at: NodeId, asked: Ipv4Addr, why: String) {
        self.push(nesting, at, &asked.to_string(), Found::Broken { why });
    }
}

#[cfg(test)]
mod tests;
