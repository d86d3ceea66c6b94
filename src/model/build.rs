//! From names to a [`Lab`]: one function a rule, all errors at once. A [`FlatLab`] goes in; the lab, addressed and
//! measured, or every error found comes out. It never stops at the first error of a stage.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::address::{self, Allocator, Claim, LINK_POOL, Layout, NETWORK_POOL, Need};
use super::emulated::{self, Emulated, Port, Recursion};
use super::groups::Groups;
use super::leases::Leases;
use super::{
    BASE, Carrier, DataplaneChoice, End, EndId, Fragments, GATEWAYS, Lab, Link, LinkId, NetId, Network, Node,
    NodeId, Role, Seat, Security, bind, join, names, parallel,
};
use crate::expand::{FlatLab, FlatLink, FlatVi};
use crate::routing::{Rib, protocol};
use crate::spec::{Diagnostic, Span, Spanned, ViMtu, nearest};

type Errors = Vec<Diagnostic>;

const UNSET: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
/// Comfortable block sizes, tried in turn: how many networks on one base node they leave room for is 128, 2,048
/// and 32,768 of the network-layer pool.
const NETWORK_BLOCKS: [u8; 3] = [16, 20, 24];
const LINK_BLOCKS: [u8; 3] = [20, 24, 28];
/// Groups of nodes may take so many addresses of a VI: half of the first of the sizes above, else four times what its
/// nodes and links need, up to a quarter of the pool.
const GROUPED_LEAST: u64 = 1 << 15;
const GROUPED_MOST: u64 = 1 << 21;
/// Smallest packet every link must carry (RFC 791, 3.2).
const LEAST_MTU: u32 = 68;
/// One IPv4 header without options.
const HEADER: u32 = 20;

/// Binds, places, addresses and measures a lab. `source` is the file's text, for lines; `errors` are those of the
/// stages before. What is in `running` too keeps its addresses and device names.
///
/// # Errors
/// All errors of the lab, those of the stages before included.
pub fn build(flat: &FlatLab, source: &str, mut errors: Errors, running: Option<&Lab>) -> Result<Lab, Errors> {
    let (fabrics, recursions) = emulated::fabrics(flat, &mut errors);
    let whole = match fabrics.is_empty() {
        true => Cow::Borrowed(flat),
        false => Cow::Owned(FlatLab { vis: [flat.vis.clone(), fabrics].concat(), ..flat.clone() }),
    };
    let flat = whole.as_ref();
    let leases = running.map(Leases::of).unwrap_or_default();
    let mut builder = Builder { flat, recursions: &recursions, errors, lab: empty(flat), leases: &leases };
    builder.networks();
    join::gateways(&mut builder.lab, &flat.gateways, &flat.base, &mut builder.errors);
    builder.fixed_addresses();
    let sound = builder.errors.is_empty();
    builder.given_pools();
    if sound {
        builder.protocols();
    }
    if sound && builder.addresses() {
        builder.devices();
        builder.first_addresses();
        builder.mtus();
        builder.self_transit();
    }
    let apps = bind::apps(&builder.lab, &flat.apps, &mut builder.errors);
    let tests = bind::tests(&builder.lab, &flat.tests, source, &mut builder.errors);
    if !builder.errors.is_empty() {
        return Err(builder.errors);
    }
    Ok(Lab { apps, tests, ..builder.lab })
}

fn empty(flat: &FlatLab) -> Lab {
    Lab {
        name: flat.name.value.clone(),
        description: flat.description.clone(),
        dataplane: flat.dataplane,
        networks: Vec::new(),
        emulated: Vec::new(),
        gateways: Vec::new(),
        apps: Vec::new(),
        tests: Vec::new(),
    }
}

struct Builder<'a> {
    flat: &'a FlatLab,
    recursions: &'a [Recursion],
    errors: Errors,
    lab: Lab,
    leases: &'a Leases<'a>,
}

/// An address that the file gives to a node.
#[derive(Clone, Copy)]
struct Written<'a> {
    net: NetId,
    node: &'a Spanned<String>,
    address: &'a Spanned<Ipv4Addr>,
}

impl<'a> Builder<'a> {
    fn error(&mut self, rule: &'static str, span: Span, title: impl Into<String>) {
        self.errors.push(Diagnostic::new(rule, span, title));
    }

