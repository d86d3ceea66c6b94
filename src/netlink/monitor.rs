//! Follows the links and IPv4 routes of one network namespace. Notifications go in; whole snapshots come out. It
//! never applies a single notification to what it knows: Linux removes routes without one (a link goes down), and
//! loses some when the socket's buffer is full, so each change means a new snapshot.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use ipnet::Ipv4Net;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags,
    RouteProtocol, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::Socket;
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::nexthop::{self, Objects};
use super::notices::{BUFFER, Notices};
use crate::error::{Context, Kind, Result};

/// Seconds the kernel may take for a part of a dump.
const PATIENCE: i64 = 10;
/// Snapshots begun because the tables changed meanwhile.
const ATTEMPTS: usize = 4;

/// Table numbers of rtnetlink(7).
pub const TABLE_DEFAULT: u32 = 253;
pub const TABLE_MAIN: u32 = 254;
pub const TABLE_LOCAL: u32 = 255;

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    pub up: bool,
    /// Bytes.
    pub mtu: u32,
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    Local,
    Unicast,
    /// Broadcast, unreachable, blackhole and so on; or one with a TOS, an encapsulation or metrics.
    Other,
}

/// A next hop that is not dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    pub ifindex: u32,
    /// The gateway; `None` where the destination is on the link.
    pub via: Option<Ipv4Addr>,
    /// From 1.
    pub weight: u32,
}

/// An IPv4 route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub prefix: Ipv4Net,
    pub table: u32,
    pub priority: u32,
    pub kind: RouteKind,
    /// The kernel made it, along with an address.
    pub kernels_own: bool,
    /// No route but what the kernel learnt about one destination: a redirect, a path MTU. A dump lists these too,
    /// unless it is a strict one (NETLINK_GET_STRICT_CHK).
    pub cached: bool,
    pub hops: Vec<Hop>,
    /// The object whose next hops these are.
    pub object: Option<u32>,
}

/// All links and IPv4 routes at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// By interface index.
    pub links: BTreeMap<u32, Link>,
    pub routes: Vec<Route>,
    /// The rules are not the three default ones (`ip rule`).
    pub policy_routing: bool,
}

/// Two netlink sockets: one hears of changes, the other asks.
pub struct Monitor {
    events: Notices,
    requests: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").field("events", &self.events).finish_non_exhaustive()
    }
}

impl AsFd for Monitor {
    /// Readable when something changed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl Monitor {
    /// Of the network namespace of the calling thread.
    ///
    /// # Errors
    /// If the kernel refuses a socket.
    pub fn open() -> Result<Self> {
        open_sockets().doing(Kind::Kernel, || "cannot open netlink sockets".to_owned())
    }

    /// Whether anything changed since the last call; forgets what it was.
    ///
    /// # Errors
    /// If the socket is broken.
    pub fn changed(&mut self) -> Result<bool> {
        let mut changed = false;
        let lost = self.events.take(&mut self.buffer, &mut |_| changed = true);
        let lost = lost.doing(Kind::Kernel, || "cannot read netlink notifications".to_owned())?;
        Ok(changed || lost)
    }

