//! Configuration for FRR, one set of daemons for each node. A [`Lab`] and one of its nodes go in; the files of
//! `/etc/frr` come out. It never depends on more than the lab, and writes no command twice that is FRR's default.
//!
//! All protocols are tuned alike: what is new is told at once, a neighbour that is silent for four seconds is gone, and
//! links are point-to-point, so nobody elects anybody. FRR's own defaults are for networks of other dimensions.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::model::{BASE, EndId, External, Lab, Link, Network, Node, NodeId, Routing};

/// Seconds between hellos, and after how many a silent neighbour is gone.
const HELLO: u32 = 1;
const DEAD: u32 = 4;
/// Milliseconds a BGP speaker waits for more before it tells its neighbours.
const COALESCE: u32 = 50;
/// The first of the private four-byte AS numbers (RFC 6996).
const FIRST_AS: u32 = 4_200_000_000;
/// Area and instance of IS-IS, of local meaning only.
const ISIS_AREA: &str = "49.0001";
const ISIS_TAG: &str = "vilab";
/// Bytes in front of an IS-IS packet: an LLC header on a wire (ISO 10589, 8.4.2), an IPv4 header on a virtual link.
const LLC: u32 = 3;
const IPV4: u32 = 20;
/// Bounds of FRR's `lsp-mtu`, the upper one its default.
const LSP_MTU: (u32, u32) = (128, 1497);
/// Equal-cost paths that FRR can be built for at most (`--enable-multipath`).
const MOST_PATHS: usize = 256;

/// The daemons that a node of a network with this routing runs beside zebra, which comes first and serves them; `None`
/// where FRR has no part.
#[must_use]
pub fn daemon(routing: Routing) -> Option<&'static str> {
    match routing {
        Routing::Ospf => Some("ospfd"),
        Routing::Isis => Some("isisd"),
        Routing::Rip => Some("ripd"),
        Routing::Bgp => Some("bgpd"),
        Routing::Static | Routing::None => None,
    }
}

/// The daemons of one node, in the order in which they start; none where there is nobody to talk to.
#[must_use]
pub fn daemons(lab: &Lab, node: NodeId) -> Vec<&'static str> {
    let alone = lab.node(node).ends.is_empty();
    match daemon(lab.net(node.net).routing) {
        Some(daemon) if !alone => vec!["zebra", daemon],
        Some(_) | None => Vec::new(),
    }
}

/// The text of each file in `/etc/frr`, by name; empty where the node runs no daemon.
#[must_use]
pub fn files(lab: &Lab, node: NodeId) -> BTreeMap<String, String> {
    let externals = lab.externals(node);
    let this = This { lab, network: lab.net(node.net), node: lab.node(node), externals };
    let Some(id) = lab.address(node) else { return BTreeMap::new() };
    let text = |daemon: &str| match daemon {
        "ospfd" => this.ospf(id),
        "isisd" => this.isis(),
        "ripd" => this.rip(),
        "bgpd" => this.bgp(id),
        _ => this.zebra(),
    };
    let mut files: BTreeMap<String, String> =
        daemons(lab, node).into_iter().map(|daemon| (format!("{daemon}.conf"), text(daemon))).collect();
    if !files.is_empty() {
        files.insert("vtysh.conf".to_owned(), "no service integrated-vtysh-config\n".to_owned());
    }
    files
}

/// A node and what its configuration is made of.
struct This<'a> {
    lab: &'a Lab,
    network: &'a Network,
    node: &'a Node,
    /// What it announces of other networks.
    externals: Vec<External>,
}

