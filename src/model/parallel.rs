//! Parallel underlays: a VI that rides on several others at once (DynaBone; paper, IV). The underlays of each VI and what
//! the file says of a link go in; depths, circles, and the strands of the link come out. It never chooses a strand for a
//! packet: the dataplane does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{BASE, Carrier, EndId, Lab, LinkId, NetId, Network, Node, NodeId};
use crate::spec::{Diagnostic, Span, SpreadSpec};

/// How the packets of a link are spread over its strands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// The packets of one flow take one strand.
    #[default]
    Flow,
    /// Each packet the next one, as the weights say.
    Packet,
    /// Each packet takes every strand.
    Duplicate,
}

impl Spread {
    /// The word of the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flow => "flow",
            Self::Packet => "packet",
            Self::Duplicate => "duplicate",
        }
    }
}

/// What a link of a VI over several underlays is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parallel {
    pub spread: Spread,
    /// One for each underlay, in the order of `over`.
    pub strands: Vec<Strand>,
}

/// The part of a link that rides on one of the underlays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strand {
    pub below: NetId,
    /// Of all packets, a share of `weight` in the sum of the weights; 1 or more.
    pub weight: u32,
    /// Of the network layer below, by side.
    pub link_addrs: [Option<Ipv4Addr>; 2],
}

/// Something that has a link address of its own: an end of a stacked link, or of one strand of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot {
    pub(super) end: EndId,
    /// Index in [`Parallel::strands`].
    pub(super) strand: Option<usize>,
}

impl Network {
    /// What it rides on: none for the base, several for parallel underlays.
    pub fn underlays(&self) -> impl Iterator<Item = NetId> + '_ {
        self.over.into_iter().chain(self.besides.iter().copied())
    }

    #[must_use]
    pub fn rides_on(&self, below: NetId) -> bool {
        self.underlays().any(|net| net == below)
    }
}

impl Lab {
    /// The node of underlay `below` that an end stands on: each underlay has one of the same name.
    #[must_use]
    pub fn stands_on(&self, end: EndId, below: NetId) -> Option<NodeId> {
        let at = self.site(self.end(end)).at?;
        if at.net == below {
            return Some(at);
        }
        let name = &self.node(at).name;
        self.net(below).nodes.iter().find(|n| n.name == *name).map(|n| n.id)
    }

    /// The ways of packets below a virtual link, sent from this end: for each, the node of the layer below that sends
    /// them, and to which of its addresses. Several for parallel underlays; none where they do not leave their node.
    #[must_use]
    pub fn ways(&self, end: EndId) -> Vec<(NodeId, Ipv4Addr)> {
        let (near, far) = (self.site(self.end(end)), self.site(self.peer(end)));
        let link = self.link(end.link);
        let way = match link.carrier {
            Some(Carrier::Tunnel) => self.node(far.base).host.map(|to| (near.base, to)),
            Some(Carrier::Stacked) => near.at.zip(self.peer(end).link_addr),
            Some(Carrier::Parallel) => {
                let strands = link.parallel.iter().flat_map(|p| &p.strands);
                let way = |s: &Strand| Some((self.stands_on(end, s.below)?, s.link_addrs[1 - end.side]?));
                return strands.filter_map(way).collect();
            }
            Some(Carrier::Inside) | None => None,
        };
        way.into_iter().collect()
    }

    /// A network and all that lies below it.
    #[must_use]
    pub fn foundations(&self, net: NetId) -> BTreeSet<NetId> {
        let (mut found, mut open) = (BTreeSet::from([net]), vec![net]);
        while let Some(net) = open.pop() {
            open.extend(self.net(net).underlays().filter(|below| found.insert(*below)));
        }
        found
    }

    /// The underlay that a link packet of `vi` between these link addresses is a packet of.
    #[must_use]
    pub fn underlay(&self, vi: NetId, (src, dst): (Ipv4Addr, Ipv4Addr)) -> Option<NetId> {
        let network = self.net(vi);
        let strands = network.links.iter().filter_map(|l| l.parallel.as_ref()).flat_map(|p| &p.strands);
        let pairs = |s: &&Strand| {
            [s.link_addrs, [s.link_addrs[1], s.link_addrs[0]]].contains(&[Some(src), Some(dst)])
        };
        strands.into_iter().find(pairs).map(|s| s.below).or(network.over)
    }

    /// Ends of links stacked on `below`, and of strands, in the order of their VIs; none on the base.
    pub(super) fn slots(&self, below: NetId) -> Vec<Slot> {
        let above = self.named_networks().filter(|n| below != BASE && n.rides_on(below));
        let ends = |id: LinkId, strand| [0, 1].map(|side| Slot { end: EndId { link: id, side }, strand });
        let of_link = |link: &super::Link| match &link.parallel {
            None => ends(link.id, None).to_vec(),
            Some(parallel) => {
                let here = parallel.strands.iter().enumerate().filter(|(_, s)| s.below == below);
                here.flat_map(|(i, _)| ends(link.id, Some(i))).collect()
            }
        };
        above.flat_map(|n| &n.links).flat_map(of_link).collect()
    }

