//! Links over parallel underlays. A lab and what carries its nodes go in; the strands of each end, for the fast path,
//! and devices and rules, for the kernel, come out. It never spreads a packet: they do.

use std::collections::{BTreeMap, BTreeSet};

use super::build::host_addr;
use super::guard::Pair;
use super::{Op, security};
use crate::fastpath::config::{Bundle, Strand};
use crate::model::{Dataplane, EndId, Lab, Link, NodeId};
use crate::strands::{self, config};

/// What the kernel needs for such links beside tunnels.
pub(super) const SPREAD: &str =
    "what spreads packets over parallel underlays: nftables with fwd and dup (netdev), numgen and jhash";

/// All links that are spread over several networks.
pub(super) fn links(lab: &Lab) -> impl Iterator<Item = &Link> {
    lab.networks.iter().flat_map(|n| &n.links).filter(|l| l.parallel.is_some())
}

/// Their ends that the kernel carries.
fn ends(lab: &Lab, dataplanes: &[Dataplane]) -> Vec<config::End> {
    let ends = links(lab).flat_map(|link| [0, 1].map(|side| (link, side)));
    let kernel = |(link, side): &(&Link, usize)| {
        dataplanes[lab.site(&link.ends[*side]).base.index] == Dataplane::Kernel
    };
    ends.filter(kernel).filter_map(|(link, side)| end(lab, link, side)).collect()
}

/// What the process that watches strands must know; `None` where the kernel has none.
pub(super) fn config(lab: &Lab, dataplanes: &[Dataplane]) -> Option<strands::Config> {
    let ends = ends(lab, dataplanes);
    (!ends.is_empty()).then_some(strands::Config { ends })
}

/// Where the strands of the kernel's ends are.
pub(super) fn namespaces(lab: &Lab, dataplanes: &[Dataplane]) -> BTreeSet<String> {
    ends(lab, dataplanes).into_iter().map(|end| end.netns).collect()
}

/// An end of a link as the kernel has it; none where the link has no strands.
pub(super) fn end(lab: &Lab, link: &Link, side: usize) -> Option<config::End> {
    let parallel = link.parallel.as_ref()?;
    let id = EndId { link: link.id, side };
    let (near, far) = (&link.ends[side], &link.ends[1 - side]);
    let strand = |strand: &crate::model::Strand| {
        let local = strand.link_addrs[side]?;
        Some(config::Strand {
            underlay: lab.net(strand.below).name.clone(),
            weight: strand.weight,
            // No two of a namespace have the same address.
            dev: format!("s-{:08x}", local.to_bits()),
            below: lab.node(lab.stands_on(id, strand.below)?).netns.clone(),
            local,
            remote: strand.link_addrs[1 - side]?,
        })
    };
    let upper = lab.networks.iter().filter(|n| lab.foundations(n.id).contains(&link.id.net));
    let depth = lab.net(link.id.net).depth;
    Some(config::End {
        base: lab.node(lab.site(near).base).name.clone(),
        partition: lab.netns(near).to_owned(),
        netns: lab.strands_netns(near),
        dev: near.dev.clone(),
        near: near.addr,
        far: far.addr,
        spread: parallel.spread,
        above: upper.map(|n| n.depth - depth).max().unwrap_or(0),
        strands: parallel.strands.iter().map(strand).collect::<Option<_>>()?,
    })
}

/// The device of a link and its other half, which are the ends of one tunnel over `lo` so that an impairment of the
/// device comes before packets are spread; the strands, each made in the partition below it; and the rules between.
/// `made` is a name for the device while it is where it is made. The device is not up yet.
pub(super) fn ops(end: &config::End, made: &str, mtu: u32) -> Vec<Op> {
    let ns = || end.netns.clone();
    let ipip = |ns: String, dev: &str, local, remote| Op::AddIpip { ns, dev: dev.to_owned(), local, remote };
    let moved = |ns: String, dev: &str, to: String, name: &str| Op::MoveLink {
        ns,
        dev: dev.to_owned(),
        to,
        name: name.to_owned(),
    };
    let up = |dev: &str| Op::SetUp { ns: ns(), dev: dev.to_owned(), mtu };
    let mut ops = vec![
        host_addr(&end.netns, "lo", end.near),
        host_addr(&end.netns, "lo", end.far),
        ipip(ns(), made, end.near, end.far),
        moved(ns(), made, end.partition.clone(), &end.dev),
        ipip(ns(), &end.dev, end.far, end.near),
        up(&end.dev),
    ];
    for strand in &end.strands {
        ops.push(ipip(strand.below.clone(), &strand.dev, strand.local, strand.remote));
        ops.push(moved(strand.below.clone(), &strand.dev, ns(), &strand.dev));
        ops.push(up(&strand.dev));
    }
    ops.push(Op::AddRuleset { ns: ns(), text: strands::ruleset(end) });
    ops
}

