//! From a lab to operations: where dataplane and routing choices become kernel objects. A [`Lab`], its [`Rib`] and
//! what the [`Machine`] can do go in; a [`Plan`] comes out. It never depends on anything else, so equal input gives
//! an equal plan.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::filter::IPV4;
use super::gateways::gateways;
use super::{
    Hook, Hop, Mac, Machine, Op, Plan, Service, Stage, Taken, View, Way, guard, parallel, routing, security,
};
use crate::error::{Error, Result};
use crate::fastpath::Config;
use crate::fastpath::config::{BaseNode, Below, Interface, Partition};
use crate::model::{
    App, BASE, Carrier, Dataplane, DataplaneChoice, EndId, GATEWAYS, Impairment, Lab, Link, NetId, Network,
    Node, NodeId, TestKind, names,
};
use crate::names::resolv_conf;
use crate::routing::{Rib, Route};

/// One IPv4 header without options.
const HEADER: u32 = 20;
/// Nested tunnels that every kernel carries without a break: Linux gained a limit of 4 nested transmissions in
/// 2026, of which the plainest device takes one.
const UNBROKEN_NESTING: usize = 3;
/// Nested tunnels for which the kernel's stack has room, 16 KiB of it; some 14 overflow it under load, and the machine
/// stops (seen on Linux 6.1).
const ROOM: usize = 9;
/// The device of a partition by way of which packets leave that start on a stack of their own.
const BREAK: &str = "break";
/// It takes packets of any size.
const BREAK_MTU: u32 = 65_535;
/// What labs with more tunnels in one another need of the kernel.
const DEFER: &str = "ifb and mirred, which give each pair of deeply nested tunnels a stack of its own";
/// What `security:` needs of the kernel.
const ESP: &str = "ESP, which protects links: xfrm with esp4, gcm(aes) and authenc";

/// Sysctls that make the loopback device of a namespace protect what is sent over it as other devices do.
const LO_SYSCTLS: [(&str, &str); 2] =
    [("net/ipv4/conf/lo/disable_xfrm", "0"), ("net/ipv4/conf/lo/disable_policy", "0")];

/// Sysctls of every namespace that forwards or ends packets; never inherited from the host. `ip_forward` comes
/// first: setting it resets others.
const NODE_SYSCTLS: [(&str, &str); 6] = [
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/icmp_ratelimit", "0"),
    ("net/ipv4/icmp_errors_use_inbound_ifaddr", "1"),
];

/// What programs write into that run once on a machine, and here once in each node: sockets, process ids, logs.
const PRIVATE: [&str; 2] = ["/run", "/var/log"];

/// Drops the port unreachable that the kernel sends for a packet of protocol 4: the protocol field of the header
/// quoted behind the 8 bytes of the ICMP header lies at bit 136.
const SILENCE: &str = "table ip vi_fastpath {
  chain out {
    type filter hook output priority filter; policy accept;
    icmp type destination-unreachable icmp code port-unreachable @th,136,8 4 drop
  }
}
";

/// Plans the whole lab.
///
/// # Errors
/// If the machine cannot carry the dataplane that the file asks for.
pub fn build(lab: &Lab, rib: &Rib, machine: &Machine) -> Result<Plan> {
    let (dataplanes, why) = dataplanes(lab, machine)?;
    let link_layers = link_layers(lab, &dataplanes);
    let hosts = lab.networks.iter().map(|network| hosts(lab, network)).collect();
    let planner = Planner { lab, rib, machine, dataplanes: &dataplanes, link_layers, hosts };
    let mut stages = vec![
        Stage { name: "namespaces".to_owned(), ops: planner.namespaces() },
        Stage { name: "gateways".to_owned(), ops: gateways(lab) },
        Stage { name: "base".to_owned(), ops: planner.base() },
    ];
    stages.retain(|stage| !stage.ops.is_empty());
    let tunnels = planner.base_tunnels();
    if !tunnels.is_empty() {
        stages.push(Stage { name: "base tunnels".to_owned(), ops: tunnels });
    }
    for network in planner.by_depth() {
        stages.push(Stage { name: format!("VI {}", network.name), ops: planner.vi(network) });
    }
    let edges = planner.edges();
    if !edges.is_empty() {
        stages.push(Stage { name: "emulated routers".to_owned(), ops: edges });
    }
    add_hooks_once(&mut stages);
    let fastpath = planner.fastpath();
    let can_shape = machine.redirect && machine.tun;
    if !(fastpath.devices.is_empty() || can_shape) {
        return Err(Error::environment("this machine cannot impair the links of this lab")
            .because(
                "it has neither netem nor what redirects packets to a program (clsact, cls_bpf, mirred, TUN)",
            )
            .hint("`vilab doctor` says what to load"));
    }
    let engine = !(fastpath.interfaces.is_empty() && fastpath.devices.is_empty()) || planner.shapes_later();
    let fastpath = engine.then_some(fastpath);
    let views = lab.nodes().map(|n| (n.netns.clone(), planner.view(n))).collect();
    let daemons = lab.nodes().map(|n| routing::services(lab, n.id, machine)).collect::<Result<Vec<_>>>()?;
    let apps = lab.apps.iter().map(|a| app(lab, a)).collect();
    let isis = super::isis::config(lab, machine)?;
    let routers = super::emulated::config(lab, machine)?;
    let strands = parallel::config(lab, &dataplanes);
    let (netem, services) = (machine.netem, daemons.concat());
    Ok(Plan { dataplanes, why, netem, stages, fastpath, isis, routers, strands, views, services, apps })
}

