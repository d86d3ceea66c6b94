//! Network recursion: routers of one VI that another VI plays (paper, II.2.4). Expanded VIs go in; for each such router
//! its fabric, a small VI over the inner one that joins the router's ports, comes out, and every error is noted. It never
//! places or numbers anything: to the rest of the model a fabric is a VI like any other.
//!
//! ```text
//! outer    a ---- R ---- b          R is one router: one set of routes, one name, an address on each link
//!              /     \
//! fabric    p1 ------- p2           one node for each port, where the link of the port ends
//!            |         |            (v.outer.R@p1, v.outer.R@p2), and a tunnel for each pair of them
//! inner     v1 - m - - v2           between the phantom VHs that are the ports
//! ```

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{EndId, Lab, NetId, NodeId, Resolve, Role, Routing, names};
use crate::expand::{FlatLab, FlatLink, FlatVi};
use crate::spec::{Diagnostic, Span, Spanned, ViNodeSpec};

type Errors = Vec<Diagnostic>;

/// The name of every error about an emulated router.
const RULE: &str = "emulate";

/// Ports of one emulated router: each pair of them is joined by a tunnel.
const MAX_PORTS: usize = 64;

/// A router that a whole VI plays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emulated {
    /// The router, as its own VI sees it. Its namespace is where it routes; packets in transit never come there.
    pub router: NodeId,
    /// The VI that plays it.
    pub inner: NetId,
    /// The VI of its edges.
    pub fabric: NetId,
    pub resolve: Resolve,
    /// Those that links end at, in the order of the inner VI's nodes.
    pub ports: Vec<Port>,
}

/// An interface of an emulated router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    pub name: String,
    /// The VH of the inner VI that this interface is.
    pub phantom: NodeId,
    /// The node of the fabric in whose namespace the link ends.
    pub edge: NodeId,
    /// The router's end of the link.
    pub end: EndId,
}

impl Emulated {
    /// The port whose link this is the router's end of.
    #[must_use]
    pub fn port(&self, end: EndId) -> Option<&Port> {
        self.ports.iter().find(|p| p.end == end)
    }

    /// The end at `from` of the tunnel that joins two ports inside.
    #[must_use]
    pub fn inside(&self, lab: &Lab, from: &Port, to: &Port) -> Option<EndId> {
        let ends = &lab.node(from.edge).ends;
        ends.iter().copied().find(|end| lab.peer(*end).node == to.edge)
    }
}

impl Lab {
    /// How a router is played; `None` for one that is itself.
    #[must_use]
    pub fn emulated(&self, router: NodeId) -> Option<&Emulated> {
        self.emulated.iter().find(|e| e.router == router)
    }

    /// The emulated router whose fabric a network is.
    #[must_use]
    pub fn fabric(&self, net: NetId) -> Option<&Emulated> {
        self.emulated.iter().find(|e| e.fabric == net)
    }

    /// Whether the routes of a node follow what happens: those that a routing protocol finds, and those of an emulated
    /// router and its edges where exits are found by a protocol.
    #[must_use]
    pub fn reacts(&self, node: NodeId) -> bool {
        let played = self.emulated(node).or_else(|| self.fabric(node.net));
        self.net(node.net).routing.is_dynamic() || played.is_some_and(|e| e.resolve == Resolve::Exchange)
    }

    /// The networks that the file names: all but the fabrics of emulated routers.
    pub fn named_networks(&self) -> impl Iterator<Item = &super::Network> {
        self.networks.iter().filter(|n| self.fabric(n.id).is_none())
    }

    /// The nodes that the file names.
    pub fn named_nodes(&self) -> impl Iterator<Item = &super::Node> {
        self.named_networks().flat_map(|n| &n.nodes)
    }

    /// The links that the file names, gateways included.
    pub(super) fn named_links(&self) -> impl Iterator<Item = &super::Link> {
        self.links().filter(|l| self.fabric(l.id.net).is_none())
    }
}

