//! The items of `gateways:`. A lab with its nodes placed and the [`FlatGateway`]s go in; the wires are added to the
//! lab, and every error is noted. It never numbers them: addresses come with those of the second end's network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::build::find_node;
use super::gateway::{GATEWAYS, Gateway};
use super::{BASE, End, EndId, Impairment, Lab, Link, LinkId, NetId, NodeId, Role, names};
use crate::expand::{FlatBase, FlatGateway};
use crate::spec::{Diagnostic, Span, Spanned};

type Errors = Vec<Diagnostic>;

/// Adds all gateways. A base node that one joins with another network forwards, as one with two links does.
pub(super) fn gateways(lab: &mut Lab, flat: &[FlatGateway], base: &FlatBase, errors: &mut Errors) {
    let mut taken: BTreeMap<String, Span> = BTreeMap::new();
    for spec in flat {
        let ends = [&spec.link.a, &spec.link.b].map(|name| find_node(lab, name));
        let [a, b] = ends.map(|found| found.map_err(|error| errors.push(error)).ok());
        let (Some(a), Some(b)) = (a, b) else { continue };
        if let Some(error) = fault(lab, spec, [a, b]) {
            errors.push(error);
            continue;
        }
        let name = name(lab, spec, [a, b], errors);
        let span = spec.link.name.as_ref().map_or(spec.link.a.span, |n| n.span);
        if let Some(first) = taken.insert(name.clone(), span) {
            let error = Diagnostic::new("duplicate-link", span, format!("there are two gateways `{name}`"));
            errors.push(error.see(first, "the first is here"));
        }
        add(lab, spec, [a, b], name, base.mtu);
    }
    base_roles(lab, flat, base, errors);
    default_cycle(lab, flat, errors);
}

/// Why the two nodes cannot be joined.
fn fault(lab: &Lab, spec: &FlatGateway, [a, b]: [NodeId; 2]) -> Option<Diagnostic> {
    let (first, second) = (lab.full_name(a), lab.full_name(b));
    let span = spec.link.b.span;
    if a.net == b.net {
        let title = format!("`{first}` and `{second}` are nodes of one network: a gateway joins two");
        return Some(Diagnostic::new("gateway", span, title).help("write it under `links:` of that network"));
    }
    for (id, name) in [a, b].into_iter().zip([&spec.link.a, &spec.link.b]) {
        let what = match lab.emulated(id) {
            Some(_) => "a router that a VI plays",
            None if lab.node(id).role == Role::Phantom => "a phantom VH, nothing but the port of a router",
            None => continue,
        };
        let title = format!("`{}` is {what}: no gateway ends there", lab.full_name(id));
        return Some(Diagnostic::new("gateway", name.span, title));
    }
    let [on, under] = [a, b].map(|id| lab.node(id).base);
    let placed = [a, b].iter().all(|id| id.net == BASE || lab.node(*id).at.is_some());
    if on == under || !placed {
        return None;
    }
    let [on, under] = [on, under].map(|id| lab.node(id).name.clone());
    let title = format!("`{first}` stands on base node `{on}`, `{second}` on `{under}`");
    let error = Diagnostic::new("gateway", span, title).label(format!("on `{under}`"));
    Some(error.see(spec.link.a.span, format!("on `{on}`")).help("a gateway joins two nodes on one base node"))
}

/// The name given, or both full names; from the second between two nodes on, with a number.
fn name(lab: &Lab, spec: &FlatGateway, nodes: [NodeId; 2], errors: &mut Errors) -> String {
    if let Some(name) = &spec.link.name {
        if let Some(fault) = names::link_fault(&name.value) {
            let title = format!("`{}` cannot be the name of a gateway", name.value);
            errors.push(Diagnostic::new("name", name.span, title).label(fault));
        }
        return name.value.clone();
    }
    let between = |g: &&Gateway| nodes.iter().all(|n| g.link.ends.iter().any(|e| e.node == *n));
    let plain = format!("{}--{}", lab.full_name(nodes[0]), lab.full_name(nodes[1]));
    match lab.gateways.iter().filter(between).count() {
        0 => plain,
        earlier => format!("{plain}.{}", earlier + 1),
    }
}

fn add(lab: &mut Lab, spec: &FlatGateway, nodes: [NodeId; 2], name: String, mtu: u32) {
    let id = LinkId { net: GATEWAYS, index: lab.gateways.len() };
    for (side, node) in nodes.iter().enumerate() {
        lab.networks[node.net.0].nodes[node.index].wires.push(EndId { link: id, side });
    }
    let end =
        |node| End { node, dev: String::new(), addr: Ipv4Addr::UNSPECIFIED, link_addr: None, seat: None };
    let link = Link {
        id,
        name,
        ends: nodes.map(end),
        cost: spec.link.cost,
        mtu: spec.link.mtu.as_ref().map_or(mtu, |m| m.value),
        fragments: None,
        carrier: None,
        parallel: None,
        security: None,
        impair: [Impairment::default(); 2],
    };
    lab.gateways.push(Gateway { link, default: spec.default });
}

/// A base node between its links and a gateway is a router, unless the file calls it a host, which is an error.
fn base_roles(lab: &mut Lab, flat: &[FlatGateway], base: &FlatBase, errors: &mut Errors) {
    for (index, spec) in base.nodes.iter().enumerate() {
        let node = &lab.networks[BASE.0].nodes[index];
        if node.wires.is_empty() || node.wires.len() + node.ends.len() < 2 {
            continue;
        }
        if spec.role == Some(Role::Host) {
            let title = format!("`base/{}` is a host: it cannot forward between networks", node.name);
            let is_it = |name: &&Spanned<String>| find_node(lab, name) == Ok(node.id);
            let named = flat.iter().flat_map(|g| [&g.link.a, &g.link.b]).find(is_it);
            let error = Diagnostic::new("gateway", named.unwrap_or(&spec.name).span, title);
            errors.push(error.see(spec.name.span, "declared here").help("leave `role: host` out"));
        }
        let node = &mut lab.networks[BASE.0].nodes[index];
        node.role = Role::Router;
        node.forwards = true;
    }
}

/// Default routes that lead in a circle would carry packets for unknown addresses round until their TTL ends.
fn default_cycle(lab: &Lab, flat: &[FlatGateway], errors: &mut Errors) {
    let steps: Vec<(NetId, NetId)> = lab
        .gateways
        .iter()
        .filter(|g| g.default)
        .map(|g| (g.link.ends[0].node.net, g.link.ends[1].node.net))
        .collect();
    for (first, _) in &steps {
        let mut seen = BTreeSet::new();
        let mut todo = vec![*first];
        while let Some(net) = todo.pop() {
            todo.extend(
                steps.iter().filter(|(from, _)| *from == net).map(|(_, to)| *to).filter(|t| seen.insert(*t)),
            );
        }
        if !seen.contains(first) {
            continue;
        }
        let around: Vec<&str> = seen.iter().map(|net| lab.net(*net).name.as_str()).collect();
        let on_it = |spec: &&FlatGateway| spec.default && whose(lab, &spec.link.a) == Some(*first);
        let span = flat.iter().find(on_it).map_or(Span::default(), |g| g.link.a.span);
        let title = format!("default routes lead in a circle: {}", around.join(", "));
        errors.push(Diagnostic::new("gateway", span, title));
        return;
    }
}

fn whose(lab: &Lab, name: &Spanned<String>) -> Option<NetId> {
    find_node(lab, name).ok().map(|node| node.net)
}