/// Several things may need the hooks of one device.
fn add_hooks_once(stages: &mut [Stage]) {
    let mut there = BTreeSet::new();
    for stage in stages {
        stage.ops.retain(|op| {
            let Op::AddHooks { ns, dev } = op else { return true };
            there.insert((ns.clone(), dev.clone()))
        });
    }
}

/// All routes of one node that vilab writes, connected ones included where the kernel does not make them: what has to
/// be put back after a device was down. Where routing is dynamic, FRR writes all but those through gateways.
#[must_use]
pub fn routes(lab: &Lab, rib: &Rib, node: NodeId) -> Vec<Op> {
    let node = lab.node(node);
    let hop = |via: Option<Ipv4Addr>, end: EndId| Hop { via, dev: lab.end(end).dev.clone() };
    let ends = node.ends.iter().chain(&node.wires);
    let connected = ends.filter(|_| node.host.is_some()).map(|end| Op::AddRoute {
        ns: node.netns.clone(),
        prefix: Ipv4Net::new_assert(lab.end(*end).addr, 31).trunc(),
        hops: vec![hop(None, *end)],
        src: node.host,
    });
    let dynamic =
        lab.reacts(node.id) && (lab.emulated(node.id).is_none() || lab.net(node.id.net).routing.is_dynamic());
    let written = |route: &&Route| !dynamic || route.hops.iter().all(|end| end.link.net == GATEWAYS);
    let learnt = rib.tables.get(&node.id).into_iter().flatten().filter(written).map(|route| Op::AddRoute {
        ns: node.netns.clone(),
        prefix: route.prefix,
        hops: route.hops.iter().map(|end| hop(Some(lab.peer(*end).addr), *end)).collect(),
        src: route.src,
    });
    connected.chain(learnt).collect()
}

/// The neighbours of a base node, one for each wire.
pub(super) fn neighbours(lab: &Lab, node: NodeId) -> Vec<Op> {
    let node = lab.node(node);
    let wires = node.ends.iter().filter(|_| node.id.net == BASE);
    wires
        .map(|end| Op::AddNeighbour {
            ns: node.netns.clone(),
            dev: lab.end(*end).dev.clone(),
            addr: lab.peer(*end).addr,
            mac: mac(lab.peer(*end).addr),
        })
        .collect()
}

/// The Ethernet address of the end of a wire that has this address: locally administered (IEEE 802, U/L bit), unique
/// in the lab.
fn mac(addr: Ipv4Addr) -> Mac {
    let [a, b, c, d] = addr.octets();
    Mac([0x02, 0, a, b, c, d])
}

fn app(lab: &Lab, app: &App) -> Service {
    Service {
        name: app.name.clone(),
        netns: lab.node(app.at).netns.clone(),
        argv: app.argv.clone(),
        restart: app.restart,
        ready: app.ready.clone(),
        behind: None,
        log: app.name.clone(),
    }
}

