//! What a lab that takes the place of a running one keeps of it. The running lab goes in; addresses, blocks and links
//! by name come out. It never says whether a lease can be kept: whoever allocates does.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::parallel::Slot;
use super::{EndId, Lab, Link, LinkId, Network};

/// The running lab as a store of leases; empty without one.
#[derive(Debug, Default)]
pub(super) struct Leases<'a> {
    lab: Option<&'a Lab>,
    networks: BTreeMap<&'a str, &'a Network>,
    /// By network and node.
    hosts: BTreeMap<(&'a str, &'a str), Ipv4Addr>,
    /// By network, or `gateways`, and link; each with the full names of the nodes it joins.
    links: BTreeMap<(&'a str, &'a str), ([String; 2], &'a Link)>,
}

impl<'a> Leases<'a> {
    pub(super) fn of(lab: &'a Lab) -> Self {
        let mut leases = Self { lab: Some(lab), ..Self::default() };
        for network in &lab.networks {
            let net = network.name.as_str();
            leases.networks.insert(net, network);
            let host = |n: &'a super::Node| Some(((net, n.name.as_str()), n.host?));
            leases.hosts.extend(network.nodes.iter().filter_map(host));
        }
        let links = lab.networks.iter().flat_map(|n| &n.links).chain(lab.gateways.iter().map(|g| &g.link));
        for link in links {
            let ends = [0, 1].map(|side| lab.full_name(link.ends[side].node));
            leases.links.insert((lab.place(link.id), &link.name), (ends, link));
        }
        leases
    }

    /// The block of a VI.
    pub(super) fn pool(&self, net: &str) -> Option<Ipv4Net> {
        self.networks.get(net).map(|n| n.pool)
    }

    /// The block of the link addresses of a VI over the base.
    pub(super) fn link_pool(&self, net: &str) -> Option<Ipv4Net> {
        self.networks.get(net)?.link_pool
    }

    /// The host address of a node.
    pub(super) fn host(&self, net: &str, node: &str) -> Option<Ipv4Addr> {
        self.hosts.get(&(net, node)).copied()
    }

    /// The address that the name of a running node stands for.
    pub(super) fn address(&self, net: &str, node: &str) -> Option<Ipv4Addr> {
        let running = self.lab?;
        let found = self.networks.get(net)?.nodes.iter().find(|n| n.name == node)?;
        running.address(found.id)
    }

    /// The running link of the same name between nodes of the same names.
    pub(super) fn link(&self, lab: &Lab, id: LinkId) -> Option<&'a Link> {
        let wanted = lab.link(id);
        let (ends, found) = self.links.get(&(lab.place(id), wanted.name.as_str()))?;
        let same = |side: usize| ends[side] == lab.full_name(wanted.ends[side].node);
        (same(0) && same(1)).then_some(*found)
    }

    /// The same, if both ends are still where they were. Link addresses belong to a link between two places: one that
    /// is made elsewhere gets others, so that neither end takes the new one for the old.
    pub(super) fn placed_link(&self, lab: &Lab, id: LinkId) -> Option<&'a Link> {
        let (running, found) = (self.lab?, self.link(lab, id)?);
        let at = |lab: &Lab, link: &Link, side: usize| {
            lab.node(link.ends[side].node).at.map(|at| lab.full_name(at))
        };
        let same = |side: usize| at(running, found, side) == at(lab, lab.link(id), side);
        (same(0) && same(1)).then_some(found)
    }

    /// All link addresses of a VI: none of them is given to another link.
    pub(super) fn link_addrs(&self, net: &str) -> Vec<Ipv4Addr> {
        let links = self.networks.get(net).into_iter().flat_map(|n| &n.links);
        links.flat_map(|l| l.link_addrs(0).chain(l.link_addrs(1))).collect()
    }

    /// The link address that the running link has at the same end of the same strand.
    pub(super) fn slot(&self, lab: &Lab, slot: Slot) -> Option<Ipv4Addr> {
        let (running, found) = (self.lab?, self.placed_link(lab, slot.end.link)?);
        let same = |strand: usize| {
            let below = &lab.net(lab.link(slot.end.link).parallel.as_ref()?.strands.get(strand)?.below).name;
            let strands = &found.parallel.as_ref()?.strands;
            strands.iter().position(|s| running.net(s.below).name == *below)
        };
        let strand = match slot.strand {
            Some(strand) => Some(same(strand)?),
            None => None,
        };
        running.slot_address(Slot { end: EndId { link: found.id, side: slot.end.side }, strand })
    }
}
