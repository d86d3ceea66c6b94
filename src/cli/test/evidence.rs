//! What tells why a test failed, gathered while what the tests did to the lab is still in force. A lab at that moment goes
//! in; named texts come out. What cannot be had is said in its place.

use std::collections::{BTreeMap, BTreeSet};

use crate::cli::{table::table, trace};
use crate::error::Result;
use crate::model::{NodeId, TestKind};
use crate::observe::{self, Cause, LinkStats, Moment, RouteRow};

type File = (String, String);

/// Pairs of nodes between which a probe is sent to explain a failure, at most.
const PROBED: usize = 64;
/// IPv4 and ICMP in front of the payload of a ping, bytes.
const HEADERS: usize = 28;

/// Routes expected and found, counters, devices.
pub(super) fn of_lab(moment: &Moment<'_>) -> Vec<File> {
    vec![
        file("routes.txt", routes(moment)),
        file("counters.txt", counters(moment)),
        file("links.txt", links(moment)),
    ]
}

/// One probe between the nodes that the test is about, captured on every base node that it passes.
pub(super) fn of_test(moment: &Moment<'_>) -> Vec<File> {
    let pair = moment.test.and_then(|test| pair(&test.kind));
    pair.map(|(from, to)| file("trace.txt", probe(moment, from, to))).into_iter().collect()
}

/// Why a test of packets between nodes failed, as probes between them find; of many pairs, the first that a probe finds
/// something about. `services` are those of the lab.
pub(super) fn causes(moment: &Moment<'_>, services: &dyn Fn() -> Vec<Cause>) -> Vec<String> {
    let Some(test) = moment.test else { return Vec::new() };
    let there = pairs(&test.kind);
    let back: Vec<(NodeId, NodeId)> = there.iter().map(|(from, to)| (*to, *from)).collect();
    for (from, to) in there.into_iter().chain(back).take(PROBED) {
        // What cannot be probed is not explained.
        let Ok(mut found) = observe::follow(moment.context, moment.faults, from, to, size(&test.kind)) else {
            continue;
        };
        if !found.is_as_computed() || !found.arrived {
            found.causes.extend(services());
        }
        let lines = trace::explanation(&found);
        if !lines.is_empty() {
            return lines;
        }
    }
    Vec::new()
}

fn file(name: &str, text: Result<Vec<String>>) -> File {
    let lines = text.unwrap_or_else(|e| vec![format!("could not be had: {e}")]);
    (name.to_owned(), lines.join("\n") + "\n")
}

fn routes(moment: &Moment<'_>) -> Result<Vec<String>> {
    let lab = moment.context.lab;
    let all = observe::route_rows(moment.context, moment.faults)?;
    let differing = all.iter().flat_map(|(_, rows)| rows).filter(|row| row.differs).count();
    let row = |node: NodeId, row: &RouteRow| {
        let mark = if row.differs { "!" } else { "" };
        vec![
            mark.into(),
            lab.full_name(node),
            row.prefix.to_string(),
            row.expected.clone(),
            row.found.clone(),
        ]
    };
    let rows: Vec<Vec<String>> =
        all.iter().flat_map(|(node, rows)| rows.iter().map(|r| row(*node, r))).collect();
    let mut lines = vec![format!("{differing} of {} routes are not as computed", rows.len()), String::new()];
    lines.extend(table(&["", "node", "prefix", "expected", "found"], &rows));
    Ok(lines)
}

fn counters(moment: &Moment<'_>) -> Result<Vec<String>> {
    let all = observe::counters(moment.context)?;
    let rows = |(node, counters): (&String, &BTreeMap<String, u64>)| {
        let counted = counters.iter().filter(|(_, count)| **count > 0);
        counted.map(|(name, count)| vec![node.clone(), name.clone(), count.to_string()]).collect::<Vec<_>>()
    };
    let rows: Vec<Vec<String>> = all.iter().flat_map(rows).collect();
    Ok(table(&["base node", "counter", "packets"], &rows))
}