/// What carries each base node, and why.
fn dataplanes(lab: &Lab, machine: &Machine) -> Result<(Vec<Dataplane>, String)> {
    let missing = kernel_lacks(lab, machine);
    let (default, why) = match (lab.dataplane, &missing) {
        (DataplaneChoice::Kernel, _) => (Dataplane::Kernel, "the lab asks for it".to_owned()),
        (DataplaneChoice::Fastpath, _) => (Dataplane::Fastpath, "the lab asks for it".to_owned()),
        (DataplaneChoice::Auto, None) => (Dataplane::Kernel, "this kernel can carry the lab".to_owned()),
        (DataplaneChoice::Auto, Some(lack)) => {
            (Dataplane::Fastpath, format!("the kernel dataplane lacks {lack}"))
        }
    };
    let of_node = |node: &Node| match node.dataplane {
        DataplaneChoice::Auto => default,
        DataplaneChoice::Kernel => Dataplane::Kernel,
        DataplaneChoice::Fastpath => Dataplane::Fastpath,
    };
    let found: Vec<Dataplane> = lab.base().nodes.iter().map(of_node).collect();
    let used: BTreeSet<Dataplane> = lab.networks[1..]
        .iter()
        .flat_map(|n| &n.nodes)
        .filter(|n| !n.ends.is_empty())
        .map(|n| found[n.base.index])
        .collect();
    let missing = missing.filter(|lack| *lack != ESP || kernel_protects(lab, &found));
    let missing = missing.filter(|lack| *lack != parallel::SPREAD || parallel::config(lab, &found).is_some());
    if let (true, Some(lack)) = (used.contains(&Dataplane::Kernel), missing) {
        return Err(Error::environment("this machine cannot carry `dataplane: kernel`")
            .because(format!("it lacks {lack}"))
            .hint("`vilab doctor` says what to install; `dataplane: fastpath` runs the same lab without"));
    }
    if used.contains(&Dataplane::Fastpath) && !machine.tun {
        return Err(Error::environment("this machine cannot carry `dataplane: fastpath`")
            .because("it lacks TUN devices (/dev/net/tun)")
            .hint("`vilab doctor` says what to load or allow"));
    }
    Ok((found, why))
}

/// The first thing the kernel dataplane would need for this lab and the machine has not.
fn kernel_lacks(lab: &Lab, machine: &Machine) -> Option<&'static str> {
    match machine {
        Machine { ipip: false, .. } => Some("ipip tunnels"),
        Machine { nft: false, .. } => Some("nftables or its program nft"),
        Machine { netem: false, .. } if needs_breaks(lab) => Some("netem, which breaks deep nesting"),
        Machine { redirect, ifb, .. } if overflows(lab) && !(*redirect && *ifb) => Some(DEFER),
        Machine { spread: false, .. } if parallel::links(lab).next().is_some() => Some(parallel::SPREAD),
        Machine { esp: false, .. } if protected(lab).next().is_some() => Some(ESP),
        _ => None,
    }
}

fn protected(lab: &Lab) -> impl Iterator<Item = &Link> {
    lab.networks.iter().flat_map(|n| &n.links).filter(|l| l.security.is_some())
}

/// Whether a protected link ends in the kernel.
fn kernel_protects(lab: &Lab, dataplanes: &[Dataplane]) -> bool {
    let ends = protected(lab).flat_map(|l| &l.ends);
    ends.into_iter().any(|e| dataplanes[lab.site(e).base.index] == Dataplane::Kernel)
}

/// Whether the tunnels of a network take the packet out of the calling context: those of every odd layer of a deep lab.
pub(super) fn needs_break(lab: &Lab, net: NetId) -> bool {
    needs_breaks(lab) && lab.net(net).depth % 2 == 1
}

fn needs_breaks(lab: &Lab) -> bool {
    nested(lab) > UNBROKEN_NESTING
}

/// Whether the kernel's stack may have no room for all tunnels in one another, breaks or not.
fn overflows(lab: &Lab) -> bool {
    nested(lab) > ROOM
}

/// How many tunnels of a lab are in one another: that of the base, and one for each VI.
fn nested(lab: &Lab) -> usize {
    lab.networks.iter().map(|n| n.depth + 1).max().unwrap_or_default()
}

/// The base nodes on which links of VIs over the base end in the kernel; for each, the base nodes that its base tunnels
/// lead to, and the tunnels' device names.
type LinkLayers = BTreeMap<NodeId, BTreeMap<NodeId, String>>;

fn link_layers(lab: &Lab, dataplanes: &[Dataplane]) -> LinkLayers {
    let mut remotes: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
    for link in lab.networks.iter().filter(|n| n.over == Some(BASE)).flat_map(|n| &n.links) {
        let [a, b] = link.ends.each_ref().map(|end| lab.site(end).base);
        for (near, far) in [(a, b), (b, a)] {
            if dataplanes[near.index] == Dataplane::Kernel {
                remotes.entry(near).or_default().extend((near != far).then_some(far));
            }
        }
    }
    let named = |far: BTreeSet<NodeId>| {
        let mut taken = BTreeSet::from(["lo".to_owned()]);
        far.into_iter().map(|id| (id, names::device("t-", &lab.node(id).name, &mut taken))).collect()
    };
    remotes.into_iter().map(|(near, far)| (near, named(far))).collect()
}

