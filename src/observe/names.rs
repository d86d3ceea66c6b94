//! Addresses back to names. A lab, a network to read them in and header stacks go in; words for people come out.
//! It never decides whether a test holds.

use std::net::Ipv4Addr;

use crate::model::{BASE, End, EndId, Lab, NetId, NodeId};

/// Source and destination of each header, outermost first.
pub(crate) type Stack = [(Ipv4Addr, Ipv4Addr)];

/// A node as seen in network `net`: its name there, else its full name.
#[must_use]
pub fn seen_from(lab: &Lab, net: NetId, node: NodeId) -> String {
    if node.net == net { lab.node(node).name.clone() } else { lab.full_name(node) }
}

/// The node that has `addr` as seen in network `net`, or in one that gateways join with it: its name; else the full
/// name of the first node that has it in any other network, and the address; else the address.
#[must_use]
pub fn name_of(lab: &Lab, net: NetId, addr: Ipv4Addr) -> String {
    if let Some(id) = lab.owner_near(net, addr) {
        return seen_from(lab, net, id);
    }
    lab.networks
        .iter()
        .find_map(|n| lab.owner(n.id, addr))
        .map_or_else(|| addr.to_string(), |id| format!("{} ({addr})", lab.full_name(id)))
}

/// `from -> to`, with the network's name once where it is the same.
#[must_use]
pub fn pair(lab: &Lab, from: NodeId, to: NodeId) -> String {
    format!("{} -> {}", lab.full_name(from), lab.full_name(to))
}

/// `a -> b -> c`: the nodes along a path given by the ends through which it leaves.
#[must_use]
pub fn path(lab: &Lab, from: NodeId, ends: &[EndId]) -> String {
    let nodes = std::iter::once(from).chain(ends.iter().map(|e| lab.peer(*e).node));
    nodes.map(|id| seen_from(lab, from.net, id)).collect::<Vec<_>>().join(" -> ")
}

/// The layers of a stack with names: `base X -> Y`, `link A -> B`, `net A -> F`, outermost first. A packet of
/// network `net` has the network header innermost, then the link header of each VI downwards, then the base
/// header. Where several VIs are stacked, each link header says whose it is.
#[must_use]
pub fn layers(lab: &Lab, net: NetId, stack: &Stack) -> Vec<String> {
    let Some((inner, outer)) = stack.split_last() else { return Vec::new() };
    let mut words = vec![layer("net", inner, |a| name_of(lab, net, a))];
    let mut below = (net != BASE).then_some(net);
    let several = stack.len() > 3;
    for header in outer.iter().rev() {
        words.push(match below {
            Some(BASE) => layer("base", header, |a| name_of(lab, BASE, a)),
            Some(vi) => {
                let vi = carrying(lab, vi, header);
                below = Some(vi);
                let label = match lab.fabric(vi) {
                    Some(emulated) => format!("exit({})", lab.net(emulated.inner).name),
                    None if several => format!("link({})", lab.net(vi).name),
                    None => "link".to_owned(),
                };
                layer(&label, header, |a| link_end_name(lab, vi, a))
            }
            None => layer("?", header, |a| name_of(lab, BASE, a)),
        });
        below = below.and_then(|id| lab.underlay(id, *header));
    }
    words.reverse();
    words
}

/// Whose link header it is under a packet of `net`: its own, or inside an emulated router that of the router's fabric.
fn carrying(lab: &Lab, net: NetId, (src, dst): &(Ipv4Addr, Ipv4Addr)) -> NetId {
    let fabrics = lab.emulated.iter().filter(|e| e.router.net == net).map(|e| e.fabric);
    let is_link = |vi: &NetId| {
        let pairs = lab.net(*vi).links.iter().map(|l| l.ends.each_ref().map(|end| end.link_addr));
        pairs.into_iter().any(|[a, b]| [(a, b), (b, a)].contains(&(Some(*src), Some(*dst))))
    };
    fabrics.into_iter().find(is_link).unwrap_or(net)
}

fn layer(label: &str, (src, dst): &(Ipv4Addr, Ipv4Addr), name: impl Fn(Ipv4Addr) -> String) -> String {
    format!("{label} {} -> {}", name(*src), name(*dst))
}

/// The node whose end of a link of `vi` has this link address.
pub(crate) fn link_end_name(lab: &Lab, vi: NetId, addr: Ipv4Addr) -> String {
    let ends = lab.net(vi).links.iter().flat_map(|l| [0, 1].map(|side| (l, side)));
    let found = ends.into_iter().find(|(l, side)| l.link_addrs(*side).any(|a| a == addr));
    // Of an edge, what has the address is the phantom VH that it stands on.
    let name = |end: &End| match lab.fabric(vi) {
        Some(_) => lab.site(end).at.unwrap_or(end.node),
        None => end.node,
    };
    found.map_or_else(|| addr.to_string(), |(l, side)| lab.node(name(&l.ends[side])).name.clone())
}

