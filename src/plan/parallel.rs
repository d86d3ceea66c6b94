//! Links over parallel underlays. A lab and what carries its nodes go in; the strands of each end, for the fast path, come
//! out, or the refusal where the kernel would have to carry one. It never spreads a packet: the fast path does.

use std::collections::BTreeMap;

use super::security;
use crate::error::{Error, Result};
use crate::fastpath::config::{Bundle, Strand};
use crate::model::{Dataplane, EndId, Lab, Link, NodeId};

/// The first link that is spread over several networks.
pub(super) fn spreads(lab: &Lab) -> Option<&Link> {
    spread_links(lab).next()
}

fn spread_links(lab: &Lab) -> impl Iterator<Item = &Link> {
    lab.networks.iter().flat_map(|n| &n.links).filter(|l| l.parallel.is_some())
}

/// The kernel has ipip devices and what could spread packets over them, but nothing that watches the strands and leaves
/// out those that lose packets.
pub(super) fn refuse(lab: &Lab, dataplanes: &[Dataplane]) -> Result<()> {
    let ends = spread_links(lab).flat_map(|link| link.ends.iter().map(move |end| (link, lab.site(end).base)));
    let mut kernel = ends.filter(|(_, base)| dataplanes[base.index] == Dataplane::Kernel);
    let Some((link, base)) = kernel.next() else { return Ok(()) };
    let (link, base) = (lab.full_link_name(link.id), lab.full_name(base));
    Err(Error::usage(format!("`dataplane: kernel` does not carry link {link}, which ends on {base}"))
        .because("it rides on several VIs at once, and the kernel does not watch which of them lose packets")
        .hint("`dataplane: fastpath`, or `auto`, for the lab or for this node"))
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
        let machine =
            Machine { ipip: true, nft: true, tun: true, netem: true, esp: true, ..Machine::default() };
        build(&lab, &Rib::compute(&lab), &machine)
    }

    fn config() -> Config {
        plan(LAB).unwrap().fastpath.unwrap()
    }

    #[test]
    fn an_end_has_one_device_and_a_strand_in_each_underlay() {
        let (lab, config) = (lab(LAB), config());
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
        let config = config();
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
    fn the_kernel_carries_what_lies_between_and_no_end() {
        assert!(plan(LAB).unwrap().why.contains("parallel underlays"));
        let at = |node: &str| {
            let nodes = format!("base: {{nodes: {{{node}: {{dataplane: kernel}}}}, links");
            LAB.replace("base: {links", &nodes)
        };
        assert!(plan(&at("R")).is_ok());
        let lab = LAB.replace("name: t", "name: t\ndataplane: kernel");
        for (text, base) in [(lab, "base/X"), (at("X"), "base/X"), (at("Y"), "base/Y")] {
            let refusal = plan(&text).unwrap_err().to_string();
            let what = format!("`dataplane: kernel` does not carry link top/a--b, which ends on {base}");
            assert!(refusal.starts_with(&what), "{refusal}");
        }
    }

    #[test]
    fn without_parallel_underlays_nothing_is_spread() {
        let lab = lab(LAB);
        assert_eq!(spreads(&lab).map(|l| l.id.net), Some(NetId(3)));
        assert!(lab.networks[..3].iter().flat_map(|n| &n.links).all(|l| l.parallel.is_none()));
    }
}