struct Planner<'a> {
    lab: &'a Lab,
    rib: &'a Rib,
    machine: &'a Machine,
    dataplanes: &'a [Dataplane],
    link_layers: LinkLayers,
    /// `/etc/hosts` of the nodes of each network.
    hosts: Vec<String>,
}

/// `/etc/hosts` of all nodes of a network: the names of that network.
fn hosts(lab: &Lab, network: &Network) -> String {
    let mut text = "127.0.0.1\tlocalhost\n".to_owned();
    for node in &network.nodes {
        if let Some(addr) = lab.address(node.id) {
            let _ = writeln!(text, "{addr}\t{} {}.{}", node.name, node.name, network.name);
        }
    }
    text
}

impl<'a> Planner<'a> {
    fn kernel(&self, base: NodeId) -> bool {
        self.dataplanes[base.index] == Dataplane::Kernel
    }

    fn by_depth(&self) -> Vec<&'a Network> {
        let mut networks: Vec<&Network> = self.lab.networks[1..].iter().collect();
        networks.sort_by_key(|n| n.depth);
        networks
    }

    /// The links of all VIs over the base.
    fn first_links(&self) -> impl Iterator<Item = &'a Link> {
        self.lab.networks.iter().filter(|n| n.over == Some(BASE)).flat_map(|n| &n.links)
    }

    // ---- namespaces --------------------------------------------------------------------------------------

    fn namespaces(&self) -> Vec<Op> {
        let mut ops = Vec::new();
        for node in self.lab.nodes() {
            // A lab in a user namespace has no second user, and all of it belongs to the one there is.
            let owner = self.lab.net(node.id.net).owner.clone().filter(|_| !self.machine.one_user);
            ops.push(Op::AddNetns { ns: node.netns.clone(), owner });
            ops.extend(sysctls(&node.netns, node.forwards));
            ops.extend(routing::memberships(self.lab, node.id));
            ops.extend(node.sysctls.iter().map(|(key, value)| set(&node.netns, key, value)));
            let own = node.host.iter().chain(&node.stacked);
            ops.extend(own.map(|addr| host_addr(&node.netns, "lo", *addr)));
        }
        for base in self.link_layers.keys() {
            let ns = self.lab.link_netns(*base);
            ops.push(Op::AddNetns { ns: ns.clone(), owner: None });
            ops.extend(sysctls(&ns, false));
        }
        for ns in self.deferring() {
            ops.push(Op::AddIfb { ns: ns.to_owned(), dev: BREAK.to_owned() });
            ops.push(Op::SetUp { ns: ns.to_owned(), dev: BREAK.to_owned(), mtu: BREAK_MTU });
        }
        for ns in parallel::namespaces(self.lab, self.dataplanes) {
            ops.push(Op::AddNetns { ns: ns.clone(), owner: None });
            ops.extend(sysctls(&ns, false));
        }
        ops
    }

    fn base(&self) -> Vec<Op> {
        let base = self.lab.base();
        let mut ops = Vec::new();
        for link in &base.links {
            let [a, b] = [0, 1].map(|side| {
                let end = &link.ends[side];
                (self.lab.node(end.node).netns.clone(), end.dev.clone())
            });
            let macs = [0, 1].map(|side| mac(link.ends[side].addr));
            ops.push(Op::AddVeth { a, b, macs, mtu: link.mtu });
            ops.extend((0..2).filter_map(|side| self.netem(link, side)));
        }
        for node in &base.nodes {
            ops.extend(self.addresses(node));
            ops.extend(neighbours(self.lab, node.id));
            ops.extend(routes(self.lab, self.rib, node.id));
            ops.extend(self.silence(node));
        }
        ops
    }

    /// Where a link is impaired or must break nesting, and the kernel does that.
    fn netem(&self, link: &Link, side: usize) -> Option<Op> {
        let end = EndId { link: link.id, side };
        super::impair::qdisc(self.lab, self.dataplanes, self.machine.netem, end, &link.impair[side])
    }

    /// Whether what leaves an end starts on a stack of its own.
    fn defers(&self, end: EndId) -> bool {
        let kernel = end.link.net != BASE && self.kernel(self.lab.site(self.lab.end(end)).base);
        kernel && overflows(self.lab) && needs_break(self.lab, end.link.net)
    }

    /// The namespaces of such ends.
    fn deferring(&self) -> BTreeSet<&'a str> {
        let links = self.lab.networks.iter().flat_map(|n| &n.links);
        let ends = links.flat_map(|link| [0, 1].map(|side| EndId { link: link.id, side }));
        ends.filter(|end| self.defers(*end)).map(|end| self.lab.netns(self.lab.end(end))).collect()
    }

    /// What leaves the end of a link in a deep stack goes by way of an ifb device. A queue alone would not do: whoever puts
    /// a packet into it sends those whose time has come, on the stack of all layers above.
    fn deferral(&self, link: &Link, side: usize) -> Vec<Op> {
        if !self.defers(EndId { link: link.id, side }) {
            return Vec::new();
        }
        let (ns, dev) = (self.lab.netns(&link.ends[side]).to_owned(), link.ends[side].dev.clone());
        let (takes, to, hook) = (Taken::Protocol(IPV4), BREAK.to_owned(), Hook::Egress);
        vec![
            Op::AddHooks { ns: ns.clone(), dev: dev.clone() },
            Op::AddRedirect { ns, dev, hook, takes, to, into: Hook::Egress },
        ]
    }

    /// Whether a test impairs a device of the kernel by way of the engine.
    fn shapes_later(&self) -> bool {
        let impaired = self.lab.tests.iter().filter_map(|test| {
            if let TestKind::Impair { link, to } = &test.kind { Some((*link, to)) } else { None }
        });
        let mut ways = impaired.flat_map(|(link, to)| {
            [0, 1].map(|side| {
                super::way(self.lab, self.dataplanes, self.machine.netem, EndId { link, side }, &to[side])
            })
        });
        ways.any(|way| matches!(way, Way::Device { .. }))
    }

    /// A kernel with ipip answers tunnel packets that are none of its own with port unreachable, although the fast
    /// path takes them; one without has nothing to say.
    fn silence(&self, node: &Node) -> Option<Op> {
        let answers = !self.kernel(node.id) && self.machine.ipip && self.machine.nft;
        answers.then(|| Op::AddRuleset { ns: node.netns.clone(), text: SILENCE.to_owned() })
    }

    fn addresses(&self, node: &Node) -> Vec<Op> {
        let one = |end: &EndId| Op::AddAddr {
            ns: node.netns.clone(),
            dev: self.lab.end(*end).dev.clone(),
            addr: Ipv4Net::new_assert(self.lab.end(*end).addr, 31),
            prefix_route: node.host.is_none(),
        };
        node.ends.iter().map(one).collect()
    }

    // ---- the link layer of the kernel dataplane ----------------------------------------------------------

    /// Base tunnels, one for each pair of base nodes that any virtual link joins, and the strong-host rules.
    fn base_tunnels(&self) -> Vec<Op> {
        let mut ops = Vec::new();
        for (base, tunnels) in &self.link_layers {
            ops.push(self.strong_host(*base, tunnels));
            ops.extend(self.guards(*base, tunnels));
            for (remote, dev) in tunnels {
                ops.extend(self.base_tunnel(self.lab.node(*base), self.lab.node(*remote), dev));
            }
        }
        ops
    }

    /// What a base node and its link layer do not take.
    fn guards(&self, base: NodeId, tunnels: &BTreeMap<NodeId, String>) -> [Op; 2] {
        let near = self.lab.node(base);
        let far = tunnels.keys().filter_map(|far| self.lab.node(*far).host);
        let pairs = far.zip(near.host.into_iter().cycle()).collect();
        let links = self.first_links().flat_map(|link| self.arriving(link, base)).collect();
        let cut = self.first_links().filter(|link| link.fragments.is_some());
        let fragmented = cut.flat_map(|link| self.arriving(link, base)).collect();
        let rules = |ns, text| Op::AddRuleset { ns, text };
        [
            rules(near.netns.clone(), guard::base(&pairs)),
            rules(self.lab.link_netns(base), guard::link_layer(&links, &fragmented)),
        ]
    }

    /// The pairs of link addresses under which packets of a link arrive at base node `base`.
    fn arriving(&self, link: &Link, base: NodeId) -> Vec<guard::Pair> {
        let here = [0, 1].into_iter().filter(|far| self.lab.site(&link.ends[1 - far]).base == base);
        here.flat_map(|far| link.pairs(far)).collect()
    }

    /// What the partitions below a stacked VI do not take, where the kernel carries them.
    fn stacked_guards(&self, network: &Network) -> Vec<Op> {
        let kernel = network.nodes.iter().filter(|n| self.kernel(n.base));
        kernel
            .filter_map(|node| {
                let above = self.lab.networks.iter().filter(|n| n.rides_on(network.id));
                let links = above.flat_map(|n| &n.links);
                let pairs = |links: &[&Link]| -> BTreeSet<guard::Pair> {
                    let ends = links.iter().flat_map(|link| [0, 1].map(|side| EndId { link: link.id, side }));
                    ends.flat_map(|end| parallel::arriving(self.lab, end, node.id)).collect()
                };
                let links: Vec<&Link> = links.collect();
                let cut: Vec<&Link> = links.iter().copied().filter(|l| l.fragments.is_some()).collect();
                let (pairs, fragmented) = (pairs(&links), pairs(&cut));
                let text = (!pairs.is_empty()).then(|| guard::partition(&pairs, &fragmented))?;
                Some(Op::AddRuleset { ns: node.netns.clone(), text })
            })
            .collect()
    }

    fn base_tunnel(&self, near: &Node, far: &Node, dev: &str) -> Vec<Op> {
        let ns = self.lab.link_netns(near.id);
        let (Some(local), Some(remote)) = (near.host, far.host) else { return Vec::new() };
        let base = self.lab.base();
        let over = self.rib.links_between(self.lab, near.id, remote).filter(|_| !base.routing.is_dynamic());
        let path = over.unwrap_or_default().iter().map(|e| self.lab.link(e.link).mtu).min();
        let mtu = path.or(base.links.iter().map(|l| l.mtu).min()).unwrap_or(1500) - HEADER;
        vec![
            Op::AddIpip { ns: near.netns.clone(), dev: dev.to_owned(), local, remote },
            Op::MoveLink {
                ns: near.netns.clone(),
                dev: dev.to_owned(),
                to: ns.clone(),
                name: dev.to_owned(),
            },
            Op::SetUp { ns, dev: dev.to_owned(), mtu },
        ]
    }

    /// The strong host model at the link layer (paper, II.2.1): a link address is accepted from the one base
    /// tunnel its link uses.
    fn strong_host(&self, base: NodeId, tunnels: &BTreeMap<NodeId, String>) -> Op {
        let (mut elements, mut protected) = (BTreeSet::new(), BTreeSet::new());
        for link in self.first_links().filter(|l| l.carrier == Some(Carrier::Tunnel)) {
            for (side, end) in link.ends.iter().enumerate() {
                let far = self.lab.site(&link.ends[1 - side]).base;
                let here = self.lab.site(end).base == base;
                let Some((local, remote)) = security::pair(link, side).filter(|_| here) else { continue };
                elements.insert(format!("\"{}\" . {local}", tunnels[&far]));
                protected.extend(link.security.map(|_| format!("{remote} . {local}")));
            }
        }
        let text = strong_host_ruleset(&elements, &protected);
        Op::AddRuleset { ns: self.lab.link_netns(base), text }
    }

    // ---- Virtual Internets -------------------------------------------------------------------------------

    fn vi(&self, network: &'a Network) -> Vec<Op> {
        // Before any link is there, so that nothing is ever sent in clear.
        let mut ops: Vec<Op> = network.links.iter().flat_map(|link| self.security(link)).collect();
        for link in &network.links {
            for side in 0..2 {
                ops.extend(self.link_end(link, side));
            }
        }
        let edges = self.lab.fabric(network.id).is_some();
        for node in &network.nodes {
            let emulated = self.lab.emulated(node.id);
            ops.extend(emulated.iter().flat_map(|e| super::emulated::devices(self.lab, e)));
            ops.extend(super::isis::ops(self.lab, node.id));
            ops.extend(self.addresses(node));
            // Edges have routes when the links of their router are there too.
            ops.extend(routes(self.lab, self.rib, node.id).into_iter().filter(|_| !edges));
        }
        ops.extend(self.stacked_guards(network));
        ops
    }

    /// What makes edges of nodes that have the links of their fabrics and of their routers.
    fn edges(&self) -> Vec<Op> {
        let mut ops = Vec::new();
        for emulated in &self.lab.emulated {
            for port in &emulated.ports {
                let kernel = self.kernel(self.lab.node(port.edge).base);
                ops.extend(super::emulated::edge(self.lab, emulated, port, kernel));
                ops.extend(routes(self.lab, self.rib, port.edge));
            }
        }
        ops
    }

    /// What protects the ends of a link that the kernel carries.
    fn security(&self, link: &Link) -> Vec<Op> {
        let mut ops = Vec::new();
        for side in 0..2 {
            let end = &link.ends[side];
            if link.security.is_some() && self.kernel(self.lab.site(end).base) {
                for part in security::parts(self.lab, link, side) {
                    if side == 0 && self.lab.stays_on_its_node(link) {
                        ops.extend(LO_SYSCTLS.iter().map(|(key, value)| set(&part.ns, key, value)));
                    }
                    ops.extend(security::end(self.lab, link, side, &part));
                }
            }
        }
        ops
    }

    fn link_end(&self, link: &Link, side: usize) -> Vec<Op> {
        let end = &link.ends[side];
        let (ns, dev) = (self.lab.netns(end).to_owned(), end.dev.clone());
        let up = Op::SetUp { ns: ns.clone(), dev: dev.clone(), mtu: link.mtu };
        if !self.kernel(self.lab.site(end).base) {
            return vec![Op::AddTun { ns, dev, info: false }, up];
        }
        if let Some(end) = parallel::end(self.lab, link, side) {
            let mut ops = parallel::ops(&end, &self.made_as(link, side), link.mtu);
            ops.extend(self.netem(link, side));
            ops.extend(self.deferral(link, side));
            ops.push(up);
            return ops;
        }
        let (Some(local), Some(remote)) = (end.link_addr, link.ends[1 - side].link_addr) else {
            return Vec::new();
        };
        let below = self.lab.below_netns(end);
        let mut ops = self.link_route(link, side, &below, local, remote);
        let made = self.made_as(link, side);
        ops.push(Op::AddIpip { ns: below.clone(), dev: made.clone(), local, remote });
        ops.push(Op::MoveLink { ns: below, dev: made, to: ns.clone(), name: dev.clone() });
        ops.extend(self.netem(link, side));
        ops.extend(self.deferral(link, side));
        ops.push(up);
        ops
    }

    /// A name for a tunnel while it is where it is made, unique there.
    fn made_as(&self, link: &Link, side: usize) -> String {
        format!("k{}.{}.{side}", link.id.net.0, link.id.index)
    }

    /// In a link layer, the near link address and the way to the far one; stacked links use the lower VI's own.
    fn link_route(&self, link: &Link, side: usize, ns: &str, local: Ipv4Addr, remote: Ipv4Addr) -> Vec<Op> {
        match link.carrier {
            Some(Carrier::Inside) => vec![host_addr(ns, "lo", local)],
            Some(Carrier::Tunnel) => {
                let [near, far] = [side, 1 - side].map(|s| self.lab.site(&link.ends[s]).base);
                let dev = self.link_layers[&near][&far].clone();
                vec![
                    host_addr(ns, &dev, local),
                    Op::AddRoute {
                        ns: ns.to_owned(),
                        prefix: Ipv4Net::from(remote),
                        hops: vec![Hop { via: None, dev }],
                        src: Some(local),
                    },
                ]
            }
            Some(Carrier::Stacked | Carrier::Parallel) | None => Vec::new(),
        }
    }

    // ---- beside the kernel -------------------------------------------------------------------------------

    fn fastpath(&self) -> Config {
        let mut config = Config::default();
        let mut nodes: BTreeMap<NodeId, usize> = BTreeMap::new();
        for base in self.lab.base().nodes.iter().filter(|n| !self.kernel(n.id)) {
            let (Some(addr), false) = (base.host, nodes.contains_key(&base.id)) else { continue };
            nodes.insert(base.id, config.nodes.len());
            config.nodes.push(BaseNode { name: base.name.clone(), netns: base.netns.clone(), addr });
        }
        let mut partitions: BTreeMap<NodeId, usize> = BTreeMap::new();
        for node in self.lab.networks[1..].iter().flat_map(|n| &n.nodes) {
            let Some(on) = nodes.get(&node.base) else { continue };
            partitions.insert(node.id, config.partitions.len());
            config.partitions.push(Partition {
                name: self.lab.full_name(node.id),
                netns: node.netns.clone(),
                node: *on,
                refuses: self.refused(node),
            });
        }
        let mut ends: BTreeMap<EndId, usize> = BTreeMap::new();
        for network in self.by_depth() {
            for link in &network.links {
                for side in 0..2 {
                    let Some(interface) = self.interface(link, side, &partitions) else { continue };
                    ends.insert(EndId { link: link.id, side }, config.interfaces.len());
                    config.interfaces.push(interface);
                }
            }
        }
        for port in self.lab.emulated.iter().flat_map(|e| &e.ports) {
            for inside in self.lab.node(port.edge).ends.iter().filter_map(|end| ends.get(end)) {
                config.interfaces[*inside].exit = ends.get(&port.end).copied();
            }
        }
        super::impair(self.lab, self.dataplanes, self.machine.netem, &mut config);
        config
    }

    /// What an edge of an emulated router does not let pass.
    fn refused(&self, node: &Node) -> Vec<Ipv4Addr> {
        let emulated = self.lab.fabric(node.id.net);
        emulated.map(|e| super::emulated::refused(self.lab, e)).unwrap_or_default()
    }

    fn interface(&self, link: &Link, side: usize, partitions: &BTreeMap<NodeId, usize>) -> Option<Interface> {
        let (end, far) = (&link.ends[side], &link.ends[1 - side]);
        let site = self.lab.site(end);
        let below = match link.carrier? {
            Carrier::Inside => Below::Inside,
            Carrier::Tunnel => Below::Base { remote: self.lab.node(self.lab.site(far).base).host? },
            Carrier::Stacked => Below::Partition(*partitions.get(&site.at?)?),
            Carrier::Parallel => Below::Strands,
        };
        let bundle = parallel::bundle(self.lab, EndId { link: link.id, side }, partitions);
        let security = security::of_end(self.lab, link, side).filter(|_| bundle.is_none());
        let addrs = if bundle.is_some() { (end.addr, far.addr) } else { (end.link_addr?, far.link_addr?) };
        Some(Interface {
            partition: *partitions.get(&site.partition)?,
            dev: end.dev.clone(),
            mtu: link.mtu,
            fragments: link.fragments,
            local: addrs.0,
            remote: addrs.1,
            below,
            security,
            exit: None,
            bundle,
            impair: Impairment::default(),
        })
    }

    fn view(&self, node: &Node) -> View {
        let resolver = resolv_conf(&self.lab.net(node.id.net).name);
        let files = [
            ("/etc/hosts".to_owned(), self.hosts[node.id.net.0].clone()),
            ("/etc/resolv.conf".to_owned(), resolver),
        ]
        .into();
        let mut view = View { files, dirs: PRIVATE.map(str::to_owned).to_vec() };
        routing::add_to_view(self.lab, node.id, self.machine, &mut view);
        view
    }
}

