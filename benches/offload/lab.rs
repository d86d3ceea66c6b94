//! What the programs must know of a running lab. The engine's configuration and what the kernels say of devices and routes go in;
//! for each end of a virtual link the headers that its packets get, or why it is left to the engine, comes out. It does no I/O.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use vilab::fastpath::Config;
use vilab::fastpath::config::{Below, Interface};
use vilab::fastpath::fib::{Action, Route};
use vilab::fastpath::forward::Device;
use vilab::model::Impairment;
use vilab::packet::ipv4;

/// The most headers that are put on or taken off: the base header and eight layers. The stack of a program has 512 bytes, and holds
/// those that arrived beside those that leave.
pub(crate) const MOST_HEADERS: usize = 9;
/// The most routes of a partition: they are compared one after the other.
const MOST_ROUTES: usize = 64;

/// Source and destination of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) src: Ipv4Addr,
    pub(crate) dst: Ipv4Addr,
}

/// What a program does with a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Local,
    /// Through this interface (index in [`Config::interfaces`]).
    Out(usize),
    /// The engine decides.
    Pass,
}

/// The devices by which packets pass between a partition and its base node: a veth pair beside the TUN device, for a program cannot
/// send a packet from one namespace to another otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Crossing {
    /// Indices: the TUN device and the veth in the partition's namespace, the veth in the base node's.
    pub(crate) tun: u32,
    pub(crate) inside: u32,
    pub(crate) outside: u32,
    /// Of the latter.
    pub(crate) mac: [u8; 6],
}

/// A lab as it is at one moment.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) config: Config,
    /// Of each partition, longest prefix first.
    pub(crate) routes: Vec<Vec<(Ipv4Net, Way)>>,
    /// Of each interface.
    pub(crate) devices: Vec<Device>,
    pub(crate) crossings: BTreeMap<usize, Crossing>,
}

/// The routes of one partition as programs follow them: several next hops, and rules beyond the default ones, are the engine's.
pub(crate) fn table(routes: &[Route], policy_routing: bool) -> Vec<(Ipv4Net, Way)> {
    let mut best: BTreeMap<Ipv4Net, &Route> = BTreeMap::new();
    let rank = |r: &Route| (!r.local_table, r.priority);
    for route in routes {
        let entry = best.entry(route.prefix.trunc()).or_insert(route);
        if rank(route) < rank(entry) {
            *entry = route;
        }
    }
    let way = |route: &Route| match &route.action {
        Action::Local => Way::Local,
        Action::Unicast(hops) if !policy_routing => match hops.as_slice() {
            [hop] => hop.interface.map_or(Way::Pass, Way::Out),
            _ => Way::Pass,
        },
        Action::Unicast(_) | Action::Other => Way::Pass,
    };
    let mut table: Vec<_> = best.into_iter().map(|(prefix, route)| (prefix, way(route))).collect();
    table.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix_len()));
    table
}

impl Lab {
    pub(crate) fn interface(&self, i: usize) -> &Interface {
        &self.config.interfaces[i]
    }

    pub(crate) fn node_of(&self, i: usize) -> usize {
        self.config.partitions[self.interface(i).partition].node
    }

    pub(crate) fn way(&self, partition: usize, to: Ipv4Addr) -> Way {
        let found = self.routes[partition].iter().find(|(prefix, _)| prefix.contains(&to));
        found.map_or(Way::Pass, |(_, way)| *way)
    }

    /// Why programs leave what comes or goes by interface `i` to the engine.
    pub(crate) fn left(&self, i: usize) -> Option<&'static str> {
        let this = self.interface(i);
        let reasons = [
            (!self.devices[i].up, "down"),
            (this.security.is_some(), "ESP"),
            (this.bundle.is_some(), "strands"),
            (this.fragments.is_some(), "fragments"),
            (this.exit.is_some(), "exit of an emulated router"),
            (this.impair != Impairment::default(), "impaired"),
            (self.routes[this.partition].len() > MOST_ROUTES, "many routes"),
        ];
        reasons.into_iter().find_map(|(holds, why)| holds.then_some(why))
    }

    /// The headers that a packet gets which leaves by interface `i`, outermost first.
    pub(crate) fn headers(&self, i: usize) -> Result<Vec<Pair>, &'static str> {
        let mut headers = Vec::new();
        let mut at = i;
        while headers.len() < MOST_HEADERS {
            if let Some(why) = self.left(at) {
                return Err(why);
            }
            let this = self.interface(at);
            headers.push(Pair { src: this.local, dst: this.remote });
            match this.below {
                Below::Base { remote } => {
                    headers.push(Pair { src: self.config.nodes[self.node_of(at)].addr, dst: remote });
                    headers.reverse();
                    return if headers.len() > MOST_HEADERS { Err("depth") } else { Ok(headers) };
                }
                Below::Inside => return Err("inside one base node"),
                Below::Strands => return Err("strands"),
                Below::Partition(lower) => match self.way(lower, this.remote) {
                    Way::Out(j) if self.devices[at].mtu + ipv4::HEADER_LEN > self.devices[j].mtu => {
                        return Err("MTU");
                    }
                    Way::Out(j) => at = j,
                    Way::Local => return Err("inside one base node"),
                    Way::Pass => return Err("the route below"),
                },
            }
        }
        Err("depth")
    }

    /// The interfaces of a base node whose link headers come in base headers, and which programs carry.
    pub(crate) fn on_base(&self, node: usize) -> impl Iterator<Item = (usize, Ipv4Addr)> + '_ {
        self.crossings.keys().filter(move |i| self.node_of(**i) == node).filter_map(|i| {
            match self.interface(*i).below {
                Below::Base { remote } => Some((*i, remote)),
                Below::Inside | Below::Partition(_) | Below::Strands => None,
            }
        })
    }

    /// Those stacked on a partition.
    pub(crate) fn stacked(&self, partition: usize) -> impl Iterator<Item = usize> + '_ {
        self.crossings
            .keys()
            .copied()
            .filter(move |i| self.interface(*i).below == Below::Partition(partition))
    }
}
