//! Rules of nftables that drop packets and that no plan has. Nodes go in; each such rule of their namespaces, as nft(8)
//! writes it, comes out. It never changes a rule, and where there is no nft it finds none.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Context, counters, each};
use crate::error::Result;
use crate::model::{BASE, NodeId};
use crate::process;

/// How the names of the plan's own tables begin.
const OURS: &str = "vi_";

/// A rule, or the policy of a chain, that drops.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Dropping {
    /// Family, table and chain.
    chain: [String; 3],
    /// `None`: the chain's policy does.
    handle: Option<u64>,
}

/// The dropping rules in the namespaces of some nodes, and of the link layers of base nodes among them: the node, and the
/// rule in words.
pub(super) fn rules(ctx: &Context<'_>, nodes: &BTreeSet<NodeId>) -> Result<Vec<(String, String)>> {
    if !process::installed("nft") {
        return Ok(Vec::new());
    }
    let nodes: Vec<NodeId> = nodes.iter().copied().collect();
    let found = each(&nodes, |node| of_node(ctx, *node))?;
    let name = |node: NodeId| super::resolve::label(ctx.lab, node);
    let named = nodes.iter().zip(found).flat_map(|(node, rules)| rules.into_iter().map(|r| (name(*node), r)));
    Ok(named.collect())
}

fn of_node(ctx: &Context<'_>, node: NodeId) -> Result<Vec<String>> {
    let mut places = vec![ctx.lab.node(node).netns.clone()];
    let link_layer = ctx.lab.link_netns(node);
    if node.net == BASE && ctx.namespaces.path(&link_layer).exists() {
        places.push(link_layer);
    }
    let mut found = Vec::new();
    for ns in places {
        // A ruleset that cannot be had explains nothing.
        let Ok(ruleset) = counters::nft(ctx, &ns, &["-j", "list", "ruleset"]) else { continue };
        for rule in dropping(&ruleset) {
            let [family, table, chain] = &rule.chain;
            let arguments = ["-a", "list", "chain", family, table, chain];
            let text = counters::nft(ctx, &ns, &arguments).unwrap_or_default();
            found.push(format!("table {family} {table}, chain {chain}: {}", line(&text, rule.handle)));
        }
    }
    Ok(found)
}

/// What drops in a ruleset as `nft -j list ruleset` gives it; the plan's own tables aside.
fn dropping(json: &str) -> Vec<Dropping> {
    let parsed: Value = serde_json::from_str(json).unwrap_or_default();
    let objects = parsed["nftables"].as_array().map_or(&[][..], Vec::as_slice);
    let text = |object: &Value, key: &str| object[key].as_str().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for object in objects {
        let (rule, chain) = (&object["rule"], &object["chain"]);
        if text(rule, "table").starts_with(OURS) || text(chain, "table").starts_with(OURS) {
            continue;
        }
        if drops(&rule["expr"]) {
            let chain = ["family", "table", "chain"].map(|key| text(rule, key));
            found.push(Dropping { chain, handle: rule["handle"].as_u64() });
        } else if chain["policy"] == "drop" {
            found.push(Dropping {
                chain: ["family", "table", "name"].map(|key| text(chain, key)),
                handle: None,
            });
        }
    }
    found
}

/// Whether an expression has a verdict that drops, verdict maps included.
fn drops(expression: &Value) -> bool {
    match expression {
        Value::Object(map) => {
            map.contains_key("drop") || map.contains_key("reject") || map.values().any(drops)
        }
        Value::Array(list) => list.iter().any(drops),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// The line of a chain, as `nft -a list chain` gives it, that has a handle; without, that of the policy.
fn line(text: &str, handle: Option<u64>) -> String {
    let mut lines = text.lines().map(str::trim);
    let found = match handle {
        Some(handle) => {
            let mark = format!(" # handle {handle}");
            lines.find_map(|l| l.strip_suffix(&mark)).map(str::to_owned)
        }
        None => lines.find(|l| l.contains("policy drop")).map(|l| l.to_owned()),
    };
    found.unwrap_or_else(|| "drop".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULESET: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
        {"table": {"family": "inet", "name": "vi_strong", "handle": 1}},
        {"chain": {"family": "inet", "table": "vi_strong", "name": "pre", "policy": "drop"}},
        {"rule": {"family": "inet", "table": "vi_strong", "chain": "pre", "handle": 4, "expr": [{"drop": null}]}},
        {"chain": {"family": "ip", "table": "foe", "name": "in", "hook": "input", "policy": "accept"}},
        {"rule": {"family": "ip", "table": "foe", "chain": "in", "handle": 7, "expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "protocol"}}, "right": "icmp"}},
            {"counter": {"packets": 0, "bytes": 0}}, {"drop": null}]}},
        {"rule": {"family": "ip", "table": "foe", "chain": "in", "handle": 8, "expr": [{"accept": null}]}},
        {"rule": {"family": "ip", "table": "foe", "chain": "in", "handle": 9, "expr": [
            {"vmap": {"key": {"meta": {"key": "iifname"}}, "data": {"set": [["e-X", {"drop": null}]]}}}]}},
        {"chain": {"family": "ip", "table": "foe", "name": "out", "hook": "output", "policy": "drop"}}]}"#;

    #[test]
    fn what_drops_is_found_and_the_plans_own_is_left_out() {
        let chain = |name: &str| ["ip", "foe", name].map(str::to_owned);
        let of = |name, handle| Dropping { chain: chain(name), handle };
        assert_eq!(dropping(RULESET), [of("in", Some(7)), of("in", Some(9)), of("out", None)]);
        assert_eq!(dropping("no JSON"), []);
    }

    #[test]
    fn a_rule_is_told_as_nft_writes_it() {
        let text = "table ip foe {\n\tchain in { # handle 1\n\t\ttype filter hook input priority filter; policy drop;\n\t\t\
                    ip protocol icmp counter packets 0 bytes 0 drop # handle 7\n\t}\n}\n";
        assert_eq!(line(text, Some(7)), "ip protocol icmp counter packets 0 bytes 0 drop");
        assert_eq!(line(text, None), "type filter hook input priority filter; policy drop;");
        assert_eq!(line("", Some(7)), "drop");
    }
}
