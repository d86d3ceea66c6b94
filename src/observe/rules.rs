//! The strong host model at the link layer, rule by rule (paper, II.2.1). A [`Context`] goes in; which link address
//! each base node accepts from where, and whether it is so just now, come out. It never changes a rule.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::{Context, counters};
use crate::error::Result;
use crate::fastpath::control::AllAccepted;
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
    /// Whether the dataplane has it.
    pub in_force: bool,
    /// The base node from which the address is accepted instead, where the dataplane tells.
    pub instead: Option<NodeId>,
}

/// The rules of some base nodes, by node, then by link.
///
/// # Errors
/// If a dataplane cannot be asked.
pub fn rules(ctx: &Context<'_>, nodes: &[NodeId]) -> Result<Vec<Rule>> {
    let fast = |node: &NodeId| counters::dataplane(ctx, *node) == Dataplane::Fastpath;
    // A lab without virtual links has no engine.
    let mut engine = match ctx.fastpath_control.is_some() && nodes.iter().any(fast) {
        true => counters::fastpath(ctx)?.accepted()?,
        false => AllAccepted::new(),
    };
    let mut rules = Vec::new();
    for node in nodes {
        let planned = planned(ctx, *node).into_iter();
        if fast(node) {
            let accepted = engine.remove(&ctx.lab.node(*node).name).unwrap_or_default();
            rules.extend(planned.map(|rule| of_engine(ctx, rule, &accepted)));
        } else {
            let accepted = counters::accepted(ctx, *node)?;
            let in_force = |rule: &Rule| rule.from.is_none() || accepted.contains(&rule.addr);
            rules.extend(planned.map(|rule| Rule { in_force: in_force(&rule), ..rule }));
        }
    }
    Ok(rules)
}

fn of_engine(ctx: &Context<'_>, rule: Rule, accepted: &BTreeMap<Ipv4Addr, Ipv4Addr>) -> Rule {
    let Some(from) = rule.from else { return rule };
    let found = accepted.get(&rule.addr);
    let in_force = found.is_some() && found.copied() == ctx.lab.node(from).host;
    let instead = found.filter(|_| !in_force).and_then(|addr| ctx.lab.owner(BASE, *addr));
    Rule { in_force, instead, ..rule }
}

fn planned(ctx: &Context<'_>, node: NodeId) -> Vec<Rule> {
    let lab = ctx.lab;
    let links = lab.networks.iter().filter(|n| n.over == Some(BASE)).flat_map(|n| &n.links);
    let ends = links.flat_map(|link| [0, 1].map(|side| (link, EndId { link: link.id, side })));
    let here = ends.filter(|(_, end)| lab.site(lab.end(*end)).base == node);
    here.filter_map(|(link, end)| {
        let far = lab.site(lab.peer(end)).base;
        let from = (link.carrier == Some(Carrier::Tunnel)).then_some(far);
        Some(Rule { node, from, addr: lab.end(end).link_addr?, end, in_force: true, instead: None })
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