    pub(super) fn slot_address(&self, slot: Slot) -> Option<Ipv4Addr> {
        match (slot.strand, &self.link(slot.end.link).parallel) {
            (Some(strand), Some(parallel)) => parallel.strands.get(strand)?.link_addrs[slot.end.side],
            _ => self.end(slot.end).link_addr,
        }
    }

    pub(super) fn set_slot(&mut self, slot: Slot, addr: Option<Ipv4Addr>) {
        let link = self.link_mut(slot.end.link);
        match (slot.strand, &mut link.parallel) {
            (Some(strand), Some(parallel)) => parallel.strands[strand].link_addrs[slot.end.side] = addr,
            _ => link.ends[slot.end.side].link_addr = addr,
        }
    }
}

impl super::Link {
    /// The link addresses of one side: of the link itself, or of its strands.
    pub fn link_addrs(&self, side: usize) -> impl Iterator<Item = Ipv4Addr> + '_ {
        let strands = self.parallel.iter().flat_map(|p| &p.strands);
        self.ends[side].link_addr.into_iter().chain(strands.filter_map(move |s| s.link_addrs[side]))
    }

    /// The pairs of link addresses under which packets leave `side`.
    pub fn pairs(&self, side: usize) -> impl Iterator<Item = (Ipv4Addr, Ipv4Addr)> + '_ {
        self.link_addrs(side).zip(self.link_addrs(1 - side))
    }
}

/// How deep each VI lies, by what each rides on: one more than the deepest of these. None for those of a circle, and
/// for all that ride on one.
pub(super) fn depths(over: &[Vec<NetId>]) -> Vec<Option<usize>> {
    let mut above: Vec<Vec<usize>> = vec![Vec::new(); over.len() + 1];
    let mut missing: Vec<usize> = over.iter().map(Vec::len).collect();
    for (vi, below) in over.iter().enumerate() {
        below.iter().for_each(|net| above[net.0].push(vi));
    }
    let mut found = vec![None; over.len()];
    let mut ready = vec![(BASE, 0)];
    while let Some((below, depth)) = ready.pop() {
        for vi in &above[below.0] {
            found[*vi] = found[*vi].max(Some(depth + 1));
            missing[*vi] -= 1;
            if missing[*vi] == 0 {
                ready.extend(found[*vi].map(|depth| (NetId(vi + 1), depth)));
            }
        }
    }
    // A depth counts only when everything below has one.
    found.iter().zip(missing).map(|(depth, missing)| depth.filter(|_| missing == 0)).collect()
}

/// Each circle of VIs once, from its first VI on; of those without a depth.
pub(super) fn circles(over: &[Vec<NetId>], depths: &[Option<usize>]) -> Vec<Vec<usize>> {
    let below = |vi: usize| {
        let unknown = over[vi].iter().filter_map(|net| net.0.checked_sub(1));
        unknown.into_iter().find(|vi| depths[*vi].is_none())
    };
    let mut found: BTreeMap<BTreeSet<usize>, Vec<usize>> = BTreeMap::new();
    for start in (0..over.len()).filter(|vi| depths[*vi].is_none()) {
        let mut way = vec![start];
        while let Some(next) = below(way[way.len() - 1]) {
            if let Some(at) = way.iter().position(|vi| *vi == next) {
                if at == 0 {
                    found.entry(way.iter().copied().collect()).or_insert(way);
                }
                break;
            }
            way.push(next);
        }
    }
    let mut circles: Vec<Vec<usize>> = found.into_values().collect();
    circles.sort();
    circles
}

/// The strands of a link of `network`, without addresses; none on a single underlay, where nothing may be spread.
pub(super) fn of_link(
    network: &Network,
    spec: &SpreadSpec,
    errors: &mut Vec<Diagnostic>,
) -> Option<Parallel> {
    let below: Vec<NetId> = network.underlays().collect();
    if below.len() < 2 {
        let spread = spec.spread.as_ref().map(|s| ("spread", s.span));
        let weights = spec.weights.as_ref().map(|w| ("weights", w.span));
        for (key, span) in spread.into_iter().chain(weights) {
            let title = format!("`{key}` is for links of a VI over several others");
            let error = Diagnostic::new("spread", span, title);
            errors.push(error.label(match network.over {
                None => "the base network rides on nothing".to_owned(),
                Some(_) => format!("`{}` rides on one network", network.name),
            }));
        }
        return None;
    }
    let weights = spec.weights.as_ref().map_or_else(|| vec![1; below.len()], |w| w.value.clone());
    if let Some(given) = spec.weights.as_ref().filter(|_| weights.len() != below.len()) {
        let (weights, underlays) = (weights.len(), below.len());
        let title = format!("`weights` has {weights} numbers; `{}` rides on {underlays} VIs", network.name);
        let error = Diagnostic::new("spread", given.span, title);
        errors.push(error.help("one for each VI, in the order of `over`"));
    }
    let strand = |(below, weight)| Strand { below, weight, link_addrs: [None; 2] };
    Some(Parallel {
        spread: spec.spread.as_ref().map(|s| s.value).unwrap_or_default(),
        strands: below.into_iter().zip(weights).map(strand).collect(),
    })
}