    /// What the kernel has, or `None` where its tables did not hold still. A change meanwhile is notified, hence
    /// seen by [`Self::changed`] later.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn snapshot(&mut self) -> Result<Option<Snapshot>> {
        for _ in 0..ATTEMPTS {
            let snapshot = self.snapshot_once().doing(Kind::Kernel, || "netlink dump failed".to_owned())?;
            if snapshot.is_some() {
                return Ok(snapshot);
            }
        }
        Ok(None)
    }

    fn snapshot_once(&mut self) -> io::Result<Option<Snapshot>> {
        let links = self.dump(RouteNetlinkMessage::GetLink(link_request()))?;
        let routes = self.dump(RouteNetlinkMessage::GetRoute(route_request()))?;
        let rules = self.dump(RouteNetlinkMessage::GetRule(rule_request()))?;
        let (Some(links), Some(routes), Some(rules)) = (links, routes, rules) else {
            return Ok(None);
        };
        let mut routes: Vec<Route> = routes.iter().filter_map(as_route).collect();
        if routes.iter().any(Route::lacks_hops) {
            let Some(objects) = self.dump_objects()? else { return Ok(None) };
            for route in routes.iter_mut().filter(|r| r.lacks_hops()) {
                route.hops = route.object.map(|id| objects.hops(id)).unwrap_or_default();
            }
        }
        let extra_table = routes.iter().any(|r| r.table == TABLE_DEFAULT);
        Ok(Some(Snapshot {
            links: links.iter().filter_map(as_link).collect(),
            routes,
            policy_routing: extra_table || !are_default(&rules),
        }))
    }

    /// `None` where a change made the dump inconsistent.
    fn dump(&mut self, request: RouteNetlinkMessage) -> io::Result<Option<Vec<RouteNetlinkMessage>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.requests.send(&bytes, 0)?;
        let mut found = Vec::new();
        let mut consistent = true;
        loop {
            let len = recv(self.requests.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
            if self.take(len, &mut found, &mut consistent)? {
                return Ok(consistent.then_some(found));
            }
        }
    }

    /// The next hops that are objects of their own, which [`RouteNetlinkMessage`] does not know.
    fn dump_objects(&mut self) -> io::Result<Option<Objects>> {
        self.sequence = self.sequence.wrapping_add(1);
        self.requests.send(&nexthop::request(self.sequence), 0)?;
        let mut objects = Objects::default();
        loop {
            let len = recv(self.requests.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
            if objects.read(&self.buffer[..len], self.sequence)? {
                return Ok((!objects.torn).then_some(objects));
            }
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the enum is open; only answers to this request count"
    )]
    /// Parses the messages of one datagram; true after the last one of the dump.
    fn take(
        &self,
        len: usize,
        found: &mut Vec<RouteNetlinkMessage>,
        consistent: &mut bool,
    ) -> io::Result<bool> {
        let mut rest = &self.buffer[..len];
        while !rest.is_empty() {
            let message =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            let (header, payload) = message.into_parts();
            let ours = header.sequence_number == self.sequence;
            *consistent &= !ours || header.flags & NLM_F_DUMP_INTR == 0;
            match payload {
                NetlinkPayload::Done(_) if ours => return Ok(true),
                NetlinkPayload::Error(error) if ours => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(inner) if ours => found.push(inner),
                _ => {}
            }
            let aligned = (header.length as usize).next_multiple_of(4).max(4);
            rest = rest.get(aligned..).unwrap_or_default();
        }
        Ok(false)
    }
}

fn open_sockets() -> io::Result<Monitor> {
    use MulticastGroup::{Ipv4Ifaddr, Ipv4Route, Ipv4Rule, Link};
    let events = Notices::open(&[Link, Ipv4Ifaddr, Ipv4Route, Ipv4Rule])?;
    let mut requests = Socket::new(NETLINK_ROUTE)?;
    requests.bind_auto()?;
    setsockopt(&requests, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE))?;
    Ok(Monitor { events, requests, sequence: 0, buffer: vec![0; BUFFER] })
}

fn link_request() -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

fn route_request() -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader { address_family: AddressFamily::Inet, ..RouteHeader::default() };
    message
}

fn rule_request() -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet;
    message
}

fn as_link(message: &RouteNetlinkMessage) -> Option<(u32, Link)> {
    let RouteNetlinkMessage::NewLink(link) = message else {
        return None;
    };
    let mut found = Link { name: String::new(), up: link.header.flags.contains(LinkFlags::Up), mtu: 0 };
    for attribute in &link.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            found.name.clone_from(name);
        }
        if let LinkAttribute::Mtu(mtu) = attribute {
            found.mtu = *mtu;
        }
    }
    Some((link.header.index, found))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is open; what is not known is not followed")]
