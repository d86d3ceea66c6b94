//! The strong host model at the link layer, rule by rule (paper, II.2.1). A [`Context`] goes in; which link address
//! each base node accepts from where, and whether it is so just now, come out. It never changes a rule.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::{Context, counters};
use crate::error::Result;
use crate::model::{BASE, Carrier, Dataplane, EndId, NodeId};

/// One link address is accepted from one base tunnel, and from nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The base node that has the link address.
    pub node: NodeId,
    /// The base node at the other end of the tunnel; `None`: from the node itself.
    pub from: Option<NodeId>,
    pub addr: Ipv4Addr,
    /// The end of the virtual link.
    pub end: EndId,
    /// Whether the dataplane has it. The fast path has all that the plan has.
    pub in_force: bool,
}

/// The rules of some base nodes, by node, then by link.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn rules(ctx: &Context<'_>, nodes: &[NodeId]) -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for node in nodes {
        let accepted = match counters::dataplane(ctx, *node) {
            Dataplane::Kernel => Some(counters::accepted(ctx, *node)?),
            Dataplane::Fastpath => None,
        };
        rules.extend(planned(ctx, *node).into_iter().map(|rule| {
            let in_force = rule.from.is_none() || accepted.as_ref().is_none_or(|a| a.contains(&rule.addr));
            Rule { in_force, ..rule }
        }));
    }
    Ok(rules)
}

fn planned(ctx: &Context<'_>, node: NodeId) -> Vec<Rule> {
    let lab = ctx.lab;
    let links = lab.networks.iter().filter(|n| n.over == Some(BASE)).flat_map(|n| &n.links);
    let ends = links.flat_map(|link| [0, 1].map(|side| (link, EndId { link: link.id, side })));
    let here = ends.filter(|(_, end)| lab.site(lab.end(*end)).base == node);
    here.filter_map(|(link, end)| {
        let far = lab.site(lab.peer(end)).base;
        let from = (link.carrier == Some(Carrier::Tunnel)).then_some(far);
        Some(Rule { node, from, addr: lab.end(end).link_addr?, end, in_force: true })
    })
    .collect()
}

/// The link addresses in an nftables set as `nft -j list set` gives it.
pub(super) fn parse_set(json: &str) -> serde_json::Result<BTreeSet<Ipv4Addr>> {
    let parsed: serde_json::Value = serde_json::from_str(json)?;
    let objects = parsed["nftables"].as_array().map_or(&[][..], Vec::as_slice);
    let elements = objects.iter().filter_map(|o| o["set"]["elem"].as_array()).flatten();
    let addr = |e: &serde_json::Value| e["concat"].as_array()?.get(1)?.as_str()?.parse().ok();
    Ok(elements.filter_map(addr).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_addresses_are_read_from_nft_json() {
        let json = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"set": {"family": "inet", "name": "la",
            "type": ["ifname", "ipv4_addr"], "handle": 3, "elem": [{"concat": ["t-X", "172.16.0.1"]},
            {"concat": ["t-Z", "172.16.0.2"]}]}}]}"#;
        let found: Vec<String> = parse_set(json).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(found, ["172.16.0.1", "172.16.0.2"]);
    }
}
