//! What the page shows of a running lab. A lab, and names, go in; JSON comes out. It never changes the lab.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::error::{Context as _, Error, Kind, Result};
use crate::graph::{self, Graph};
use crate::lab::{Running, logs};
use crate::model::{BASE, Dataplane, GATEWAYS, Lab, Link, LinkId, NodeId};
use crate::observe::{self, Context, LinkStats};
use crate::routing::{Expected, Faults, Rib};

/// The lab itself among the logs.
const LAB: &str = "lab";
/// Bytes of a log at most: more than a page can show.
const LONGEST_LOG: usize = 256 << 10;

/// A node by its full name.
///
/// # Errors
/// If there is none.
pub(super) fn node_called(lab: &Lab, name: &str) -> Result<NodeId> {
    let found = lab.nodes().find(|n| lab.full_name(n.id) == name).map(|n| n.id);
    found.ok_or_else(|| Error::usage(format!("lab {} has no node {name}", lab.name)))
}

/// A link by its full name.
///
/// # Errors
/// If there is none.
pub(super) fn link_called(lab: &Lab, name: &str) -> Result<LinkId> {
    let found = lab.links().find(|l| lab.full_link_name(l.id) == name).map(|l| l.id);
    found.ok_or_else(|| Error::usage(format!("lab {} has no link {name}", lab.name)))
}

/// All that stays as it is until the lab is changed: `vilab.view/1`.
pub(super) fn lab(running: &Running) -> Result<Value> {
    let state = running.state();
    let lab = &state.lab;
    let drawn = Graph::of(lab, &Rib::compute(lab), &[]);
    let picture = drawn.as_ref().map(graph::page_svg);
    Ok(json!({
        "schema": "vilab.view/1",
        "lab": lab.name,
        "description": lab.description,
        "file": state.file,
        "up_since": state.created,
        "dataplane": state.why,
        "picture": picture.as_ref().ok(),
        "no_picture": picture.as_ref().err().map(ToString::to_string),
        "networks": lab.named_networks().map(|n| json!({
            "name": n.name,
            "over": n.underlays().map(|below| &lab.net(below).name).collect::<Vec<_>>(),
            "depth": n.depth,
        })).collect::<Vec<_>>(),
        "nodes": lab.named_nodes().map(|n| json!({
            "name": lab.full_name(n.id),
            "network": lab.net(n.id.net).name,
            "role": n.role,
            "at": n.at.map(|at| lab.full_name(at)),
            "address": lab.address(n.id),
        })).collect::<Vec<_>>(),
        "links": shown_links(lab).map(|l| link(lab, l)).collect::<Vec<_>>(),
        "services": running.init()?.services()?,
    }))
}

/// The links of networks that have a name, and gateways.
fn shown_links(lab: &Lab) -> impl Iterator<Item = &Link> {
    lab.named_networks().flat_map(|n| &n.links).chain(lab.gateways.iter().map(|g| &g.link))
}

fn link(lab: &Lab, link: &Link) -> Value {
    json!({
        "name": lab.full_link_name(link.id),
        "network": lab.place(link.id),
        "ends": link.ends.each_ref().map(|end| lab.full_name(end.node)),
        "devices": link.ends.each_ref().map(|end| &end.dev),
        "addresses": link.ends.each_ref().map(|end| end.addr),
        "link_addresses": link.pairs(0).map(|(a, b)| [a, b]).collect::<Vec<_>>(),
        "mtu": link.mtu,
        "cost": link.cost,
        "security": link.security.map(|s| s.as_str()),
        "asked": link.impair.map(|i| i.to_string()),
        "can_be_impaired": link.id.net != GATEWAYS,
    })
}

/// How links and nodes are, and what passed and was dropped since they were made.
pub(super) fn state(running: &Running) -> Result<Value> {
    let faults = running.faults()?;
    observe::with_context(running, |context| {
        let lab = context.lab;
        let dead = match faults.is_empty() {
            true => BTreeSet::new(),
            false => Expected::compute(lab, context.rib, &faults).cut.dead,
        };
        let links: BTreeMap<String, Value> =
            stats(context)?.iter().map(|s| (lab.full_link_name(s.link), link_state(s, &dead))).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(json!({
            "time_ms": u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            "links": links,
            "down": {
                "links": faults.links.iter().map(|id| lab.full_link_name(*id)).collect::<Vec<_>>(),
                "nodes": faults.nodes.iter().map(|id| lab.full_name(*id)).collect::<Vec<_>>(),
                "nodes_below": fallen(lab, &faults),
            },
            "drops": drops(context)?,
        }))
    })
}