fn as_route(message: &RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else {
        return None;
    };
    let header = &message.header;
    if header.address_family != AddressFamily::Inet {
        return None;
    }
    if header.flags.contains(RouteFlags::Dead) {
        return None;
    }
    let kind = match header.kind {
        RouteType::Local => RouteKind::Local,
        RouteType::Unicast if header.tos == 0 => RouteKind::Unicast,
        _ => RouteKind::Other,
    };
    let prefix = Ipv4Net::new(Ipv4Addr::UNSPECIFIED, header.destination_prefix_length).ok()?;
    let table = u32::from(header.table);
    let kernels_own = header.protocol == RouteProtocol::Kernel;
    let cached = header.flags.contains(RouteFlags::Cloned);
    let (hops, object) = (Vec::new(), None);
    let mut route = Route { prefix, table, priority: 0, kind, kernels_own, cached, hops, object };
    for attribute in &message.attributes {
        route.add(attribute);
    }
    // Of a route with one next hop, the gateway is an attribute beside the device.
    if let (Some(via), [hop]) = (message.attributes.iter().find_map(gateway), route.hops.as_mut_slice()) {
        hop.via = Some(via);
    }
    Some(route)
}

impl Route {
    /// Whether it names an object and not what is in it.
    fn lacks_hops(&self) -> bool {
        self.object.is_some() && self.hops.is_empty() && self.kind == RouteKind::Unicast
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is open; what is not known is not followed")]
    fn add(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(addr)) => {
                self.prefix = Ipv4Net::new_assert(*addr, self.prefix.prefix_len()).trunc();
            }
            RouteAttribute::Table(table) => self.table = *table,
            RouteAttribute::Priority(priority) => self.priority = *priority,
            RouteAttribute::Oif(ifindex) => self.hops.push(Hop { ifindex: *ifindex, via: None, weight: 1 }),
            RouteAttribute::MultiPath(hops) => self.hops.extend(hops.iter().filter_map(alive)),
            RouteAttribute::NhId(id) => self.object = Some(*id),
            RouteAttribute::Gateway(_) | RouteAttribute::PrefSource(_) | RouteAttribute::CacheInfo(_) => {}
            // An encapsulation, a lowered MTU, a gateway of another family: not followed.
            _ => self.kind = RouteKind::Other,
        }
    }
}

/// A next hop of several, unless the kernel has given it up.
fn alive(hop: &RouteNextHop) -> Option<Hop> {
    let via = hop.attributes.iter().find_map(gateway);
    let dead = hop.flags.contains(RouteNextHopFlags::Dead);
    (!dead).then(|| Hop { ifindex: hop.interface_index, via, weight: u32::from(hop.hops) + 1 })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is open; only a gateway counts")]
fn gateway(attribute: &RouteAttribute) -> Option<Ipv4Addr> {
    match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(addr)) => Some(*addr),
        _ => None,
    }
}

/// Whether the rules are those that a namespace starts with: local, main, default.
fn are_default(rules: &[RouteNetlinkMessage]) -> bool {
    let mut tables = Vec::new();
    for message in rules {
        let RouteNetlinkMessage::NewRule(rule) = message else { continue };
        if rule.header.family != AddressFamily::Inet {
            continue;
        }
        let Some(found) = plain_rule(rule) else { return false };
        tables.push(found);
    }
    tables.retain(|rule| *rule != (32767, TABLE_DEFAULT));
    tables == [(0, TABLE_LOCAL), (32766, TABLE_MAIN)]
}

/// Priority and table of a rule that matches everything.
#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is open; any other attribute is a condition")]
fn plain_rule(rule: &RuleMessage) -> Option<(u32, u32)> {
    let header = &rule.header;
    let matches_all =
        header.src_len == 0 && header.dst_len == 0 && header.tos == 0 && header.flags.is_empty();
    if !matches_all || header.action != RuleAction::ToTable {
        return None;
    }
    let (mut priority, mut table) = (0, u32::from(header.table));
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Priority(value) => priority = *value,
            RuleAttribute::Table(value) => table = *value,
            RuleAttribute::SuppressPrefixLen(u32::MAX) | RuleAttribute::Protocol(_) => {}
            _ => return None,
        }
    }
    Some((priority, table))
}