/// A router and the VI that plays it: indices of [`FlatLab::vis`] and of the nodes there.
#[derive(Debug, Clone)]
pub(super) struct Recursion {
    pub(super) outer: usize,
    pub(super) router: usize,
    pub(super) inner: usize,
    /// Names, in the order of the fabric's nodes, with the phantom VH that each is.
    pub(super) ports: Vec<(Spanned<String>, usize)>,
}

/// A link end at a port: the router's index in its VI, and the port's name as the file has it.
pub(super) fn port_of<'a>(vi: &FlatVi, end: &'a str) -> Option<(usize, &'a str)> {
    if vi.nodes.iter().any(|n| n.name.value == end) {
        return None;
    }
    let routers = vi.nodes.iter().enumerate().filter(|(_, n)| n.emulate.is_some());
    let named = |(index, node): (usize, &ViNodeSpec)| {
        Some((index, end.strip_prefix(&node.name.value)?.strip_prefix('.')?))
    };
    routers.filter_map(named).next()
}

/// The fabrics of all emulated routers, in the order of the file. What is wrong is left out.
pub(super) fn fabrics(flat: &FlatLab, errors: &mut Errors) -> (Vec<FlatVi>, Vec<Recursion>) {
    let (mut fabrics, mut recursions) = (Vec::new(), Vec::new());
    let mut played: BTreeMap<usize, Span> = BTreeMap::new();
    for (outer, vi) in flat.vis.iter().enumerate() {
        for (router, node) in vi.nodes.iter().enumerate() {
            check_port(node, errors);
            let Some(emulate) = &node.emulate else { continue };
            check_router(node, errors);
            check_underlays(vi, emulate, errors);
            let Some(inner) = find_inner(flat, outer, emulate, errors) else { continue };
            if let Some(first) = played.insert(inner, emulate.span) {
                let title = format!("`{}` plays two routers", emulate.value);
                errors.push(Diagnostic::new(RULE, emulate.span, title).see(first, "one here"));
                continue;
            }
            let Some(ports) = ports(vi, router, &flat.vis[inner], errors) else { continue };
            fabrics.push(fabric(vi, node, &flat.vis[inner], &ports));
            recursions.push(Recursion { outer, router, inner, ports });
        }
        bare_ends(vi, &flat.vis, errors);
    }
    for (index, vi) in flat.vis.iter().enumerate().filter(|(index, _)| !played.contains_key(index)) {
        check_idle(flat, index, vi, errors);
    }
    (fabrics, recursions)
}

/// Phantom VHs are ports, and ports are phantom VHs.
fn check_port(node: &ViNodeSpec, errors: &mut Errors) {
    match (&node.port, node.role()) {
        (None, Role::Phantom) => {
            let span = node.role.as_ref().map_or(node.name.span, |r| r.span);
            let title = format!("phantom VH `{}` needs `port:`", node.name.value);
            let help = "the interface of the emulated router that it is";
            errors.push(Diagnostic::new(RULE, span, title).help(help));
        }
        (Some(port), Role::Host | Role::Router | Role::Both) => {
            let title = format!("`{}` has a port, so its role is `phantom`", node.name.value);
            errors.push(Diagnostic::new(RULE, port.span, title));
        }
        (None, Role::Host | Role::Router | Role::Both) | (Some(_), Role::Phantom) => {}
    }
}

/// What the file may not say of a router that a VI plays.
fn check_router(node: &ViNodeSpec, errors: &mut Errors) {
    let name = &node.name.value;
    if node.role() != Role::Router {
        let span = node.role.as_ref().map_or(node.name.span, |r| r.span);
        let title = format!("`{name}` is played by a VI, so its role is `router`");
        errors.push(Diagnostic::new(RULE, span, title));
    }
    if !node.at.value.is_empty() {
        let title = format!("`{name}` is played by a VI: it has no place of its own");
        let help = "each of its ports is where the phantom VH stands that is the port";
        errors.push(Diagnostic::new(RULE, node.at.span, title).help(help));
    }
    if let Some(port) = &node.port {
        let title = format!("`{name}` cannot be an emulated router and a phantom VH at once");
        errors.push(Diagnostic::new(RULE, port.span, title));
    }
}