impl<'a> This<'a> {
    fn ends(&self) -> impl Iterator<Item = Neighbour<'a>> {
        let (lab, ends) = (self.lab, &self.node.ends);
        ends.iter().map(move |end| Neighbour::new(lab, *end))
    }

    /// The prefixes of its own addresses that belong to its network.
    fn own_prefixes(&self) -> Vec<Ipv4Net> {
        let hosts = self.node.host.iter().chain(&self.node.stacked).map(|addr| Ipv4Net::from(*addr));
        let links = self.ends().map(|n| Ipv4Net::new_assert(n.own, 31).trunc());
        hosts.chain(links).chain(self.wire_prefixes()).collect()
    }

    /// The prefixes of its gateways that belong to its network.
    fn wire_prefixes(&self) -> Vec<Ipv4Net> {
        self.externals.iter().filter(|e| e.wires.is_empty()).map(|e| e.prefix).collect()
    }

    /// The prefixes that its gateways lead to.
    fn led(&self) -> impl Iterator<Item = Ipv4Net> {
        self.externals.iter().filter(|e| !e.wires.is_empty()).map(|e| e.prefix)
    }

    fn leads_anywhere(&self) -> bool {
        self.led().any(|prefix| prefix.prefix_len() == 0)
    }

    /// The route maps that `redistribute` needs, where there are gateways: these `connected` prefixes, as a wire's may
    /// belong to the other network, and `kernel`, the routes through gateways.
    fn lists(&self, connected: Vec<Ipv4Net>) -> String {
        let mut text = String::new();
        if self.node.wires.is_empty() {
            return text;
        }
        for (name, prefixes) in [("connected", connected), ("kernel", self.led().collect())] {
            for (index, prefix) in prefixes.iter().enumerate() {
                let _ = writeln!(text, "ip prefix-list {name} seq {} permit {prefix}", 5 * (index + 1));
            }
            let _ = write!(text, "route-map {name} permit 10\n match ip address prefix-list {name}\nexit\n");
        }
        text
    }

    /// Lines that announce what the node leads to, each after `before`, with `options` at its end.
    fn redistribute(&self, before: &str, options: &str, sources: &[&str]) -> String {
        let wired = !self.node.wires.is_empty();
        let needed = |source: &&&str| wired || **source == "connected";
        let map = |source: &str| if wired { format!(" route-map {source}") } else { String::new() };
        let line = |source: &&str| format!("{before} {source}{options}{}\n", map(source));
        sources.iter().filter(needed).map(line).collect()
    }

    /// The host address is the source of what the node sends on any route.
    fn zebra(&self) -> String {
        let mut text = "zebra route-map delay-timer 0\nno zebra nexthop kernel enable\n".to_owned();
        let protocol = match self.network.routing {
            Routing::Ospf => "ospf",
            Routing::Isis => "isis",
            Routing::Rip => "rip",
            Routing::Bgp => "bgp",
            Routing::Static | Routing::None => return text,
        };
        if let Some(host) = self.node.host {
            let _ = write!(
                text,
                "route-map host permit 10\n set src {host}\nexit\nip protocol {protocol} route-map host\n"
            );
        }
        text
    }

    fn ospf(&self, id: Ipv4Addr) -> String {
        let mut text = self.lists(self.wire_prefixes());
        text.push_str("interface lo\n ip ospf passive\n ip ospf area 0\nexit\n");
        for Neighbour { dev, link, .. } in self.ends() {
            let _ = write!(
                text,
                "interface {dev}\n ip ospf network point-to-point\n ip ospf hello-interval {HELLO}\n \
                 ip ospf dead-interval {DEAD}\n ip ospf cost {}\n ip ospf area 0\nexit\n",
                link.cost
            );
        }
        let _ = write!(
            text,
            "router ospf\n ospf router-id {id}\n timers throttle spf 0 50 500\n timers throttle lsa all 0\n \
             timers lsa min-arrival 0\n"
        );
        if !self.node.wires.is_empty() {
            let sources = ["connected", "kernel"];
            text.push_str(&self.redistribute(" redistribute", " metric 0 metric-type 1", &sources));
        }
        if self.leads_anywhere() {
            text.push_str(" default-information originate metric 0 metric-type 1\n");
        }
        text.push_str("exit\n");
        text
    }

    /// `net` comes last: it makes the first LSP, and the interval to the next is the one that holds then.
    fn isis(&self) -> String {
        let least = self.network.links.iter().map(|l| l.mtu).min().unwrap_or(LSP_MTU.1);
        let front = if self.network.id == BASE { LLC } else { IPV4 };
        let lsp_mtu = least.saturating_sub(front).clamp(LSP_MTU.0, LSP_MTU.1);
        let mut text = self.lists(self.wire_prefixes());
        let _ = write!(
            text,
            "router isis {ISIS_TAG}\n is-type level-2-only\n metric-style wide\n lsp-gen-interval 1\n \
             spf-delay-ietf init-delay 50 short-delay 200 long-delay 1000 holddown 2000 time-to-learn 500\n \
             lsp-mtu {lsp_mtu}\n"
        );
        if !self.node.forwards {
            text.push_str(" set-overload-bit\n");
        }
        if !self.node.wires.is_empty() {
            let sources = ["connected", "kernel"];
            text.push_str(&self.redistribute(" redistribute ipv4", " level-2", &sources));
        }
        if self.leads_anywhere() {
            text.push_str(" default-information originate ipv4 level-2\n");
        }
        let _ = write!(text, " net {ISIS_AREA}.{}.00\nexit\n", system_id(self.lab.address(self.node.id)));
        let _ = write!(text, "interface lo\n ip router isis {ISIS_TAG}\n isis passive\nexit\n");
        for Neighbour { dev, link, .. } in self.ends() {
            let _ = write!(
                text,
                "interface {dev}\n ip router isis {ISIS_TAG}\n isis circuit-type level-2-only\n \
                 isis network point-to-point\n isis hello-interval {HELLO}\n isis hello-multiplier {}\n \
                 isis metric {}\n no isis hello padding\nexit\n",
                DEAD / HELLO,
                link.cost
            );
        }
        text
    }

    /// Five seconds is the shortest of ripd's timers; changes do not wait for it.
    fn rip(&self) -> String {
        let mut text = self.lists(self.own_prefixes());
        if self.ends().any(|n| n.link.cost > 1) {
            text.push_str("access-list any seq 5 permit any\n");
        }
        if !self.node.forwards {
            for (index, prefix) in self.own_prefixes().iter().enumerate() {
                let _ = writeln!(text, "access-list own seq {} permit {prefix} exact-match", 5 * (index + 1));
            }
        }
        text.push_str("router rip\n version 2\n timers basic 5 15 5\n allow-ecmp\n");
        text.push_str(&self.redistribute(" redistribute", "", &["connected", "kernel"]));
        for Neighbour { dev, link, .. } in self.ends() {
            let _ = writeln!(text, " network {dev}");
            if link.cost > 1 {
                // Instead of the one that ripd adds by itself.
                let _ = writeln!(text, " offset-list any in {} {dev}", link.cost.min(16));
            }
        }
        if !self.node.forwards {
            text.push_str(" distribute-list own out\n");
        }
        text.push_str("exit\n");
        text
    }

    fn bgp(&self, id: Ipv4Addr) -> String {
        let own = as_number(Some(id));
        let mut text = self.lists(self.own_prefixes());
        let mut costs: Vec<u32> = self.ends().map(|n| n.link.cost).filter(|cost| *cost > 1).collect();
        costs.sort_unstable();
        costs.dedup();
        for cost in costs {
            let more = format!(" {own}").repeat(cost as usize - 1);
            let _ = write!(text, "route-map cost-{cost} permit 10\n set as-path prepend{more}\nexit\n");
        }
        if !self.node.forwards {
            text.push_str("bgp as-path access-list own seq 5 permit ^$\n");
        }
        let _ = write!(
            text,
            "router bgp {own}\n bgp router-id {id}\n bgp log-neighbor-changes\n no bgp ebgp-requires-policy\n \
             no bgp default ipv4-unicast\n bgp bestpath as-path multipath-relax\n timers bgp {HELLO} {DEAD}\n \
             coalesce-time {COALESCE}\n"
        );
        for Neighbour { own, addr, number, .. } in self.ends() {
            let _ = write!(
                text,
                " neighbor {addr} remote-as {number}\n neighbor {addr} update-source {own}\n \
                 neighbor {addr} advertisement-interval 0\n neighbor {addr} timers connect 1\n"
            );
        }
        text.push_str(" address-family ipv4 unicast\n");
        text.push_str(&self.redistribute("  redistribute", "", &["connected", "kernel"]));
        if let many @ 2.. = self.node.ends.len() {
            let _ = writeln!(text, "  maximum-paths {}", many.min(MOST_PATHS));
        }
        for Neighbour { addr, link, .. } in self.ends() {
            let _ = writeln!(text, "  neighbor {addr} activate");
            if link.cost > 1 {
                let _ = writeln!(text, "  neighbor {addr} route-map cost-{} out", link.cost);
            }
            if !self.node.forwards {
                let _ = writeln!(text, "  neighbor {addr} filter-list own out");
            }
        }
        text.push_str(" exit-address-family\nexit\n");
        text
    }
}

/// One link as its node sees it.
struct Neighbour<'a> {
    link: &'a Link,
    dev: &'a str,
    own: Ipv4Addr,
    addr: Ipv4Addr,
    /// AS number.
    number: u32,
}

impl<'a> Neighbour<'a> {
    fn new(lab: &'a Lab, end: EndId) -> Self {
        let (near, far) = (lab.end(end), lab.peer(end));
        Self {
            link: lab.link(end.link),
            dev: &near.dev,
            own: near.addr,
            addr: far.addr,
            number: as_number(lab.address(far.node)),
        }
    }
}

/// One AS for each node, unique in its network: private addresses (RFC 1918) differ in these bits.
fn as_number(addr: Option<Ipv4Addr>) -> u32 {
    FIRST_AS + (addr.map_or(0, u32::from) & 0x03ff_ffff)
}

/// Six bytes as IS-IS writes them, unique in the network and not zero.
fn system_id(addr: Option<Ipv4Addr>) -> String {
    let digits = format!("{:012x}", addr.map_or(0, u32::from));
    format!("{}.{}.{}", &digits[..4], &digits[4..8], &digits[8..])
}