fn stats(context: &Context<'_>) -> Result<Vec<LinkStats>> {
    let each = context.lab.named_networks().map(|n| observe::links(context, n.id));
    let mut stats = each.collect::<Result<Vec<_>>>()?.concat();
    stats.extend(observe::gateways(context)?);
    Ok(stats)
}

/// Nodes that are down because what they are placed on is.
fn fallen(lab: &Lab, faults: &Faults) -> Vec<String> {
    let fallen =
        lab.named_nodes().filter(|n| faults.node_is_down(lab, n.id) && !faults.nodes.contains(&n.id));
    fallen.map(|n| lab.full_name(n.id)).collect()
}

/// In both directions: from the first end to the second, and back.
fn link_state(stats: &LinkStats, dead: &BTreeSet<LinkId>) -> Value {
    let [a, b] = stats.ends.map(Option::unwrap_or_default);
    json!({
        "state": stats.state(dead),
        "packets": [a.tx_packets, b.tx_packets],
        "bytes": [a.tx_bytes, b.tx_bytes],
        "dropped": a.rx_dropped + a.tx_dropped + b.rx_dropped + b.tx_dropped,
    })
}

/// Counters of base nodes that have counted, by base node.
fn drops(context: &Context<'_>) -> Result<BTreeMap<String, BTreeMap<String, u64>>> {
    let mut all = observe::counters(context)?;
    all.values_mut().for_each(|counters| counters.retain(|_, count| *count > 0));
    Ok(all.into_iter().map(|(node, counters)| (format!("base/{node}"), counters)).collect())
}

/// One node: addresses, links, routes, services.
pub(super) fn node(running: &Running, name: &str) -> Result<Value> {
    let (state, lab) = (running.state(), &running.state().lab);
    let id = node_called(lab, name)?;
    let node = lab.node(id);
    let faults = running.faults()?;
    let routes = observe::with_context(running, |context| observe::routes_of(context, &faults, id));
    let (rows, known) = routes?;
    let ends = node.ends.iter().chain(&node.wires);
    let on: Vec<String> =
        lab.named_nodes().filter(|n| n.at == Some(id)).map(|n| lab.full_name(n.id)).collect();
    let services = running.init()?.services()?;
    Ok(json!({
        "name": name,
        "role": node.role,
        "at": node.at.map(|at| lab.full_name(at)),
        "base": lab.full_name(node.base),
        "dataplane": state.dataplanes.get(node.base.index).filter(|_| id.net != BASE || lab.networks.len() > 1).map(|d| match d {
            Dataplane::Kernel => "kernel",
            Dataplane::Fastpath => "fastpath",
        }),
        "carries": on,
        "host_address": node.host,
        "link_addresses_of_others": node.stacked,
        "interfaces": ends.map(|end| {
            let (own, peer, link) = (lab.end(*end), lab.peer(*end), lab.link(end.link));
            json!({
                "device": own.dev,
                "address": own.addr,
                "link_address": own.link_addr,
                "link": lab.full_link_name(link.id),
                "peer": lab.full_name(peer.node),
                "mtu": link.mtu,
            })
        }).collect::<Vec<_>>(),
        "routes": rows,
        "routes_are_known": known,
        "services": services.iter().filter(|s| s.node.as_deref() == Some(name)).collect::<Vec<_>>(),
    }))
}

/// The end of what a service printed.
pub(super) fn log(running: &Running, service: &str, lines: usize) -> Result<Value> {
    let path = if service == LAB {
        running.log()
    } else {
        let services = running.init()?.services()?;
        let found = services.into_iter().find(|s| s.name == service);
        let found =
            found.ok_or_else(|| Error::usage(format!("lab {} has no service {service}", running.name())))?;
        running.logs().join(found.log)
    };
    let what = || format!("cannot read the log of {service}");
    let (bytes, _) = logs::tail(&path, Some(lines)).doing(Kind::Environment, what)?;
    let shown = &bytes[bytes.len().saturating_sub(LONGEST_LOG)..];
    Ok(json!({ "service": service, "text": String::from_utf8_lossy(shown) }))
}
