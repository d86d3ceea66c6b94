//! `vilab resolve`. A lab, a node and a destination go in; how the destination is resolved, step by step and layer by
//! layer, as the kernels have it and beside it what is computed, comes out. It never changes anything.

use std::net::Ipv4Addr;

use serde_json::json;

use super::{DONE, FAILED, measure, node, output, table};
use crate::error::{Error, Result};
use crate::lab::Running;
use crate::model::{Lab, NodeId};
use crate::observe::{self, Chain, Found, Question, Resolution, Step, Way};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  vilab resolve blue/a c\n  vilab resolve -l first blue/a 10.1.0.3 --json"
)]
pub(super) struct Args {
    /// The lab; may be left out when only one is up
    #[arg(short, long, env = "VILAB_LAB")]
    lab: Option<String>,
    /// The node that asks
    node: String,
    /// A node or an address of the same network, or of one joined with it
    dest: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// 1 if the destination is not reached, or not as computed.
pub(super) fn run(args: &Args) -> Result<u8> {
    let running = Running::open_or_only(args.lab.as_deref())?;
    let lab = &running.state().lab;
    let question = question(lab, node::find(lab, &args.node)?, &args.dest)?;
    running.join()?;
    let faults = running.faults()?;
    let found = measure::with_context(&running, |context| observe::resolve(context, &faults, &question))?;
    let differs = found.measured.differs_from(&found.computed);
    if args.json {
        output::json(&as_json(lab, &question, &found, differs))?;
    } else {
        table::table(&TITLES, &rows(&found.measured)).iter().for_each(|line| output::line(line));
        output::line("");
        verdict(lab, &question, &found, differs).iter().for_each(|line| output::line(line));
    }
    Ok(if found.measured.arrives && differs.is_none() { DONE } else { FAILED })
}

/// A name is first one of the asking node's own network, as in its hosts file.
fn question(lab: &Lab, from: NodeId, dest: &str) -> Result<Question> {
    if let Ok(to) = dest.parse::<Ipv4Addr>() {
        let special = to.is_loopback() || to.is_multicast() || to.is_unspecified() || to.is_broadcast();
        return match special {
            true => Err(Error::usage(format!("{to} is no address of a node"))),
            false => Ok(Question { from, name: None, to }),
        };
    }
    let network = lab.net(from.net);
    let known =
        network.nodes.iter().find(|n| n.name == dest || format!("{}.{}", n.name, network.name) == dest);
    let name = known.map_or_else(|| dest.rsplit('/').next().unwrap_or(dest), |_| dest);
    let node = known.map_or_else(|| node::find(lab, dest), |n| Ok(n.id))?;
    if !lab.joined(from.net).contains(&node.net) {
        let title = format!("{} and {} are in different networks", lab.full_name(from), lab.full_name(node));
        return Err(Error::usage(title).hint("no gateway joins them: neither knows the other"));
    }
    let no_address = || Error::usage(format!("{} has no address: no link ends there", lab.full_name(node)));
    let to = lab.address(node).ok_or_else(no_address)?;
    Ok(Question { from, name: (node.net == from.net).then(|| name.to_owned()), to })
}

const TITLES: [&str; 5] = ["step", "at", "asked", "resolves to", "by"];

fn rows(chain: &Chain) -> Vec<Vec<String>> {
    chain.steps.iter().map(row).collect()
}

fn row(step: &Step) -> Vec<String> {
    let at = format!("{}{}", "  ".repeat(step.nesting), step.at);
    let (found, by) = words(&step.found);
    vec![step.step.to_string(), at, step.asked.clone(), found, by.to_owned()]
}

/// What was found, and by what.
fn words(found: &Found) -> (String, &'static str) {
    match found {
        Found::Name { address } => (address.to_string(), "name"),
        Found::Route { prefix, ways, wire } => {
            (to_prefix(*prefix, ways), if *wire { "route, wire" } else { "route" })
        }
        Found::Exit { prefix, ways } => (to_prefix(*prefix, ways), "exit resolution"),
        Found::Link { from, to, protected } => {
            (pair(*from, *to), if *protected { "link, in ESP" } else { "link" })
        }
        Found::Parallel { spread, strands } => {
            (format!("{strands} strands, spread by {}", spread.as_str()), "link")
        }
        Found::Strand { below, weight, from, to } => {
            (format!("{} in {below}, weight {weight}", pair(*from, *to)), "strand")
        }
        Found::Tunnel { from, to, node } => (format!("{} at {node}", pair(*from, Some(*to))), "base tunnel"),
        Found::Inside { node } => (format!("stays on {node}"), "link"),
        Found::Port { device } => (format!("leaves by {device}, no route looked up"), "exit"),
        Found::Served { to } => (to.clone(), "router's process"),
        Found::Own => ("its own address".to_owned(), "arrived"),
        Found::Again { step } => (format!("as from step {step} on"), "known"),
        Found::Broken { why } => (why.clone(), "BROKEN"),
        Found::Unknown => ("routes that are not vilab's to compute".to_owned(), "unknown"),
    }
}

fn to_prefix(prefix: ipnet::Ipv4Net, ways: &[Way]) -> String {
    let way = |w: &Way| match &w.exit_vh {
        Some(exit) => format!("exit {}, exit VH {exit}, dev {}", w.neighbour, w.device),
        None => format!("{} ({}) dev {}", w.neighbour, w.address, w.device),
    };
    let ways: Vec<String> = ways.iter().map(way).collect();
    format!("{prefix} via {}", ways.join(" or "))
}

fn pair(from: Option<Ipv4Addr>, to: Option<Ipv4Addr>) -> String {
    let word = |addr: Option<Ipv4Addr>| addr.map_or_else(|| "none".to_owned(), |a| a.to_string());
    format!("{} -> {}", word(from), word(to))
}

/// Whether it arrives, and whether all is as computed.
fn verdict(lab: &Lab, question: &Question, found: &Resolution, differs: Option<usize>) -> Vec<String> {
    let (from, to) = (lab.full_name(question.from), question.to);
    let place =
        |at: &Step| format!("in {}, at {}, step {}: {}", at.layer, at.at, at.step, words(&at.found).0);
    let mut lines = match (found.measured.arrives, found.measured.broken()) {
        (true, None) => vec![format!("{to} is reached from {from}")],
        (true, Some(at)) => {
            vec![format!("{to} is reached from {from}, but not by every strand: one breaks {}", place(at))]
        }
        (false, at) => {
            let place = at.map(|at| format!(": the chain breaks {}", place(at))).unwrap_or_default();
            vec![format!("{to} is not reached from {from}{place}")]
        }
    };
    match (differs, found.computed.unknown()) {
        (Some(at), _) => lines.extend([
            format!("it differs from what is computed, first in step {at}"),
            format!("  measured: {}", line(&found.measured, at)),
            format!("  computed: {}", line(&found.computed, at)),
        ]),
        (None, Some(at)) => lines.push(format!(
            "all is as computed before step {}; from there on routes are not vilab's to compute",
            at.step
        )),
        (None, None) => lines.push("all is as computed".to_owned()),
    }
    lines
}

/// One step in words.
fn line(chain: &Chain, step: usize) -> String {
    match chain.steps.get(step - 1) {
        Some(step) => {
            let (found, by) = words(&step.found);
            format!("{} asked for {}: {found} ({by})", step.at, step.asked)
        }
        None => "the chain has ended".to_owned(),
    }
}

fn as_json(lab: &Lab, question: &Question, found: &Resolution, differs: Option<usize>) -> serde_json::Value {
    let step = |chain: &Chain, at: usize| json!(chain.steps.get(at - 1));
    let difference = differs.map(|at| {
        json!({ "step": at, "measured": step(&found.measured, at), "computed": step(&found.computed, at) })
    });
    json!({
        "schema": "vilab.resolve/1",
        "lab": lab.name,
        "from": lab.full_name(question.from),
        "name": question.name,
        "to": question.to,
        "arrives": found.measured.arrives,
        "broken": found.measured.broken().map(|s| s.step),
        "unknown_from": found.computed.unknown().map(|s| s.step),
        "difference": difference,
        "measured": found.measured.steps,
        "computed": found.computed.steps,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn ask(dest: &str) -> Result<Question> {
        let text = "name: t\nbase: {links: [X -- Y]}\nvis:\n  red: {nodes: {a: X, b: Y}, links: [a -- b]}\n  \
                    blue: {nodes: {a: X, b: Y, c: Y, d: X}, links: [a -- b -- c]}\n";
        let lab = crate::model::parse(Path::new("t.yaml"), text).unwrap();
        question(&lab, node::find(&lab, "blue/a").unwrap(), dest)
    }

    #[test]
    fn names_are_those_of_the_asking_nodes_network() {
        let to = ask("b").unwrap().to;
        for (dest, name) in [("b.blue", Some("b.blue")), ("blue/b", Some("b"))] {
            let question = ask(dest).unwrap();
            assert_eq!((question.name.as_deref(), question.to), (name, to), "{dest}");
        }
        assert_eq!(ask(&to.to_string()).unwrap(), Question { name: None, ..ask("b").unwrap() });
    }

    #[test]
    fn what_cannot_be_asked_for_is_refused() {
        for (dest, what) in [
            ("red/b", "blue/a and red/b are in different networks"),
            ("nobody", "lab t has no node nobody"),
            ("127.0.0.1", "127.0.0.1 is no address of a node"),
        ] {
            let error = ask(dest).unwrap_err();
            assert_eq!((error.what(), error.kind()), (what, crate::error::Kind::Usage));
        }
    }
}