/// A port stands on one node of one underlay.
fn check_underlays(outer: &FlatVi, emulate: &Spanned<String>, errors: &mut Errors) {
    if !outer.besides.is_empty() {
        let title = format!("`{}` rides on several VIs: none of its routers can be played", outer.name.value);
        errors.push(Diagnostic::new(RULE, emulate.span, title).see(outer.over.span, "rides on these"));
    }
}

fn find_inner(flat: &FlatLab, outer: usize, name: &Spanned<String>, errors: &mut Errors) -> Option<usize> {
    let found = flat.vis.iter().position(|v| v.name.value == name.value);
    let Some(inner) = found else {
        let title = format!("there is no VI `{}` to play this router", name.value);
        let error = Diagnostic::new("unknown-network", name.span, title);
        errors.push(error.meant(&name.value, flat.vis.iter().map(|v| v.name.value.as_str())));
        return None;
    };
    if inner == outer {
        let title = format!("`{}` cannot play a router of itself", name.value);
        errors.push(Diagnostic::new(RULE, name.span, title));
        return None;
    }
    Some(inner)
}

/// The ports of a router that links end at, in the order of the phantom VHs.
fn ports(
    outer: &FlatVi,
    router: usize,
    inner: &FlatVi,
    errors: &mut Errors,
) -> Option<Vec<(Spanned<String>, usize)>> {
    let node = &outer.nodes[router];
    let mut known: BTreeMap<&str, (usize, Span)> = BTreeMap::new();
    for (index, phantom) in inner.nodes.iter().enumerate() {
        let Some(port) = &phantom.port else { continue };
        if let Some((_, first)) = known.insert(&port.value, (index, port.span)) {
            let title = format!("`{}` has two ports `{}`", node.name.value, port.value);
            errors.push(Diagnostic::new(RULE, port.span, title).see(first, "the first is here"));
        }
    }
    let emulate = node.emulate.as_ref()?;
    if known.is_empty() {
        let title = format!("`{}` has no phantom VHs to be the ports of a router", inner.name.value);
        let help = "give it nodes such as `v1: {at: X, role: phantom, port: p1}`";
        errors.push(Diagnostic::new(RULE, emulate.span, title).help(help));
        return None;
    }
    let mut bound: BTreeMap<usize, (Spanned<String>, Span)> = BTreeMap::new();
    for end in outer.links.iter().flat_map(|l: &FlatLink| [&l.a, &l.b]) {
        let Some((_, port)) = port_of(outer, &end.value).filter(|(index, _)| *index == router) else {
            continue;
        };
        let Some((phantom, _)) = known.get(port) else {
            let title = format!("`{}` has no port `{port}`", node.name.value);
            errors.push(Diagnostic::new(RULE, end.span, title).meant(port, known.keys().copied()));
            continue;
        };
        let spanned = Spanned::new(port.to_owned(), end.span);
        if let Some((_, first)) = bound.insert(*phantom, (spanned, end.span)) {
            let title = format!("two links end at port `{port}` of `{}`", node.name.value);
            errors.push(Diagnostic::new(RULE, end.span, title).see(first, "the first is here"));
        }
    }
    if bound.is_empty() {
        let ports: Vec<String> = known.keys().map(|p| format!("{}.{p}", node.name.value)).collect();
        let title = format!("no link ends at a port of `{}`", node.name.value);
        errors
            .push(Diagnostic::new(RULE, node.name.span, title).help(format!("it has {}", ports.join(", "))));
        return None;
    }
    for (port, _) in bound.values() {
        if let Some(fault) = names::port_fault(&port.value) {
            let title = format!("`{}` cannot be the name of a port", port.value);
            errors.push(Diagnostic::new("name", port.span, title).label(fault));
        }
    }
    if bound.len() > MAX_PORTS {
        let title = format!("links end at {} ports of `{}`", bound.len(), node.name.value);
        errors.push(Diagnostic::new(RULE, node.name.span, title).label(format!("{MAX_PORTS} is the bound")));
        return None;
    }
    Some(bound.into_iter().map(|(phantom, (port, _))| (port, phantom)).collect())
}