    fn vi(&self, net: NetId) -> &'a FlatVi {
        &self.flat.vis[net.0 - 1]
    }

    /// How many VIs the file names: the fabrics of emulated routers come after them.
    fn named(&self) -> usize {
        self.flat.vis.len() - self.recursions.len()
    }

    // ---- names, placement, links -------------------------------------------------------------------------

    fn networks(&mut self) {
        self.base();
        let over: Vec<Vec<NetId>> = (0..self.flat.vis.len()).map(|i| self.over(i)).collect();
        let depths = self.depths(&over);
        for (index, depth) in depths.iter().enumerate() {
            self.declare(index, &over[index], *depth);
        }
        let mut order: Vec<usize> = (0..depths.len()).collect();
        order.sort_by_key(|i| depths[*i]);
        for index in order {
            self.place(NetId(index + 1));
        }
        for index in 0..self.recursions.len() {
            self.seat(index);
        }
        for index in 0..self.flat.vis.len() {
            let net = NetId(index + 1);
            self.links(net, &self.flat.vis[index].links);
        }
    }

    fn base(&mut self) {
        let flat = &self.flat.base;
        if flat.nodes.is_empty() && self.errors.is_empty() {
            self.error("empty-base", flat.span, "the base network has no nodes");
        }
        self.check_node_names(flat.nodes.iter().map(|n| &n.name), "base");
        let nodes = flat.nodes.iter().enumerate().map(|(index, spec)| {
            let id = NodeId { net: BASE, index };
            Node {
                id,
                name: spec.name.value.clone(),
                role: spec.role.unwrap_or(Role::Host),
                at: None,
                base: id,
                dataplane: spec.dataplane.unwrap_or(DataplaneChoice::Auto),
                netns: format!("b.{}", spec.name.value),
                host: Some(UNSET),
                stacked: Vec::new(),
                ends: Vec::new(),
                wires: Vec::new(),
                forwards: false,
                sysctls: spec.sysctls.clone(),
                location: spec.location,
            }
        });
        self.lab.networks.push(Network {
            id: BASE,
            name: "base".to_owned(),
            over: None,
            besides: Vec::new(),
            depth: 0,
            pool: flat.addresses.as_ref().map_or(address::BASE_POOL, |a| a.value),
            link_pool: None,
            routing: flat.routing.value,
            owner: None,
            nodes: nodes.collect(),
            links: Vec::new(),
        });
        self.links(BASE, &flat.links);
        for (index, spec) in flat.nodes.iter().enumerate() {
            let node = &mut self.lab.networks[BASE.0].nodes[index];
            let by_degree = if node.ends.len() >= 2 { Role::Router } else { Role::Host };
            node.role = spec.role.unwrap_or(by_degree);
            node.forwards = node.role == Role::Router;
        }
    }

    fn check_node_names<'s>(&mut self, found: impl Iterator<Item = &'s Spanned<String>>, network: &str) {
        let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
        for name in found {
            if let Some(fault) = names::node_fault(&name.value).or_else(|| names::end_fault(&name.value)) {
                let title = format!("`{}` cannot be the name of a node", name.value);
                self.errors.push(Diagnostic::new("name", name.span, title).label(fault));
            }
            match seen.get(name.value.as_str()) {
                Some(first) => {
                    let title = format!("{network} has two nodes `{}`", name.value);
                    let error = Diagnostic::new("duplicate-node", name.span, title);
                    self.errors.push(error.see(*first, "first here"));
                }
                None => {
                    seen.insert(&name.value, name.span);
                }
            }
        }
    }

    fn over(&mut self, index: usize) -> Vec<NetId> {
        let vi = &self.flat.vis[index];
        let named = index < self.named();
        if let Some(fault) = names::network_fault(&vi.name.value).filter(|_| named) {
            let title = format!("`{}` cannot be the name of a VI", vi.name.value);
            self.errors.push(Diagnostic::new("name", vi.name.span, title).label(fault));
        }
        std::iter::once(&vi.over).chain(&vi.besides).filter_map(|name| self.underlay(name)).collect()
    }

    fn underlay(&mut self, name: &Spanned<String>) -> Option<NetId> {
        match name.value.as_str() {
            "base" => return Some(BASE),
            "" => return None,
            _ => {}
        }
        let named = &self.flat.vis[..self.named()];
        let found = named.iter().position(|v| v.name.value == name.value);
        if found.is_none() {
            let known = named.iter().map(|v| v.name.value.as_str()).chain(["base"]);
            let title = format!("there is no network `{}` to ride on", name.value);
            let error = Diagnostic::new("unknown-network", name.span, title);
            self.errors.push(error.meant(&name.value, known));
        }
        found.map(|i| NetId(i + 1))
    }

    /// How deep each VI lies; circles of `over` are reported once, and all on them or above given depth 1.
    fn depths(&mut self, over: &[Vec<NetId>]) -> Vec<usize> {
        let depths = parallel::depths(over);
        for way in parallel::circles(over, &depths) {
            self.cycle(&way);
        }
        depths.into_iter().map(|depth| depth.unwrap_or(1)).collect()
    }

    fn cycle(&mut self, way: &[usize]) {
        let vi = &self.flat.vis[way[0]];
        let around: Vec<&str> =
            way.iter().chain(&way[..1]).map(|i| self.flat.vis[*i].name.value.as_str()).collect();
        let title = format!("`{}` rides on itself", vi.name.value);
        let error = Diagnostic::new("cycle", vi.over.span, title).label(around.join(" over "));
        self.errors.push(error);
    }

    fn declare(&mut self, index: usize, over: &[NetId], depth: usize) {
        let vi = &self.flat.vis[index];
        let net = NetId(index + 1);
        if vi.nodes.is_empty() && self.errors.is_empty() {
            self.error("empty-vi", vi.name.span, format!("VI `{}` has no nodes", vi.name.value));
        }
        self.check_node_names(vi.nodes.iter().map(|n| &n.name), &format!("VI `{}`", vi.name.value));
        let is_fabric = index >= self.named();
        let between = if is_fabric { '@' } else { '.' };
        let nodes = vi.nodes.iter().enumerate().map(|(at, spec)| Node {
            id: NodeId { net, index: at },
            name: spec.name.value.clone(),
            role: spec.role(),
            at: None,
            base: NodeId { net: BASE, index: 0 },
            dataplane: DataplaneChoice::Auto,
            netns: format!("v.{}{between}{}", vi.name.value, spec.name.value),
            host: (spec.role() != Role::Router).then_some(UNSET),
            stacked: Vec::new(),
            ends: Vec::new(),
            wires: Vec::new(),
            forwards: true,
            sysctls: BTreeMap::new(),
            location: None,
        });
        self.lab.networks.push(Network {
            id: net,
            name: vi.name.value.clone(),
            over: over.first().copied(),
            besides: over.iter().skip(1).copied().collect(),
            depth,
            pool: NETWORK_POOL,
            link_pool: None,
            routing: vi.routing.value,
            owner: vi.owner.clone(),
            nodes: nodes.collect(),
            links: Vec::new(),
        });
    }

    fn place(&mut self, net: NetId) {
        let Some(below) = self.lab.net(net).over else { return };
        let bearers: BTreeMap<String, NodeId> =
            self.lab.net(below).nodes.iter().rev().map(|n| (n.name.clone(), n.id)).collect();
        for (index, spec) in self.vi(net).nodes.iter().enumerate() {
            let word = spec.at.value.as_str();
            if word.is_empty() || self.lab.net(below).nodes.is_empty() {
                continue;
            }
            let prefix = format!("{}/", self.lab.net(below).name);
            let short = word.strip_prefix(&prefix).unwrap_or(word);
            match bearers.get(short).copied() {
                Some(at) => {
                    self.check_bearer(net, at, &spec.at);
                    let place = self.lab.node(at);
                    parallel::check_place(&self.lab, net, place, spec.at.span, &mut self.errors);
                    let base = place.base;
                    let node = &mut self.lab.networks[net.0].nodes[index];
                    (node.at, node.base) = (Some(at), base);
                }
                None => self.misplaced(net, below, &spec.at),
            }
        }
    }

    /// What cannot bear nodes of other VIs: a phantom VH is nothing but an interface, and an emulated router is nowhere.
    fn check_bearer(&mut self, net: NetId, at: NodeId, word: &Spanned<String>) {
        let is_fabric = net.0 > self.named();
        let bearer = self.lab.node(at);
        let emulated = at.net != BASE && self.vi(at.net).nodes[at.index].emulate.is_some();
        let what = match bearer.role {
            Role::Phantom if !is_fabric => "a phantom VH",
            Role::Router if emulated => "a router that a VI plays",
            Role::Host | Role::Router | Role::Both | Role::Phantom => return,
        };
        let title = format!("`{}` is {what}: it bears no nodes of other VIs", self.lab.full_name(at));
        self.error("placement", word.span, title);
    }

    /// Notes the ports of an emulated router, and where they are.
    fn seat(&mut self, index: usize) {
        let Recursion { outer, router, inner, ports } = &self.recursions[index];
        let fabric = NetId(self.named() + index + 1);
        let (outer, inner) = (NetId(outer + 1), NetId(inner + 1));
        let router = NodeId { net: outer, index: *router };
        let unlinked = EndId { link: LinkId { net: outer, index: usize::MAX }, side: 0 };
        let port = |(edge, (name, phantom)): (usize, &(Spanned<String>, usize))| Port {
            name: name.value.clone(),
            phantom: NodeId { net: inner, index: *phantom },
            edge: NodeId { net: fabric, index: edge },
            end: unlinked,
        };
        let ports: Vec<Port> = ports.iter().enumerate().map(port).collect();
        let first = ports.first().map(|p| self.lab.node(p.edge).base);
        let node = &mut self.lab.networks[outer.0].nodes[router.index];
        node.base = first.unwrap_or(node.base);
        let resolve = self.vi(inner).emulate.as_ref().map(|e| e.resolve).unwrap_or_default();
        self.lab.emulated.push(Emulated { router, inner, fabric, resolve, ports });
    }

    /// The place of a link's end at a port: that of the phantom VH, in the VI's own underlay.
    fn find_seat(&mut self, router: NodeId, port: &str, span: Span) -> Option<Seat> {
        let found = self.lab.emulated(router)?.ports.iter().find(|p| p.name == port)?.clone();
        let below = self.lab.net(router.net).over?;
        let mut way = std::iter::successors(Some(found.phantom), |id| self.lab.node(*id).at);
        if let Some(at) = way.find(|id| id.net == below) {
            return Some(Seat { partition: found.edge, at });
        }
        if self.lab.node(found.phantom).at.is_some() {
            let title = format!(
                "`{}` stands on no node of `{}`, which `{}` rides on",
                self.lab.full_name(found.phantom),
                self.lab.net(below).name,
                self.lab.net(router.net).name
            );
            self.error("emulate", span, title);
        }
        None
    }

    fn misplaced(&mut self, net: NetId, below: NetId, at: &Spanned<String>) {
        let under = self.lab.net(below);
        let named = &self.lab.networks[..=self.named()];
        let elsewhere = named.iter().find(|n| n.nodes.iter().any(|node| node.name == at.value));
        let title = format!("`{}` is not a node of `{}`", at.value, under.name);
        let label = format!("`{}` rides on `{}`", self.lab.net(net).name, under.name);
        let error = Diagnostic::new("placement", at.span, title).label(label);
        let error = match elsewhere {
            Some(other) => error.help(format!("`{}` is a node of `{}`", at.value, other.name)),
            None => error.meant(&at.value, under.nodes.iter().map(|n| n.name.as_str())),
        };
        self.errors.push(error);
    }

    fn links(&mut self, net: NetId, specs: &[FlatLink]) {
        let index: BTreeMap<String, NodeId> =
            self.lab.net(net).nodes.iter().map(|n| (n.name.clone(), n.id)).collect();
        let mut between: BTreeMap<[&str; 2], usize> = BTreeMap::new();
        let mut taken: BTreeMap<String, Span> = BTreeMap::new();
        for spec in specs {
            let ends = [&spec.a, &spec.b].map(|end| self.link_end(net, &index, end));
            let [Some(a), Some(b)] = ends else { continue };
            if a.0 == b.0 && spec.a.value != spec.b.value {
                let title = format!("both ends are ports of `{}`", self.lab.node(a.0).name);
                self.error("link", spec.b.span, title);
            }
            let mut names = [spec.a.value.as_str(), spec.b.value.as_str()];
            names.sort_unstable();
            let count = between.entry(names).or_default();
            *count += 1;
            let name = self.link_name(spec, *count);
            let span = spec.name.as_ref().map_or(spec.a.span, |n| n.span);
            if let Some(first) = taken.insert(name.clone(), span) {
                let title = format!("there are two links `{name}`");
                self.errors
                    .push(Diagnostic::new("duplicate-link", span, title).see(first, "the first is here"));
            }
            self.add_link(net, [a, b], name, spec);
        }
    }

    fn link_end(
        &mut self,
        net: NetId,
        index: &BTreeMap<String, NodeId>,
        end: &Spanned<String>,
    ) -> Option<(NodeId, Option<Seat>)> {
        let found = index.get(&end.value).copied();
        if found.is_none()
            && net != BASE
            && let Some((router, port)) = emulated::port_of(self.vi(net), &end.value)
        {
            let router = NodeId { net, index: router };
            return Some((router, Some(self.find_seat(router, port, end.span)?)));
        }
        if found.is_none() {
            let network = self.lab.net(net);
            let title = format!("`{}` has no node `{}`", network.name, end.value);
            let error = Diagnostic::new("unknown-node", end.span, title).label(format!("`{}`", end.value));
            self.errors.push(error.meant(&end.value, network.nodes.iter().map(|n| n.name.as_str())));
        }
        found.map(|node| (node, None))
    }

    fn link_name(&mut self, spec: &FlatLink, count: usize) -> String {
        if let Some(name) = &spec.name {
            if let Some(fault) = names::link_fault(&name.value) {
                let title = format!("`{}` cannot be the name of a link", name.value);
                self.errors.push(Diagnostic::new("name", name.span, title).label(fault));
            }
            return name.value.clone();
        }
        let plain = format!("{}--{}", spec.a.value, spec.b.value);
        if count == 1 { plain } else { format!("{plain}.{count}") }
    }

    fn add_link(&mut self, net: NetId, ends: [(NodeId, Option<Seat>); 2], name: String, spec: &FlatLink) {
        let id = LinkId { net, index: self.lab.net(net).links.len() };
        let end = |(node, seat)| End { node, dev: String::new(), addr: UNSET, link_addr: None, seat };
        let ends = ends.map(end);
        let carrier = self.carrier(net, &ends);
        let security = self.link_security(net, spec);
        let parallel = parallel::of_link(self.lab.net(net), &spec.spread, &mut self.errors);
        for (side, end) in ends.iter().enumerate() {
            let id = EndId { link: id, side };
            self.lab.networks[net.0].nodes[end.node.index].ends.push(id);
            if let Some(seat) = end.seat {
                let ports = self.lab.emulated.iter_mut().flat_map(|e| &mut e.ports);
                ports.filter(|p| p.edge == seat.partition).for_each(|p| p.end = id);
            }
        }
        let network = &mut self.lab.networks[net.0];
        let (cost, impair) = (spec.cost, spec.impair);
        let (mtu, fragments) = (0, None);
        network.links.push(Link {
            id,
            name,
            ends,
            cost,
            mtu,
            fragments,
            carrier,
            parallel,
            security,
            impair,
        });
    }

    /// The link's own word, else that of its VI.
    fn link_security(&mut self, net: NetId, spec: &FlatLink) -> Option<Security> {
        match &spec.security {
            Some(own) if net == BASE && own.value.is_some() => {
                self.error("security", own.span, "a base link has no security of its own: virtual links do");
                None
            }
            Some(own) => own.value,
            None if net == BASE => None,
            None => self.vi(net).security,
        }
    }

    fn carrier(&self, net: NetId, ends: &[End; 2]) -> Option<Carrier> {
        let over = self.lab.net(net).over?;
        let [a, b] = ends.each_ref().map(|end| self.lab.site(end).base);
        Some(match over {
            BASE if a == b => Carrier::Inside,
            BASE => Carrier::Tunnel,
            NetId(_) if self.lab.net(net).besides.is_empty() => Carrier::Stacked,
            NetId(_) => Carrier::Parallel,
        })
    }

    // ---- addresses ---------------------------------------------------------------------------------------

    /// Says whether everything has its address, be that wrong or not.
    fn addresses(&mut self) -> bool {
        if !self.pools() {
            return false;
        }
        let mut numbered = true;
        for index in 0..self.lab.networks.len() {
            numbered &= self.number(NetId(index));
        }
        let linked = self.link_addresses();
        self.fabric_addresses();
        numbered && linked
    }

    /// The link addresses of a fabric are the host addresses of the phantom VHs.
    fn fabric_addresses(&mut self) {
        let fabrics: Vec<NetId> = self.lab.emulated.iter().map(|e| e.fabric).collect();
        for net in fabrics {
            for index in 0..self.lab.net(net).links.len() {
                for side in 0..2 {
                    let at = self.lab.site(&self.lab.net(net).links[index].ends[side]).at;
                    let host = at.and_then(|at| self.lab.node(at).host);
                    self.lab.networks[net.0].links[index].ends[side].link_addr = host;
                }
            }
        }
    }

    /// Addresses the file gives to nodes.
    fn fixed_addresses(&mut self) {
        for (index, network) in self.lab.networks.iter_mut().enumerate() {
            let given: Vec<Option<Spanned<Ipv4Addr>>> = match index {
                0 => self.flat.base.nodes.iter().map(|n| n.loopback.clone()).collect(),
                _ => self.flat.vis[index - 1].nodes.iter().map(|n| n.address.clone()).collect(),
            };
            let mut seen: BTreeMap<Ipv4Addr, Span> = BTreeMap::new();
            for (node, address) in network.nodes.iter_mut().zip(given) {
                let Some(address) = address else { continue };
                if !address::is_private(Ipv4Net::from(address.value)) {
                    let title = format!("{} is not a private address (RFC 1918)", address.value);
                    self.errors.push(Diagnostic::new("not-private", address.span, title));
                }
                if node.host.is_none() {
                    let title = format!("`{}` is a router: it has no host address", node.name);
                    let help = "`role: both` makes it a host and a router";
                    self.errors.push(Diagnostic::new("router-address", address.span, title).help(help));
                }
                if let Some(first) = seen.insert(address.value, address.span) {
                    let title =
                        format!("{} is the address of two nodes of `{}`", address.value, network.name);
                    let error = Diagnostic::new("duplicate-address", address.span, title);
                    self.errors.push(error.see(first, "first here"));
                }
                node.host = Some(address.value);
            }
        }
    }

    /// The groups of a VI's nodes that have addresses to themselves, if its pool has room.
    fn groups(&self, net: NetId) -> Groups {
        let network = self.lab.net(net);
        if net == BASE {
            return Groups::default();
        }
        let known =
            self.vi(net).addresses.as_ref().map(|a| a.value).or_else(|| self.leases.pool(&network.name));
        let Some(pool) = known else {
            let members = network.nodes.len() + 2 * network.links.len();
            let limit = (4 * members.next_power_of_two() as u64).clamp(GROUPED_LEAST, GROUPED_MOST);
            return Groups::of(&self.lab, network, limit);
        };
        let half = (1u64 << (32 - pool.prefix_len())) / 2;
        let groups = Groups::of(&self.lab, network, half);
        match address::layout(pool, self.need(net, &groups)) {
            Some(_) => groups,
            None => Groups::default(),
        }
    }

    fn need(&self, net: NetId, groups: &Groups) -> Need {
        let network = self.lab.net(net);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let stacked: usize = self.named_above(net).map(|n| 2 * n.links.len()).sum();
        let fixed = network.nodes.iter().filter(|n| n.host.is_some_and(|h| h != UNSET)).count();
        let stacked = if net == BASE || stacked == 0 { 0 } else { stacked + fixed };
        let wires = self.lab.gateways.iter().filter(|g| g.link.ends[1].node.net == net).count();
        let free = |n: &&Node| n.host.is_some() && groups.of_node(n.id.index).is_none();
        let links = network.links.iter().filter(|l| groups.of_link(l.id.index).is_none()).count();
        Need {
            hosts: count(network.nodes.iter().filter(free).count()),
            stacked: count(stacked),
            links: count(links + wires + fixed),
            grouped: groups.size(),
        }
    }

    /// The networks over `net` whose link addresses are its own for them alone; a fabric has those of phantom VHs.
    fn named_above(&self, net: NetId) -> impl Iterator<Item = &Network> {
        self.lab.named_networks().filter(move |n| n.rides_on(net))
    }

    /// Pools written in the file are private, and they and the addresses written in it keep ships apart.
    fn given_pools(&mut self) {
        let mut given: Vec<(NetId, Spanned<Ipv4Net>)> = Vec::new();
        given.extend(self.flat.base.addresses.clone().map(|a| (BASE, a)));
        for (index, vi) in self.flat.vis.iter().enumerate() {
            given.extend(vi.addresses.clone().map(|a| (NetId(index + 1), a)));
        }
        for (_, pool) in given.iter().filter(|(_, p)| !address::is_private(p.value)) {
            let title = format!("{} is not private address space (RFC 1918)", pool.value);
            self.errors.push(Diagnostic::new("not-private", pool.span, title));
        }
        self.check_given_pools(&given);
        self.check_given_addresses(&given);
    }

    /// The pool of each network: the one the file gives, or the lowest block that keeps ships apart. Says whether there is one
    /// for each.
    fn pools(&mut self) -> bool {
        let base = self.lab.base().pool;
        let written = self.written_of_each();
        let claims: Vec<Claim> = (0..self.flat.vis.len())
            .map(|index| {
                let net = NetId(index + 1);
                let fixed = self.flat.vis[index].addresses.as_ref().map(|a| a.value);
                let need = self.need(net, &self.groups(net));
                let lease = self.leases.pool(&self.lab.net(net).name);
                let lease = lease.filter(|pool| address::layout(*pool, need).is_some());
                let others = written.iter().filter(|(other, ..)| *other != net);
                let claimed = self.claimed(net);
                let near = others.filter(|(_, stands, _)| !stands.is_disjoint(&claimed));
                let clear_of = near.flat_map(|(.., addresses)| addresses).copied().collect();
                Claim::network(claimed, fixed, need).leased(lease).clear_of(clear_of)
            })
            .collect();
        match address::blocks(NETWORK_POOL, &NETWORK_BLOCKS, &claims, &[base], &[]) {
            Ok(blocks) => {
                for (network, block) in self.lab.networks[1..].iter_mut().zip(blocks) {
                    network.pool = block;
                }
                true
            }
            Err(index) => {
                self.no_room(index, NETWORK_POOL, "network");
                false
            }
        }
    }

    fn no_room(&mut self, index: usize, pool: Ipv4Net, layer: &str) {
        let name = &self.flat.vis[index].name;
        let title = format!("no room for VI `{}` in the {layer}-layer pool {pool}", name.value);
        let help = "give it, or one that shares base nodes with it, its own `addresses:`";
        self.errors.push(Diagnostic::new("pool-exhausted", name.span, title).help(help));
    }

    /// The base nodes of a network's footprint; networks that gateways join share one more, which is none.
    fn claimed(&self, net: NetId) -> BTreeSet<usize> {
        let mut nodes = self.footprint(net);
        let first = self.lab.joined(net).first().map_or(net.0, |n| n.0);
        nodes.insert(self.lab.base().nodes.len() + first);
        nodes
    }

    /// The base nodes a network stands on. What has no place, an error of its own, stands nowhere.
    fn footprint(&self, net: NetId) -> BTreeSet<usize> {
        let placed = |n: &&Node| net == BASE || n.at.is_some() || self.lab.emulated(n.id).is_some();
        let ends = self.lab.net(net).links.iter().flat_map(|l| &l.ends).filter(|e| e.seat.is_some());
        let seats = ends.map(|e| self.lab.site(e).base.index);
        self.lab.net(net).nodes.iter().filter(placed).map(|n| n.base.index).chain(seats).collect()
    }

    /// Pools written in the file must keep ships apart by themselves.
    fn check_given_pools(&mut self, given: &[(NetId, Spanned<Ipv4Net>)]) {
        let base = (BASE, Spanned::new(self.lab.base().pool, self.flat.base.span));
        let implied = (given.first().map(|(n, _)| *n) != Some(BASE)).then_some(base);
        let all: Vec<_> = implied.iter().chain(given).collect();
        for (i, (net, pool)) in all.iter().enumerate() {
            for (other, earlier) in &all[..i] {
                if !address::overlap(pool.value, earlier.value) {
                    continue;
                }
                let shared = self.shared_node(*net, *other);
                let (mine, theirs) = (&self.lab.net(*net).name, &self.lab.net(*other).name);
                let overlap = format!("the addresses of `{mine}` and `{theirs}` overlap");
                let (title, help) = match shared {
                    Some(node) => (
                        format!("{overlap} on base node `{node}`"),
                        "networks that share a base node cannot share addresses",
                    ),
                    None if self.lab.joined(*net).contains(other) => (
                        format!("{overlap}, and gateways join them"),
                        "networks that gateways join cannot share addresses",
                    ),
                    None => continue,
                };
                let error = Diagnostic::new("overlapping-pools", pool.span, title)
                    .label(format!("`{mine}`: {}", pool.value))
                    .help(help);
                let label = format!("`{theirs}`: {}", earlier.value);
                self.errors.push(if *other == BASE && implied.is_some() {
                    error.label(format!("`{mine}`: {}, {label}", pool.value))
                } else {
                    error.see(earlier.span, label)
                });
            }
        }
    }

    /// Addresses written in the file must keep ships apart by themselves, too: from the pools of other networks, be they
    /// written or that of the base, and from each other.
    fn check_given_addresses(&mut self, given: &[(NetId, Spanned<Ipv4Net>)]) {
        let mut pools: BTreeMap<NetId, Ipv4Net> =
            given.iter().map(|(net, pool)| (*net, pool.value)).collect();
        pools.insert(BASE, self.lab.base().pool);
        let mut users: BTreeMap<Ipv4Addr, Vec<Written<'a>>> = BTreeMap::new();
        for written in self.written() {
            users.entry(written.address.value).or_default().push(written);
        }
        let mut errors = Vec::new();
        for written in self.written() {
            let users = &users[&written.address.value];
            errors.extend(self.pools_around(written, &pools, users));
            errors.extend(self.address_of_another(written, users));
        }
        self.errors.extend(errors);
    }

    /// The addresses that the file gives to nodes, in its order.
    fn written(&self) -> impl Iterator<Item = Written<'a>> + use<'a> {
        let of_base = self.flat.base.nodes.iter().map(|n| (BASE, &n.name, n.loopback.as_ref()));
        let of_vis = self.flat.vis.iter().enumerate().flat_map(|(index, vi)| {
            vi.nodes.iter().map(move |n| (NetId(index + 1), &n.name, n.address.as_ref()))
        });
        of_base
            .chain(of_vis)
            .filter_map(|(net, node, address)| Some(Written { net, node, address: address? }))
    }

    /// Each network whose nodes have written addresses: where it stands, in the sense of [`Self::claimed`], and those.
    fn written_of_each(&self) -> Vec<(NetId, BTreeSet<usize>, Vec<Ipv4Addr>)> {
        let mut found: BTreeMap<NetId, Vec<Ipv4Addr>> = BTreeMap::new();
        for Written { net, address, .. } in self.written() {
            found.entry(net).or_default().push(address.value);
        }
        found.into_iter().map(|(net, addresses)| (net, self.claimed(net), addresses)).collect()
    }

    /// The written addresses in the link-layer pool of all nodes of networks that share a base node with this one, its own
    /// included: no link of it has them.
    fn written_beside(&self, net: NetId) -> Vec<Ipv4Addr> {
        let in_pool: Vec<Written<'a>> =
            self.written().filter(|w| LINK_POOL.contains(&w.address.value)).collect();
        let of: BTreeSet<NetId> = in_pool.iter().map(|w| w.net).collect();
        let near: BTreeSet<NetId> =
            of.into_iter().filter(|other| self.shared_node(net, *other).is_some()).collect();
        in_pool.iter().filter(|w| near.contains(&w.net)).map(|w| w.address.value).collect()
    }

    /// The pools of other networks that a written address lies in. Where one of their own nodes has it, that is told
    /// instead.
    fn pools_around(
        &self,
        written: Written<'a>,
        pools: &BTreeMap<NetId, Ipv4Net>,
        users: &[Written<'a>],
    ) -> Vec<Diagnostic> {
        let Written { net, address, .. } = written;
        // Pools that overlap have been told of.
        let apart = |pool: Ipv4Net| pools.get(&net).is_none_or(|own| !address::overlap(*own, pool));
        let others = pools
            .iter()
            .filter(|(other, pool)| **other != net && pool.contains(&address.value) && apart(**pool));
        let others = others.filter(|(other, _)| users.iter().all(|user| user.net != **other));
        let error = |(other, pool): (&NetId, &Ipv4Net)| {
            let why = self.why_apart(net, *other)?;
            let [mine, theirs] = [net, *other].map(|net| &self.lab.net(net).name);
            let title = format!("{} of `{mine}` lies in the pool {pool} of `{theirs}`; {why}", address.value);
            Some(Diagnostic::new("overlapping-pools", address.span, title))
        };
        others.filter_map(error).collect()
    }

    /// Two networks that share a base node, or that gateways join, have this address; told of the later one, at its node.
    fn address_of_another(&self, written: Written<'a>, users: &[Written<'a>]) -> Option<Diagnostic> {
        let mut before = users.iter().filter(|user| user.net < written.net);
        let (first, why) = before.find_map(|user| Some((user, self.why_apart(written.net, user.net)?)))?;
        let [mine, theirs] =
            [&written, first].map(|w| format!("{}/{}", self.lab.net(w.net).name, w.node.value));
        let title = format!("{} is the address of `{mine}` and of `{theirs}`; {why}", written.address.value);
        let error = Diagnostic::new("duplicate-address", written.address.span, title);
        // Both may be written in one place, a template.
        let once = first.address.span.start == written.address.span.start;
        Some(if once { error } else { error.see(first.address.span, "first here") })
    }

    /// Why two networks cannot share addresses, if they cannot.
    fn why_apart(&self, a: NetId, b: NetId) -> Option<String> {
        match self.shared_node(a, b) {
            Some(node) => Some(format!("both stand on base node `{node}`")),
            None if self.lab.joined(a).contains(&b) => Some("gateways join them".to_owned()),
            None => None,
        }
    }

    /// The name of a base node both networks stand on.
    fn shared_node(&self, a: NetId, b: NetId) -> Option<String> {
        let on = self.footprint(a).intersection(&self.footprint(b)).next().copied()?;
        Some(self.lab.base().nodes[on].name.clone())
    }

    /// Gives every node and every end of a network an address; says whether each has one, be that of its pool or not.
    fn number(&mut self, net: NetId) -> bool {
        let groups = self.groups(net);
        let need = self.need(net, &groups);
        let pool = self.lab.net(net).pool;
        let Some(layout) = address::layout(pool, need) else {
            let (given, name) = match net {
                BASE => (self.flat.base.addresses.as_ref(), "base"),
                NetId(_) => (self.vi(net).addresses.as_ref(), self.vi(net).name.value.as_str()),
            };
            let span = given.map_or(self.flat.base.span, |a| a.span);
            let title = format!("{pool} is too small for `{name}`: it takes {} addresses", need.total());
            self.error("pool-too-small", span, title);
            // What is wrong with sizes and paths is told too: addresses of some kind will do.
            let Some(layout) = address::layout(NETWORK_POOL, need) else { return false };
            return self.allocate(net, NETWORK_POOL, (layout, &groups), &Leases::default()).is_some();
        };
        let leases = self.leases;
        let way = (layout, &groups);
        if self.allocate(net, pool, way, leases).is_none() {
            // What the running lab left free has no room in one piece: the network is numbered afresh.
            let _fits = self.allocate(net, pool, way, &Leases::default());
        }
        true
    }

    /// Addresses of a network and of the links stacked on it: those it has already first, then new ones. `None`,
    /// and nothing is given, if they do not fit.
    fn allocate(
        &mut self,
        net: NetId,
        pool: Ipv4Net,
        (layout, groups): (Layout, &Groups),
        leases: &Leases<'_>,
    ) -> Option<()> {
        let fixed = self.lab.net(net).nodes.iter().filter_map(|n| n.host).filter(|h| *h != UNSET);
        let mut free = Allocator::new(pool, u32::from(pool.network()) + 1, fixed);
        let mut network = self.lab.net(net).clone();
        for node in network.nodes.iter_mut().filter(|n| n.host == Some(UNSET)) {
            let lease = leases.host(&network.name, &node.name).filter(|a| free.take(&[*a]));
            node.host = Some(lease.unwrap_or(UNSET));
        }
        let wires = self.lab.gateways.iter().map(|g| &g.link).filter(|l| l.ends[1].node.net == net);
        let ids: Vec<LinkId> = network.links.iter().chain(wires).map(|l| l.id).collect();
        let of_running = |id: &LinkId| Some(leases.link(&self.lab, *id)?.ends.each_ref().map(|e| e.addr));
        let mut pairs: Vec<Option<[Ipv4Addr; 2]>> =
            ids.iter().map(|id| of_running(id).filter(|pair| free.take(pair))).collect();
        let slots = self.lab.slots(net);
        let of_running = |slot: &parallel::Slot| leases.slot(&self.lab, *slot);
        let mut above: Vec<Option<Ipv4Addr>> =
            slots.iter().map(|slot| of_running(slot).filter(|a| free.take(&[*a]))).collect();
        for vi in self.named_above(net).filter(|_| net != BASE) {
            free.avoid(leases.link_addrs(&vi.name));
        }
        let Layout { mut hosts, mut stacked, mut links, grouped } = layout;
        let mut starts = groups.starts(grouped);
        for node in network.nodes.iter_mut().filter(|n| n.host == Some(UNSET)) {
            let group = groups.of_node(node.id.index);
            node.host = Some(free.one(group.map_or(&mut hosts, |g| &mut starts[g].hosts))?);
        }
        for (index, pair) in pairs.iter_mut().enumerate().filter(|(_, p)| p.is_none()) {
            let group = groups.of_link(index);
            *pair = Some(free.pair(group.map_or(&mut links, |g| &mut starts[g].links))?);
        }
        for addr in above.iter_mut().filter(|a| a.is_none()) {
            *addr = Some(free.one(&mut stacked)?);
        }
        self.lab.networks[net.0] = network;
        for (id, pair) in ids.into_iter().zip(pairs.into_iter().flatten()) {
            for (end, addr) in self.lab.link_mut(id).ends.iter_mut().zip(pair) {
                end.addr = addr;
            }
        }
        self.stack(net, &above);
        Some(())
    }

    /// Each end of a link stacked on `below` has an address of `below` for itself alone (paper, Figure 10).
    fn stack(&mut self, below: NetId, addrs: &[Option<Ipv4Addr>]) {
        for (slot, addr) in self.lab.slots(below).into_iter().zip(addrs) {
            self.lab.set_slot(slot, *addr);
            if let Some(at) = self.lab.stands_on(slot.end, below) {
                self.lab.networks[below.0].nodes[at.index].stacked.extend(addr);
            }
        }
    }

    /// Link-layer addresses: of the link-layer pool over the base, of the lower VI's network layer else.
    fn link_addresses(&mut self) -> bool {
        let pools: Vec<Option<Ipv4Net>> = self.lab.networks[1..].iter().map(|n| Some(n.pool)).collect();
        let claims: Vec<Claim> = self.lab.networks[1..]
            .iter()
            .map(|n| {
                let links = if n.over == Some(BASE) { n.links.len() } else { 0 };
                let beside = if links > 0 { self.written_beside(n.id).len() } else { 0 };
                let addresses = 2 * links + beside;
                let roomy = |pool: &Ipv4Net| links > 0 && address::holds(*pool, addresses);
                let lease = self.leases.link_pool(&n.name).filter(roomy);
                Claim::links(self.footprint(n.id), addresses).leased(lease)
            })
            .collect();
        let base = self.lab.base().pool;
        let blocks = match address::blocks(LINK_POOL, &LINK_BLOCKS, &claims, &[base], &pools) {
            Ok(blocks) => blocks,
            Err(index) => {
                self.no_room(index, LINK_POOL, "link");
                return false;
            }
        };
        for (index, block) in blocks.into_iter().enumerate() {
            let net = NetId(index + 1);
            if self.lab.net(net).over == Some(BASE) {
                self.lab.networks[net.0].link_pool = Some(block);
                self.number_links(net, block);
            }
        }
        true
    }

    /// Gives each end of the links of a VI over the base its link address.
    fn number_links(&mut self, net: NetId, block: Ipv4Net) {
        let leases = self.leases;
        if self.allocate_links(net, block, leases).is_none() {
            let _fits = self.allocate_links(net, block, &Leases::default());
        }
    }

    fn allocate_links(&mut self, net: NetId, block: Ipv4Net, leases: &Leases<'_>) -> Option<()> {
        let mut next = u32::from(block.network());
        let mut free = Allocator::new(block, next, self.written_beside(net));
        let mut addrs: Vec<[Option<Ipv4Addr>; 2]> = Vec::new();
        for link in &self.lab.net(net).links {
            let lease = leases.placed_link(&self.lab, link.id);
            addrs.push([0, 1].map(|side| lease?.ends[side].link_addr.filter(|a| free.take(&[*a]))));
        }
        free.avoid(leases.link_addrs(&self.lab.net(net).name));
        for addr in addrs.iter_mut().flatten().filter(|a| a.is_none()) {
            *addr = Some(free.one(&mut next)?);
        }
        for (link, addrs) in self.lab.networks[net.0].links.iter_mut().zip(addrs) {
            for (end, addr) in link.ends.iter_mut().zip(addrs) {
                end.link_addr = addr;
            }
        }
        Some(())
    }

    // ---- devices and MTU ---------------------------------------------------------------------------------

    fn devices(&mut self) {
        for index in 0..self.lab.networks.len() {
            let fabric = self.lab.fabric(NetId(index)).is_some();
            let prefix = match index {
                0 => "e-",
                _ if fabric => "x-",
                _ => "v-",
            };
            for node in 0..self.lab.networks[index].nodes.len() {
                let node = &self.lab.networks[index].nodes[node];
                let ends: Vec<EndId> = node.ends.iter().chain(&node.wires).copied().collect();
                let lease =
                    |end: &EndId| Some(self.leases.link(&self.lab, end.link)?.ends[end.side].dev.clone());
                let leased: Vec<Option<String>> = ends.iter().map(lease).collect();
                let mut taken: BTreeSet<String> = leased.iter().flatten().cloned().collect();
                taken.insert("lo".to_owned());
                for (end, leased) in ends.into_iter().zip(leased) {
                    let peer = self.lab.peer(end).node;
                    let name = &self.lab.node(peer).name;
                    let (prefix, far) = match end.link.net {
                        GATEWAYS => ("g-", format!("{}.{name}", self.lab.net(peer.net).name)),
                        NetId(_) => (prefix, name.clone()),
                    };
                    let dev = leased.unwrap_or_else(|| names::device(prefix, &far, &mut taken));
                    self.lab.link_mut(end.link).ends[end.side].dev = dev;
                }
            }
        }
    }

    /// What the routing protocols cannot carry.
    fn protocols(&mut self) {
        for index in 0..self.lab.networks.len() {
            let span = match index {
                0 => self.flat.base.routing.span,
                _ => self.vi(NetId(index)).routing.span,
            };
            for title in protocol::refusals(&self.lab, &self.lab.networks[index]) {
                self.error("routing", span, title);
            }
        }
    }

    /// A router that runs already goes by the address that it went by: the end that has it comes first.
    fn first_addresses(&mut self) {
        for net in 0..self.lab.networks.len() {
            for index in 0..self.lab.networks[net].nodes.len() {
                let network = &self.lab.networks[net];
                let node = &network.nodes[index];
                let Some(was) = self.leases.address(&network.name, &node.name) else { continue };
                let found = node.ends.iter().position(|e| self.lab.end(*e).addr == was);
                if let Some(at) = found.filter(|_| node.host.is_none()) {
                    self.lab.networks[net].nodes[index].ends[..=at].rotate_right(1);
                }
            }
        }
    }

    fn mtus(&mut self) {
        for (link, spec) in self.lab.networks[BASE.0].links.iter_mut().zip(&self.flat.base.links) {
            link.mtu = spec.mtu.as_ref().map_or(self.flat.base.mtu, |m| m.value);
        }
        let mut order: Vec<NetId> = self.lab.networks[1..].iter().map(|n| n.id).collect();
        order.sort_by_key(|id| self.lab.net(*id).depth);
        // What fits through an emulated router is known when its inner VI is, which may ride on the router's own.
        let rounds = self.lab.emulated.len() + 1;
        let before = self.errors.len();
        for _ in 0..rounds {
            self.errors.truncate(before);
            let was: Vec<u32> = self.lab.links().map(|l| l.mtu).collect();
            order.iter().for_each(|net| self.vi_mtus(*net));
            if self.lab.links().map(|l| l.mtu).eq(was) {
                break;
            }
        }
    }

    /// A tunnel must not lead through the router that it is a part of (pitfall of every recursive tunnel: each new outer
    /// header has a new TTL, so such packets never age).
    fn self_transit(&mut self) {
        if self.lab.emulated.is_empty() {
            return;
        }
        let rib = Rib::compute(&self.lab);
        let crossed = self.lab.emulated.iter().enumerate().map(|(index, emulated)| {
            let mut found = BTreeSet::new();
            for link in &self.lab.net(emulated.fabric).links {
                self.crossed(&rib, link, &mut found);
            }
            (index, found)
        });
        for index in emulated::circles(&crossed.collect()) {
            let router = self.lab.emulated[index].router;
            let inner = self.lab.net(self.lab.emulated[index].inner).name.clone();
            let name = self.lab.full_name(router);
            let spec = &self.vi(router.net).nodes[router.index];
            let span = spec.emulate.as_ref().map_or(spec.name.span, |e| e.span);
            let title = format!("what `{inner}` carries for `{name}` would pass `{name}` itself");
            let help = "the nodes that it stands on must reach each other without this router";
            self.errors.push(Diagnostic::new("self-transit", span, title).help(help));
        }
    }

    /// The emulated routers, by index, that packets of a link pass in the layers below.
    fn crossed(&self, rib: &Rib, link: &Link, found: &mut BTreeSet<usize>) {
        let ways = [0, 1].map(|side| self.lab.ways(EndId { link: link.id, side }));
        for (at, to) in ways.into_iter().flatten() {
            for end in rib.links_between(&self.lab, at, to).unwrap_or_default() {
                let node = self.lab.peer(end).node;
                found.extend(self.lab.emulated.iter().position(|e| e.router == node));
                self.crossed(rib, self.lab.link(end.link), found);
            }
        }
    }

    fn vi_mtus(&mut self, net: NetId) {
        let below: Vec<NetId> = self.lab.net(net).underlays().collect();
        let ribs: Vec<Rib> = below.iter().map(|below| Rib::of_network(&self.lab, *below)).collect();
        let count = self.lab.net(net).links.len();
        let rooms: Vec<Vec<Option<u32>>> =
            (0..count).map(|index| self.rooms(&ribs, LinkId { net, index }, whole)).collect();
        let least = rooms.iter().flatten().flatten().copied().min();
        let depth = u32::try_from(self.lab.net(net).depth).unwrap_or(u32::MAX);
        let headers = self.headers_of(net) * HEADER;
        let above = self.flat.base.mtu.saturating_sub(depth.saturating_add(1).saturating_mul(HEADER));
        let inside = least.map_or(above, |least| least.saturating_sub(headers));
        let may_fragment = self.may_fragment(net);
        for (index, rooms) in rooms.into_iter().enumerate() {
            let id = LinkId { net, index };
            let outside = self.lab.link(id).carrier != Some(Carrier::Inside);
            let unknown = below.iter().zip(&rooms).filter(|(_, room)| outside && room.is_none());
            let unrouted: Vec<NetId> = unknown
                .map(|(below, _)| *below)
                .filter(|below| !self.lab.net(*below).links.is_empty() && self.is_routed(*below))
                .collect();
            if !unrouted.is_empty() {
                unrouted.into_iter().for_each(|below| self.unrouted(below, id));
                continue;
            }
            let path = rooms.into_iter().flatten().min();
            let room = path.map(|path| self.beside_security(id, path.saturating_sub(headers)));
            let through = self.through(id);
            let fit = room.unwrap_or(inside).min(through);
            let most = match may_fragment {
                true => {
                    let below = self.rooms(&ribs, id, |link| link.mtu).into_iter().flatten().min();
                    below.unwrap_or(inside + headers).min(through)
                }
                false => fit,
            };
            let mtu = self.choose_mtu(id, fit, most);
            let leaves = self.lab.ways(EndId { link: id, side: 0 }).into_iter().any(|way| !self.is_here(way));
            let piece = path.filter(|_| leaves).map(|path| path.saturating_sub(headers - HEADER));
            let fragments = piece.filter(|_| mtu > fit).map(|piece| Fragments { whole: fit, piece });
            let link = &mut self.lab.networks[net.0].links[index];
            (link.mtu, link.fragments) = (mtu, fragments);
        }
    }

    fn is_routed(&self, net: NetId) -> bool {
        self.lab.net(net).routing != super::Routing::None
    }

    /// The layer below has routes and none between the ends of this link.
    fn unrouted(&mut self, below: NetId, id: LinkId) {
        let link = self.lab.link(id);
        let [a, b] = link.ends.each_ref().map(|end| self.below_name(end));
        let title = format!(
            "link `{}` has no path below: `{}` does not connect `{a}` and `{b}`",
            link.name,
            self.lab.net(below).name
        );
        let span = self.vi(id.net).links.get(id.index).map_or(self.vi(id.net).name.span, |l| l.a.span);
        self.error("no-path", span, title);
    }

    /// What fits through the emulated router that a link ends at, between the two ports that are farthest apart.
    fn through(&self, id: LinkId) -> u32 {
        let routers = self.lab.link(id).ends.iter().filter_map(|e| self.lab.emulated(e.node));
        let inside = routers.flat_map(|e| &self.lab.net(e.fabric).links).map(|l| l.mtu);
        inside.filter(|mtu| *mtu != 0).min().unwrap_or(u32::MAX)
    }

    fn below_name(&self, end: &End) -> String {
        let site = self.lab.site(end);
        self.lab.node(site.at.unwrap_or(site.base)).name.clone()
    }

    /// What the link's ESP leaves of `room` bytes.
    fn beside_security(&self, id: LinkId, room: u32) -> u32 {
        let link = self.lab.link(id);
        let largest = |suite: Security| suite.largest_payload(room as usize);
        link.security.map_or(room, |suite| u32::try_from(largest(suite)).unwrap_or(room))
    }

    /// What fits through each of the networks below, whose routes `ribs` are and whose links take so much each, link headers
    /// and base headers included; `None` where nothing below limits it or there is no path.
    fn rooms(&self, ribs: &[Rib], id: LinkId, size: fn(&Link) -> u32) -> Vec<Option<u32>> {
        let mut ways = self.lab.ways(EndId { link: id, side: 0 }).into_iter();
        ribs.iter().map(|rib| self.room(rib, id.net, ways.next()?, size)).collect()
    }

    /// The headers that each link of a VI puts in front of its packets: a link header, and over the base that of a base
    /// tunnel.
    fn headers_of(&self, net: NetId) -> u32 {
        if self.lab.net(net).underlays().any(|below| below == BASE) { 2 } else { 1 }
    }

    /// Whether link packets of a VI may be sent in fragments; an error where they would go by strands.
    fn may_fragment(&mut self, net: NetId) -> bool {
        let asked = self.vi(net).mtu.as_ref().filter(|mtu| mtu.value == ViMtu::Fragment);
        let Some(span) = asked.map(|mtu| mtu.span) else { return false };
        let parallel = self.lab.net(net).underlays().nth(1).is_some();
        if parallel {
            let title = "`mtu: fragment` is not supported over parallel underlays".to_owned();
            self.error("not-supported", span, title);
        }
        !parallel
    }

    /// What fits through the narrowest place of all equal-cost paths, or of all links where routes move.
    fn room(
        &self,
        rib: &Rib,
        net: NetId,
        (from, to): (NodeId, Ipv4Addr),
        size: fn(&Link) -> u32,
    ) -> Option<u32> {
        let below = self.lab.net(from.net);
        let over =
            if self.is_here((from, to)) { None } else { Some(rib.links_between(&self.lab, from, to)?) };
        match over.filter(|_| !below.routing.is_dynamic()) {
            None => below.links.iter().filter(|l| !self.plays_end(net, l)).map(size).min(),
            Some(ends) => ends.iter().map(|e| size(self.lab.link(e.link))).min(),
        }
    }

    /// Whether packets from a node to an address do not leave the node.
    fn is_here(&self, (from, to): (NodeId, Ipv4Addr)) -> bool {
        self.lab.addresses(from).any(|addr| addr == to)
    }

    /// Whether a link ends at a router that VI `net` plays, or has a part in playing: no packet of `net` itself ever takes it.
    fn plays_end(&self, net: NetId, link: &Link) -> bool {
        let mut routers = link.ends.iter().filter_map(|end| self.lab.emulated(end.node));
        routers.any(|emulated| self.needs(emulated.inner, net, &mut BTreeSet::new()))
    }

    /// Whether packets of a VI go by VI `net`: it is this one, rides on it, or has a router that such a one plays.
    fn needs(&self, vi: NetId, net: NetId, seen: &mut BTreeSet<NetId>) -> bool {
        if vi == net || !seen.insert(vi) {
            return vi == net;
        }
        let players = self.lab.emulated.iter().filter(|e| e.router.net == vi).map(|e| e.inner);
        self.lab.net(vi).underlays().chain(players).any(|other| self.needs(other, net, seen))
    }

    /// The computed MTU, `most`, or the smaller one the file asks for; `fit` bytes go whole.
    fn choose_mtu(&mut self, id: LinkId, fit: u32, most: u32) -> u32 {
        let spec = self.vi(id.net).links.get(id.index).and_then(|l| l.mtu.clone());
        let of_vi = self.vi(id.net).mtu.as_ref().and_then(|mtu| match mtu.value {
            ViMtu::Bytes(bytes) => Some(Spanned::new(bytes, mtu.span)),
            ViMtu::Fragment => None,
        });
        let wanted = spec.or(of_vi);
        let name = self.lab.link(id).name.clone();
        if fit < LEAST_MTU {
            let span = self.vi(id.net).name.span;
            let title = format!(
                "link `{name}` of `{}` would carry packets of {fit} bytes; {LEAST_MTU} is the least",
                self.vi(id.net).name.value
            );
            self.error("mtu-too-small", span, title);
        }
        let Some(wanted) = wanted else { return most };
        if wanted.value > most {
            let title = format!("{} does not fit: link `{name}` carries at most {most}", wanted.value);
            self.error("mtu-too-big", wanted.span, title);
        }
        wanted.value.min(most)
    }
}