/// Two lists of rows side by side under `title` and `measured`; rows that differ are marked with `!`.
#[must_use]
pub fn side_by_side(title: &str, expected: &[String], measured: &[String]) -> Vec<String> {
    let width = expected.iter().map(|r| r.chars().count()).max().unwrap_or(0).max(title.len());
    let mut rows = vec![format!("  {title:width$}  measured")];
    for i in 0..expected.len().max(measured.len()) {
        let (left, right) = (expected.get(i), measured.get(i));
        let mark = if left == right { ' ' } else { '!' };
        let text = |side: Option<&String>| side.map_or("-", String::as_str).to_owned();
        rows.push(format!("{mark} {:width$}  {}", text(left), text(right)));
    }
    rows
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model;

    fn lab(text: &str) -> Lab {
        model::parse(Path::new("lab.yaml"), text).unwrap()
    }

    fn owned(rows: &[&str]) -> Vec<String> {
        rows.iter().map(|r| (*r).to_owned()).collect()
    }

    #[test]
    fn each_layer_of_a_stacked_packet_is_named_in_its_own_network() {
        let lab = lab(include_str!("../../labs/recursion.yaml"));
        let net = |name: &str| lab.networks.iter().find(|n| n.name == name).unwrap();
        let (inner, outer, core) = (net("inner"), net("outer"), net("core"));
        let link = |ends: &[model::End; 2]| (ends[0].link_addr.unwrap(), ends[1].link_addr.unwrap());
        let base = lab.base();
        let stack = [
            (base.nodes[0].host.unwrap(), base.nodes[1].host.unwrap()),
            link(&inner.links[1].ends),
            link(&outer.links[0].ends),
            (outer.nodes[0].host.unwrap(), outer.nodes[2].host.unwrap()),
        ];
        assert_eq!(
            layers(&lab, outer.id, &stack),
            ["base X -> Y", "link(inner) left -> hop.near", "link(outer) nodeA -> R", "net nodeA -> nodeB"]
        );
        let inside = [
            (base.nodes[1].host.unwrap(), base.nodes[2].host.unwrap()),
            link(&inner.links[2].ends),
            link(&core.links[1].ends),
            link(&lab.net(lab.emulated[0].fabric).links[0].ends),
            stack[3],
        ];
        assert_eq!(
            layers(&lab, outer.id, &inside),
            [
                "base Y -> Z",
                "link(inner) hop.far -> right",
                "link(core) middle -> east",
                "exit(core) west -> east",
                "net nodeA -> nodeB"
            ]
        );
        assert_eq!(layers(&lab, BASE, &stack[..1]), ["net X -> Y"]);
        assert_eq!(layers(&lab, BASE, &[]), Vec::<String>::new());
    }

    #[test]
    fn a_packet_of_a_link_over_several_is_named_by_the_strand_it_took() {
        let lab =
            lab("name: t\nbase: {links: [X -- Y]}\nvis:\n  in1: {nodes: {a: X, b: Y}, links: [a -- b]}\n  \
                       mid: {over: in1, nodes: {a: a, b: b}, links: [a -- b]}\n  \
                       top: {over: [in1, mid], nodes: {p: a, q: b}, links: [p -- q]}\n");
        let base = (lab.base().nodes[0].host.unwrap(), lab.base().nodes[1].host.unwrap());
        let [in1, mid, top] = [1, 2, 3].map(|net: usize| &lab.networks[net]);
        let of = |net: &model::Network, strand: usize| net.links[0].pairs(0).nth(strand).unwrap();
        let inner = (top.nodes[0].host.unwrap(), top.nodes[1].host.unwrap());
        assert_eq!(
            layers(&lab, top.id, &[base, of(in1, 0), of(top, 0), inner]),
            ["base X -> Y", "link(in1) a -> b", "link(top) p -> q", "net p -> q"]
        );
        assert_eq!(
            layers(&lab, top.id, &[base, of(in1, 0), of(mid, 0), of(top, 1), inner]),
            ["base X -> Y", "link(in1) a -> b", "link(mid) a -> b", "link(top) p -> q", "net p -> q"]
        );
    }

    #[test]
    fn an_address_of_another_network_says_so() {
        let lab = lab(include_str!("../../labs/recursion.yaml"));
        let x = lab.base().nodes[0].host.unwrap();
        assert_eq!(name_of(&lab, BASE, x), "X");
        assert_eq!(name_of(&lab, NetId(1), x), format!("base/X ({x})"));
        assert_eq!(name_of(&lab, NetId(1), Ipv4Addr::new(8, 8, 8, 8)), "8.8.8.8");
    }

    #[test]
    fn rows_that_differ_are_marked_and_missing_rows_shown() {
        let rows = side_by_side("expected", &owned(&["B", "C"]), &owned(&["B", "*", "D"]));
        assert_eq!(rows, ["  expected  measured", "  B         B", "! C         *", "! -         D"]);
    }
}