fn links(moment: &Moment<'_>) -> Result<Vec<String>> {
    let lab = moment.context.lab;
    let each = lab.named_networks().map(|n| observe::links(moment.context, n.id));
    let mut links = each.collect::<Result<Vec<_>>>()?.concat();
    links.extend(observe::gateways(moment.context)?);
    let down: BTreeSet<_> = moment.faults.ends(lab);
    let rows = |stats: &LinkStats| {
        let link = lab.link(stats.link);
        [0, 1].map(|side| {
            let state = match stats.ends[side] {
                _ if down.iter().any(|e| e.link == stats.link && e.side == side) => "set down",
                None => "gone",
                Some(end) if end.up => "up",
                Some(_) => "down",
            };
            let numbers = stats.ends[side].map(|e| [e.rx_packets, e.rx_dropped, e.tx_packets, e.tx_dropped]);
            let numbers = numbers.map(|n| n.map(|n| n.to_string())).unwrap_or_default();
            let named =
                [lab.full_link_name(stats.link), lab.full_name(link.ends[side].node), state.to_owned()];
            named.into_iter().chain(numbers).collect::<Vec<String>>()
        })
    };
    let rows: Vec<Vec<String>> = links.iter().flat_map(rows).collect();
    Ok(table(&["link", "at", "state", "received", "dropped", "sent", "dropped"], &rows))
}

fn probe(moment: &Moment<'_>, from: NodeId, to: NodeId) -> Result<Vec<String>> {
    let lab = moment.context.lab;
    let mut lines =
        vec![format!("a probe from {} to {}:", lab.full_name(from), lab.full_name(to)), String::new()];
    lines.extend(trace::lines(&observe::follow(moment.context, moment.faults, from, to, None)?, true));
    Ok(lines)
}

/// The nodes a test is about; of many pairs the first.
fn pair(kind: &TestKind) -> Option<(NodeId, NodeId)> {
    pairs(kind).first().copied()
}

/// The nodes between which a test sends.
fn pairs(kind: &TestKind) -> Vec<(NodeId, NodeId)> {
    match kind {
        TestKind::Ping { pairs, .. } => pairs.clone(),
        TestKind::Trace { from, to, .. }
        | TestKind::Ttl { from, to, .. }
        | TestKind::Headers { from, to, .. }
        | TestKind::Mtu { from, to, .. }
        | TestKind::Source { from, to, .. }
        | TestKind::Tcp { from, to, .. } => vec![(*from, *to)],
        TestKind::Route { node, to, .. } => vec![(*node, *to)],
        TestKind::Isolated { .. }
        | TestKind::Depth { .. }
        | TestKind::Inject { .. }
        | TestKind::Exec { .. }
        | TestKind::Converged
        | TestKind::Impair { .. }
        | TestKind::Down(_)
        | TestKind::Up(_)
        | TestKind::Wait(_) => Vec::new(),
    }
}

/// The size of packet that a test is about, where it has one.
fn size(kind: &TestKind) -> Option<usize> {
    match kind {
        TestKind::Ping { size: Some(payload), df: true, .. } => {
            usize::try_from(*payload).ok().map(|payload| payload + HEADERS)
        }
        TestKind::Mtu { is, .. } => usize::try_from(*is).ok(),
        TestKind::Ping { .. }
        | TestKind::Trace { .. }
        | TestKind::Ttl { .. }
        | TestKind::Headers { .. }
        | TestKind::Source { .. }
        | TestKind::Tcp { .. }
        | TestKind::Route { .. }
        | TestKind::Isolated { .. }
        | TestKind::Depth { .. }
        | TestKind::Inject { .. }
        | TestKind::Exec { .. }
        | TestKind::Converged
        | TestKind::Impair { .. }
        | TestKind::Down(_)
        | TestKind::Up(_)
        | TestKind::Wait(_) => None,
    }
}