/// The pairs of link addresses under which packets for an end arrive at `node` of the VI below.
pub(super) fn arriving(lab: &Lab, end: EndId, node: NodeId) -> Vec<Pair> {
    let link = lab.link(end.link);
    let pair = |addrs: [Option<std::net::Ipv4Addr>; 2]| Some((addrs[1 - end.side]?, addrs[end.side]?));
    match &link.parallel {
        None if lab.site(lab.end(end)).at == Some(node) => {
            pair(link.ends.each_ref().map(|e| e.link_addr)).into_iter().collect()
        }
        None => Vec::new(),
        Some(parallel) => {
            let here = parallel.strands.iter().filter(|s| lab.stands_on(end, s.below) == Some(node));
            here.filter_map(|s| pair(s.link_addrs)).collect()
        }
    }
}

/// The strands of an end; none where the link has none, or the partitions of an underlay are not the fast path's.
pub(super) fn bundle(lab: &Lab, end: EndId, partitions: &BTreeMap<NodeId, usize>) -> Option<Bundle> {
    let link = lab.link(end.link);
    let parallel = link.parallel.as_ref()?;
    let strand = |strand: &crate::model::Strand| {
        Some(Strand {
            underlay: lab.net(strand.below).name.clone(),
            weight: strand.weight,
            partition: *partitions.get(&lab.stands_on(end, strand.below)?)?,
            local: strand.link_addrs[end.side]?,
            remote: strand.link_addrs[1 - end.side]?,
            security: security::of_strand(lab, link, strand, end.side),
        })
    };
    let strands = parallel.strands.iter().map(strand).collect::<Option<_>>()?;
    Some(Bundle { spread: parallel.spread, strands })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::error::Result;
    use crate::fastpath::Config;
    use crate::fastpath::config::Below;
    use crate::model::{self, NetId};
    use crate::plan::{Machine, Plan, build};
    use crate::routing::Rib;

    const LAB: &str = "name: t
base: {links: [X -- R -- Y]}
vis:
  in1: {nodes: {x: X, m: {at: R, role: router}, y: Y}, links: [x -- m -- y]}
  in2: {nodes: {x: X, y: Y}, links: [x -- y]}
  top:
    over: [in1, in2]
    nodes: {a: x, b: y}
    links: [{link: a -- b, spread: packet, weights: [1, 2], security: aes128-gcm}]
";

    fn lab(text: &str) -> Lab {
        model::parse(Path::new("t.yaml"), text).unwrap()
    }

    fn plan(text: &str) -> Result<Plan> {
        let lab = lab(text);
        let machine = Machine {
            ipip: true,
            nft: true,
            tun: true,
            netem: true,
            esp: true,
            spread: true,
            ..Machine::default()
        };
        build(&lab, &Rib::compute(&lab), &machine)
    }

    fn fast() -> Config {
        plan(&LAB.replace("name: t", "name: t\ndataplane: fastpath")).unwrap().fastpath.unwrap()
    }

    #[test]
    fn an_end_has_one_device_and_a_strand_in_each_underlay() {
        let (lab, config) = (lab(LAB), fast());
        let ends: Vec<_> = config.interfaces.iter().filter(|i| i.below == Below::Strands).collect();
        assert_eq!(ends.len(), 2);
        let bundle = ends[0].bundle.as_ref().unwrap();
        let partitions: Vec<&str> =
            bundle.strands.iter().map(|s| config.partitions[s.partition].name.as_str()).collect();
        assert_eq!(partitions, ["in1/x", "in2/x"]);
        let weights: Vec<_> = bundle.strands.iter().map(|s| (s.underlay.as_str(), s.weight)).collect();
        assert_eq!(weights, [("in1", 1), ("in2", 2)]);
        let link = &lab.networks[3].links[0];
        assert_eq!((ends[0].local, ends[0].remote), (link.ends[0].addr, link.ends[1].addr));
        let pairs: Vec<_> = bundle.strands.iter().map(|s| (s.local, s.remote)).collect();
        assert!(pairs.into_iter().eq(link.pairs(0)));
    }

    #[test]
    fn each_strand_has_keys_of_its_own_which_the_other_end_has_too() {
        let config = fast();
        let bundles: Vec<&Bundle> = config.interfaces.iter().filter_map(|i| i.bundle.as_ref()).collect();
        let keys = |end: usize, strand: usize| bundles[end].strands[strand].security.clone().unwrap();
        for strand in 0..2 {
            assert_eq!(keys(0, strand).outward, keys(1, strand).inward);
            assert_eq!(keys(0, strand).inward, keys(1, strand).outward);
        }
        assert_ne!(keys(0, 0).outward.spi, keys(0, 1).outward.spi);
        assert!(config.interfaces.iter().all(|i| i.bundle.is_none() || i.security.is_none()));
    }

    #[test]
    fn the_kernel_has_strands_in_a_namespace_of_their_own() {
        let plan = plan(&LAB.replace("name: t", "name: t\ndataplane: kernel")).unwrap();
        let ends = plan.strands.as_ref().unwrap().ends.clone();
        assert_eq!(ends.iter().map(|e| e.netns.as_str()).collect::<Vec<_>>(), ["s.top.a", "s.top.b"]);
        let (a, b) = (&ends[0], &ends[1]);
        assert_eq!((a.near, a.far), (b.far, b.near));
        for (near, far) in a.strands.iter().zip(&b.strands) {
            assert_eq!((near.local, near.remote), (far.remote, far.local));
        }
        let below: Vec<&str> = a.strands.iter().map(|s| s.below.as_str()).collect();
        assert_eq!(below, ["v.in1.x", "v.in2.x"]);
        // A tunnel for the link, its other half, and one for each strand.
        let ops = || plan.stages.iter().flat_map(|s| &s.ops);
        let moved = |ns: &str| ops().filter(|op| matches!(op, Op::MoveLink { to, .. } if to == ns)).count();
        assert_eq!((moved("v.top.a"), moved("s.top.a")), (1, 2));
        let policies = ops().filter(|op| matches!(op, Op::AddPolicy { ns, .. } if ns == "v.in2.x"));
        assert_eq!(policies.count(), 2, "each strand is protected where it is a tunnel");
        let guarded = ops().filter(|op| {
            let Op::AddRuleset { ns, text } = op else { return false };
            let pair = format!("{} . {}", a.strands[0].remote, a.strands[0].local);
            ns == "v.in1.x" && text.contains(&pair)
        });
        assert_eq!(guarded.count(), 1, "what strands take is let in");
    }

    #[test]
    fn each_end_is_carried_by_what_carries_its_base_node() {
        let at = |node: &str| {
            let nodes = format!("base: {{nodes: {{{node}: {{dataplane: kernel}}}}, links");
            plan(&LAB.replace("base: {links", &nodes).replace("name: t", "name: t\ndataplane: fastpath"))
                .unwrap()
        };
        let strands = |plan: &Plan| {
            plan.fastpath.iter().flat_map(|c| &c.interfaces).filter(|i| i.bundle.is_some()).count()
        };
        let middle = at("R");
        assert_eq!((middle.strands.clone(), strands(&middle)), (None, 2));
        let mixed = at("X");
        assert_eq!((mixed.strands.as_ref().map(|s| s.ends.len()), strands(&mixed)), (Some(1), 1));
    }

    #[test]
    fn a_kernel_that_cannot_spread_is_told_of() {
        let lab = lab(LAB);
        let machine =
            Machine { ipip: true, nft: true, tun: true, netem: true, esp: true, ..Machine::default() };
        let plan = build(&lab, &Rib::compute(&lab), &machine).unwrap();
        assert!(plan.why.contains("numgen"), "{}", plan.why);
        let mut asked = lab;
        asked.dataplane = crate::model::DataplaneChoice::Kernel;
        let refusal = build(&asked, &Rib::compute(&asked), &machine).unwrap_err();
        assert!(refusal.causes().iter().any(|c| c.contains("parallel underlays")), "{refusal}");
    }

    #[test]
    fn without_parallel_underlays_nothing_is_spread() {
        let lab = lab(LAB);
        assert_eq!(links(&lab).map(|l| l.id.net).collect::<Vec<_>>(), [NetId(3)]);
        assert_eq!(config(&self::lab(&LAB[..LAB.find("  top:").unwrap()]), &[Dataplane::Kernel; 3]), None);
    }
}