/// A link must end at a port, not just at the router.
fn bare_ends(vi: &FlatVi, vis: &[FlatVi], errors: &mut Errors) {
    let routers: BTreeMap<&str, &ViNodeSpec> =
        vi.nodes.iter().filter(|n| n.emulate.is_some()).map(|n| (n.name.value.as_str(), n)).collect();
    for end in vi.links.iter().flat_map(|l: &FlatLink| [&l.a, &l.b]) {
        let Some(emulate) = routers.get(end.value.as_str()).and_then(|n| n.emulate.as_ref()) else {
            continue;
        };
        let inner = vis.iter().filter(|v| v.name.value == emulate.value);
        let ports: Vec<String> = inner
            .flat_map(|v| v.nodes.iter().filter_map(|n| n.port.as_ref()))
            .map(|p| format!("`{}.{}`", end.value, p.value))
            .collect();
        let title = format!("`{}` is played by a VI: a link ends at one of its ports", end.value);
        errors.push(Diagnostic::new(RULE, end.span, title).help(ports.join(", ")));
    }
}

/// A VI that plays no router has neither options for it nor phantom VHs.
fn check_idle(flat: &FlatLab, index: usize, vi: &FlatVi, errors: &mut Errors) {
    let named = flat.vis.iter().flat_map(|v| &v.nodes).filter_map(|n| n.emulate.as_ref());
    if named.into_iter().any(|e| e.value == vi.name.value) {
        return;
    }
    let phantom = vi.nodes.iter().find(|n| n.role() == Role::Phantom).map(|n| n.name.span);
    let spans = [vi.emulate.as_ref().map(|e| e.span), phantom];
    if let Some(span) = spans.into_iter().flatten().next() {
        let title = format!("`{}` plays no router", flat.vis[index].name.value);
        let help = format!("a router says so: `R: {{role: router, emulate: {}}}`", vi.name.value);
        errors.push(Diagnostic::new(RULE, span, title).help(help));
    }
}

/// The VI of a router's edges: each stands on a phantom VH, and tunnels join all pairs.
fn fabric(outer: &FlatVi, router: &ViNodeSpec, inner: &FlatVi, ports: &[(Spanned<String>, usize)]) -> FlatVi {
    let span = router.emulate.as_ref().map_or(router.name.span, |e| e.span);
    let edge = |(port, phantom): &(Spanned<String>, usize)| {
        let at = Spanned::new(inner.nodes[*phantom].name.value.clone(), port.span);
        ViNodeSpec { role: Some(Spanned::new(Role::Router, span)), ..ViNodeSpec::placed(port.clone(), at) }
    };
    let mut links = Vec::new();
    for (index, (a, _)) in ports.iter().enumerate() {
        links.extend(ports[index + 1..].iter().map(|(b, _)| FlatLink::plain(a.clone(), b.clone())));
    }
    FlatVi {
        name: Spanned::new(format!("{}.{}", outer.name.value, router.name.value), span),
        over: Spanned::new(inner.name.value.clone(), span),
        besides: Vec::new(),
        nodes: ports.iter().map(edge).collect(),
        links,
        addresses: None,
        mtu: None,
        routing: Spanned::new(Routing::Static, span),
        security: None,
        emulate: None,
        owner: outer.owner.clone(),
    }
}

/// The emulated routers whose packets may pass each other in a circle: a tunnel through itself never ends. `crossed` gives
/// the routers that the fabric of each one crosses, at any depth.
pub(super) fn circles(crossed: &BTreeMap<usize, BTreeSet<usize>>) -> BTreeSet<usize> {
    let reach = |start: usize| {
        let mut seen = BTreeSet::new();
        let mut todo: Vec<usize> = crossed.get(&start).into_iter().flatten().copied().collect();
        while let Some(next) = todo.pop() {
            if seen.insert(next) {
                todo.extend(crossed.get(&next).into_iter().flatten());
            }
        }
        seen
    };
    crossed.keys().copied().filter(|router| reach(*router).contains(router)).collect()
}