pub(super) fn set(ns: &str, key: &str, value: &str) -> Op {
    Op::SetSysctl { ns: ns.to_owned(), key: key.to_owned(), value: value.to_owned() }
}

fn sysctls(ns: &str, forwards: bool) -> Vec<Op> {
    let forward = [("net/ipv4/ip_forward", if forwards { "1" } else { "0" })];
    forward.iter().chain(&NODE_SYSCTLS).map(|(key, value)| set(ns, key, value)).collect()
}

pub(super) fn host_addr(ns: &str, dev: &str, addr: Ipv4Addr) -> Op {
    Op::AddAddr { ns: ns.to_owned(), dev: dev.to_owned(), addr: Ipv4Net::from(addr), prefix_route: true }
}

/// The nftables ruleset of a link layer: only protocol 4 (IP in IP), 50 (ESP) and 1 (ICMP) come in, each link
/// address by its own base tunnel only, and ESP for protected links only; what is dropped is counted by name. What ESP
/// held comes by again in clear.
fn strong_host_ruleset(elements: &BTreeSet<String>, protected: &BTreeSet<String>) -> String {
    let joined = |all: &BTreeSet<String>| all.iter().cloned().collect::<Vec<_>>().join(", ");
    let set = |elements: &BTreeSet<String>| match elements.is_empty() {
        true => String::new(),
        false => format!(" elements = {{ {} }};", joined(elements)),
    };
    let (elements, protected) = (set(elements), set(protected));
    format!(
        "table inet vi_strong {{
  counter not-ipip {{ }}
  counter strong-host {{ }}
  counter esp-unexpected {{ }}
  set la {{ type ifname . ipv4_addr;{elements} }}
  set protected {{ type ipv4_addr . ipv4_addr;{protected} }}
  chain pre {{
    type filter hook prerouting priority raw; policy drop;
    iifname \"lo\" accept
    meta l4proto != {{ 1, 4, 50 }} counter name \"not-ipip\" drop
    meta l4proto 50 iifname . ip daddr @la ip saddr . ip daddr != @protected counter name \"esp-unexpected\" drop
    iifname . ip daddr @la accept
    counter name \"strong-host\" drop
  }}
}}
"
    )
}
