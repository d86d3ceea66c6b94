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