/// A node placed on `at` needs a node of that name in each other underlay too, on the same base node.
pub(super) fn check_place(lab: &Lab, net: NetId, at: &Node, span: Span, errors: &mut Vec<Diagnostic>) {
    let network = lab.net(net);
    let first = lab.net(at.id.net);
    for below in network.besides.iter().map(|id| lab.net(*id)) {
        let title = match below.nodes.iter().find(|n| n.name == at.name) {
            Some(found) if found.base == at.base => continue,
            Some(found) => format!(
                "`{}` stands on {} in `{}` and on {} in `{}`",
                at.name,
                lab.full_name(at.base),
                first.name,
                lab.full_name(found.base),
                below.name
            ),
            None => format!("`{}` is not a node of `{}`", at.name, below.name),
        };
        let label = format!("`{}` rides on `{}` and `{}`", network.name, first.name, below.name);
        let help = "a node over several VIs stands on a node of the same name in each, all on one base node";
        errors.push(Diagnostic::new("placement", span, title).label(label).help(help));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model;

    fn nets(of: &[&[usize]]) -> Vec<Vec<NetId>> {
        of.iter().map(|below| below.iter().map(|net| NetId(*net)).collect()).collect()
    }

    #[test]
    fn depth_is_one_more_than_the_deepest_below() {
        let over = nets(&[&[0], &[1], &[0], &[1, 2, 3]]);
        assert_eq!(depths(&over), [Some(1), Some(2), Some(1), Some(3)]);
        assert_eq!(circles(&over, &depths(&over)), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn circles_are_found_once_and_have_no_depth() {
        let over = nets(&[&[0], &[1, 3], &[2], &[3, 1]]);
        assert_eq!(depths(&over), [Some(1), None, None, None]);
        assert_eq!(circles(&over, &depths(&over)), [vec![1, 2]]);
        let itself = nets(&[&[1]]);
        assert_eq!(circles(&itself, &depths(&itself)), [vec![0]]);
    }

    const LAB: &str = "
name: t
base: {links: [X -- Y, {link: X -- Y, mtu: 1400}]}
vis:
  in1: {nodes: {a: X, b: Y}, links: [a -- b], security: aes128-gcm}
  in2: {nodes: {a: X, b: Y, m: {at: Y, role: router}}, links: [a -- m -- b]}
  top:
    over: [in1, in2]
    nodes: {p: a, q: b}
    links: [{link: p -- q, spread: packet, weights: [1, 3]}]
";

    fn lab(text: &str) -> Lab {
        model::parse(Path::new("t.yaml"), text).unwrap_or_else(|e| panic!("{e:?}"))
    }

    #[test]
    fn a_link_has_a_strand_in_each_underlay() {
        let lab = lab(LAB);
        let link = &lab.networks[3].links[0];
        let parallel = link.parallel.as_ref().unwrap();
        assert_eq!((parallel.spread, link.carrier), (Spread::Packet, Some(Carrier::Parallel)));
        assert!(link.ends.iter().all(|e| e.link_addr.is_none()));
        for (strand, (net, weight)) in parallel.strands.iter().zip([(1, 1), (2, 3)]) {
            assert_eq!((strand.below, strand.weight), (NetId(net), weight));
            for (side, node) in ["a", "b"].into_iter().enumerate() {
                let node = lab.networks[net].nodes.iter().find(|n| n.name == node).unwrap();
                let addr = strand.link_addrs[side].unwrap();
                assert!(lab.networks[net].pool.contains(&addr) && node.stacked == [addr]);
            }
        }
        let end = EndId { link: link.id, side: 0 };
        let ways = lab.ways(end);
        let from: Vec<String> = ways.iter().map(|(from, _)| lab.full_name(*from)).collect();
        assert_eq!(from, ["in1/a", "in2/a"]);
        let second = (parallel.strands[1].link_addrs[1].unwrap(), parallel.strands[1].link_addrs[0].unwrap());
        assert_eq!(lab.underlay(NetId(3), second), Some(NetId(2)));
    }

    #[test]
    fn the_narrowest_underlay_counts() {
        let lab = lab(LAB);
        let of = |net: usize| lab.networks[net].links[0].mtu;
        assert_eq!(of(3), of(1).min(of(2)) - 20);
    }

    #[test]
    fn a_running_link_keeps_the_addresses_of_its_strands() {
        let old = lab(LAB);
        let text = LAB
            .replace("[in1, in2]", "[in1, in3, in2]")
            .replace("[1, 3]", "[1, 1, 3]")
            .replace("  top:", "  in3: {nodes: {c: X, d: Y, a: X, b: Y}, links: [c -- d, a -- b]}\n  top:");
        let new = model::parse_with(Path::new("t.yaml"), &text, Some(&old)).unwrap();
        let addrs = |lab: &Lab, net: usize, strand: usize| {
            lab.networks[net].links[0].parallel.as_ref().unwrap().strands[strand].link_addrs
        };
        assert_eq!(addrs(&old, 3, 0), addrs(&new, 4, 0));
        assert_eq!(addrs(&old, 3, 1), addrs(&new, 4, 2));
    }
}