/// What goes through a link whole. A tunnel tells the routes that lead to it so, and what is larger is cut before it gets
/// there, not by it, where it may be cut.
fn whole(link: &Link) -> u32 {
    link.fragments.map_or(link.mtu, |fragments| fragments.whole)
}

impl Default for NodeId {
    /// The first base node: a stand-in where an error was noted already.
    fn default() -> Self {
        Self { net: BASE, index: 0 }
    }
}

/// The full or short name of a node that the file names, bound; the error says what was probably meant.
pub(super) fn find_node(lab: &Lab, name: &Spanned<String>) -> Result<NodeId, Diagnostic> {
    let called = |n: &&Node| n.name == name.value || lab.full_name(n.id) == name.value;
    let matches: Vec<NodeId> = lab.named_nodes().filter(called).map(|n| n.id).collect();
    match matches.as_slice() {
        [one] => Ok(*one),
        [] => {
            let error =
                Diagnostic::new("unknown-node", name.span, format!("there is no node `{}`", name.value));
            let all: Vec<String> =
                lab.named_nodes().flat_map(|n| [n.name.clone(), lab.full_name(n.id)]).collect();
            Err(match nearest(&name.value, all.iter().map(String::as_str)) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error,
            })
        }
        several => {
            let names: Vec<String> = several.iter().map(|n| format!("`{}`", lab.full_name(*n))).collect();
            let title = format!("`{}` could be {}", name.value, names.join(" or "));
            Err(Diagnostic::new("ambiguous-node", name.span, title))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn lab(rest: &str) -> Lab {
        let text = format!("name: t\n{rest}");
        crate::model::parse(Path::new("t.yaml"), &text).unwrap()
    }

    fn pools(lab: &Lab) -> Vec<String> {
        lab.networks[1..].iter().map(|n| n.pool.to_string()).collect()
    }

    fn link_addrs(lab: &Lab, net: usize) -> Vec<String> {
        let ends = lab.networks[net].links.iter().flat_map(|l| &l.ends);
        ends.filter_map(|e| e.link_addr).map(|a| a.to_string()).collect()
    }

    #[test]
    fn pools_are_clear_of_addresses_written_for_others_on_the_same_base_nodes() {
        let lab = lab("base: {links: [X -- Y, Z -- W]}\nvis:\n  \
             u: {nodes: {a: X, b: Y}, links: [a -- b]}\n  \
             v: {nodes: {a: X, b: {at: Y, address: 10.128.0.1}}, links: [a -- b]}\n  \
             w: {over: u, nodes: {a: a, b: {at: b, address: 10.130.9.9}}, links: [a -- b]}\n  \
             x: {nodes: {a: X}}\n  \
             far: {nodes: {a: Z, b: W}, links: [a -- b]}\n");
        let expected = ["10.129.0.0/16", "10.128.0.0/16", "10.130.0.0/16", "10.131.0.0/16", "10.128.0.0/16"];
        assert_eq!(pools(&lab), expected);
    }

    #[test]
    fn pools_are_clear_of_addresses_behind_gateways() {
        let lab = lab("base: {links: [X -- Y -- Z]}\nvis:\n  \
             v: {nodes: {a: X, b: Y}, links: [a -- b]}\n  \
             w: {nodes: {a: Y, b: {at: Z, address: 10.130.0.7}}, links: [a -- b]}\n  \
             x: {nodes: {a: Z}}\n\
             gateways: [v/b -- w/a, w/b -- x/a]\n");
        assert_eq!(pools(&lab), ["10.128.0.0/16", "10.129.0.0/16", "10.131.0.0/16"]);
    }

    #[test]
    fn pools_and_link_addresses_are_clear_of_loopbacks() {
        let lab =
            lab("base: {nodes: {X: {loopback: 10.128.0.1}, Y: {loopback: 172.16.0.0}}, links: [X -- Y]}\n\
             vis:\n  v: {nodes: {a: X, b: Y}, links: [a -- b]}\n");
        assert_eq!(pools(&lab), ["10.129.0.0/16"]);
        assert_eq!(link_addrs(&lab, 1), ["172.16.0.1", "172.16.0.2"]);
    }

    #[test]
    fn no_link_has_an_address_written_for_a_node_on_the_same_base_nodes() {
        let lab = lab("base: {links: [X -- Y, Z -- W]}\nvis:\n  \
             v: {nodes: {a: {at: X, address: 172.16.0.1}, b: Y}, links: [a -- b]}\n  \
             w: {nodes: {a: X, b: {at: Y, address: 172.16.0.0}}, links: [a -- b]}\n  \
             far: {nodes: {a: Z, b: W}, links: [a -- b]}\n");
        assert_eq!(link_addrs(&lab, 1), ["172.16.0.2", "172.16.0.3"]);
        assert_eq!(link_addrs(&lab, 2), ["172.16.16.0", "172.16.16.1"]);
        assert_eq!(link_addrs(&lab, 3), ["172.16.0.0", "172.16.0.1"]);
    }
}
