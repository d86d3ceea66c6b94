//! What each base node is to each Virtual Internet (paper, Figures 3 and 4). A lab and its routes go in; roles come
//! out. It never looks at the running lab: the roles follow from placement and shortest paths.

use std::collections::BTreeSet;

use serde::Serialize;

use super::Rib;
use crate::model::{BASE, EndId, Lab, LinkId, NetId, Role};

/// The part of one base node in one VI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Part {
    /// It is a virtual host.
    pub vh: bool,
    /// It is a virtual router.
    pub vr: bool,
    /// Tunnels of the VI pass it between their ends.
    pub transit: bool,
}

impl Part {
    /// `VH+VR`, `transit`, `none` and so on.
    #[must_use]
    pub fn words(self) -> String {
        let parts = [(self.vh, "VH"), (self.vr, "VR"), (self.transit, "transit")];
        let words: Vec<&str> = parts.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
        if words.is_empty() { "none".to_owned() } else { words.join("+") }
    }
}

/// The part of each base node, in their order, in VI `net`.
#[must_use]
pub fn roles(lab: &Lab, rib: &Rib, net: NetId) -> Vec<Part> {
    let mut parts = vec![Part::default(); lab.base().nodes.len()];
    for node in &lab.net(net).nodes {
        let part = &mut parts[node.base.index];
        part.vh |= node.role != Role::Router;
        part.vr |= matches!(node.role, Role::Router | Role::Both);
    }
    for port in lab.emulated.iter().filter(|e| e.router.net == net).flat_map(|e| &e.ports) {
        parts[lab.node(port.edge).base.index].vr = true;
    }
    let mut passed = BTreeSet::new();
    for link in &lab.net(net).links {
        passed.extend(between(lab, rib, link.id));
    }
    for index in passed {
        parts[index].transit = true;
    }
    parts
}

/// The base links that tunnels of VI `net` pass, those of the VIs below it included.
#[must_use]
pub fn carried(lab: &Lab, rib: &Rib, net: NetId) -> BTreeSet<LinkId> {
    let mut found = BTreeSet::new();
    let mut open: Vec<LinkId> = lab.net(net).links.iter().map(|l| l.id).collect();
    let mut seen: BTreeSet<LinkId> = open.iter().copied().collect();
    while let Some(link) = open.pop() {
        let ways = [0, 1].map(|side| lab.ways(EndId { link, side }));
        let ways = ways.into_iter().flatten().filter_map(|(from, to)| rib.links_between(lab, from, to));
        for below in ways.flatten().map(|end| end.link) {
            if below.net == BASE {
                found.insert(below);
            } else if seen.insert(below) {
                open.push(below);
            }
        }
    }
    found
}

/// The base nodes that packets of a virtual link pass between its ends, both ways.
fn between(lab: &Lab, rib: &Rib, link: LinkId) -> BTreeSet<usize> {
    let ways = [0, 1].map(|side| way(lab, rib, EndId { link, side }));
    let link = lab.link(link);
    let ends = link.ends.each_ref().map(|end| lab.site(end).base.index);
    ways.into_iter().flatten().filter(|node| !ends.contains(node)).collect()
}

fn way(lab: &Lab, rib: &Rib, from: EndId) -> BTreeSet<usize> {
    let hops = lab.ways(from).into_iter().filter_map(|(from, to)| rib.links_between(lab, from, to));
    hops.flatten().flat_map(|end| through(lab, rib, end)).collect()
}

/// The base nodes that one hop in the base or in a VI below leads through and to.
fn through(lab: &Lab, rib: &Rib, end: EndId) -> BTreeSet<usize> {
    let mut passed = between(lab, rib, end.link);
    passed.insert(lab.site(lab.peer(end)).base.index);
    passed
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// What the paper's Figures 3 and 4 show, on the base network of the lab for Figure 1.
    #[test]
    fn figures_3_and_4() {
        let text = include_str!("../../labs/figure-01-multiple-vis.yaml");
        let lab = crate::model::parse(Path::new("figure-01.yaml"), text).unwrap();
        let rib = Rib::compute(&lab);
        let table = |net: usize| -> Vec<(String, String)> {
            let parts = roles(&lab, &rib, NetId(net));
            lab.base().nodes.iter().zip(parts).map(|(n, p)| (n.name.clone(), p.words())).collect()
        };
        let of = |net, node: &str| table(net).into_iter().find(|(n, _)| n == node).unwrap().1;
        for (node, role) in [
            ("h1", "VH"),
            ("h3", "VH"),
            ("h4", "VH"),
            ("h5", "VH"),
            ("r3", "VH+VR"),
            ("r1", "transit"),
            ("r2", "transit"),
            ("r4", "transit"),
            ("h2", "none"),
            ("h6", "none"),
        ] {
            assert_eq!(of(1, node), role, "star: {node}");
        }
        for (node, role) in [
            ("h1", "VH+VR"),
            ("h6", "VH+VR"),
            ("h4", "VH+VR"),
            ("r2", "VH+VR+transit"),
            ("r1", "transit"),
            ("r3", "transit"),
            ("r4", "transit"),
            ("h2", "none"),
            ("h3", "none"),
            ("h5", "none"),
        ] {
            assert_eq!(of(2, node), role, "ring: {node}");
        }
    }

    #[test]
    fn a_stacked_vi_passes_the_nodes_of_the_vi_below() {
        let text = include_str!("../../labs/figure-10-stacked.yaml");
        let lab = crate::model::parse(Path::new("figure-10.yaml"), text).unwrap();
        let parts = roles(&lab, &Rib::compute(&lab), NetId(2));
        let words: Vec<String> = parts.iter().map(|p| p.words()).collect();
        assert_eq!(words, ["VH", "transit", "VH"]);
    }

    #[test]
    fn a_vi_over_several_passes_the_nodes_of_all() {
        let text = include_str!("../../labs/dynabone.yaml");
        let lab = crate::model::parse(Path::new("dynabone.yaml"), text).unwrap();
        let parts = roles(&lab, &Rib::compute(&lab), NetId(4));
        let words: Vec<String> = parts.iter().map(|p| p.words()).collect();
        assert_eq!(words, ["VH", "transit", "transit", "transit", "VH"]);
    }
}
