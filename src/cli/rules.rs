//! `vilab rules`. A lab and a base node, or none for all, go in; what each link layer accepts and from where comes out,
//! in words. It never changes anything.

use serde_json::json;

use super::{DONE, FAILED, measure, node, output, table};
use crate::error::{Error, Result};
use crate::lab::Running;
use crate::model::{BASE, Lab, NodeId};
use crate::observe::{self, Rule};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  vilab rules\n  vilab rules Y\n  vilab rules -l first Y --json")]
pub(super) struct Args {
    /// The lab; may be left out when only one is up
    #[arg(short, long, env = "VILAB_LAB")]
    lab: Option<String>,
    /// A base node; all of them without
    node: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// 1 if a rule of the plan is not in force.
pub(super) fn run(args: &Args) -> Result<u8> {
    let running = Running::open_or_only(args.lab.as_deref())?;
    let lab = &running.state().lab;
    let nodes = nodes(lab, args.node.as_deref())?;
    running.join()?;
    let rules = measure::with_context(&running, |context| observe::rules(context, &nodes))?;
    if args.json {
        let rules: Vec<_> = rules.iter().map(|rule| as_json(lab, rule)).collect();
        output::json(&json!({ "schema": "vilab.rules/1", "lab": lab.name, "rules": rules }))?;
    } else {
        let rows: Vec<Vec<String>> = rules.iter().map(|rule| row(lab, rule)).collect();
        let titles = ["base node", "accepts link address", "of", "from", "in force"];
        table::table(&titles, &rows).iter().for_each(|line| output::line(line));
        output::line(
            "\nEach address is accepted from there only; what comes otherwise is dropped and counted as",
        );
        output::line("strong-host. Packets that are not IP in IP are counted as not-ipip.");
    }
    Ok(if rules.iter().all(|r| r.in_force) { DONE } else { FAILED })
}

fn nodes(lab: &Lab, name: Option<&str>) -> Result<Vec<NodeId>> {
    let Some(name) = name else { return Ok(lab.base().nodes.iter().map(|n| n.id).collect()) };
    let base = lab.base().nodes.iter().find(|n| n.name == name).map(|n| n.id);
    let found = base.map_or_else(|| node::find(lab, name), Ok)?;
    if found.net == BASE {
        return Ok(vec![found]);
    }
    let on = lab.full_name(lab.node(found).base);
    Err(Error::usage(format!("{} has no rules of its own", lab.full_name(found)))
        .hint(format!("link layers belong to base nodes; it stands on {on}")))
}

fn row(lab: &Lab, rule: &Rule) -> Vec<String> {
    let from = |id: NodeId| format!("the base tunnel from {}", lab.node(id).name);
    let link = lab.link(rule.end.link);
    vec![
        lab.node(rule.node).name.clone(),
        rule.addr.to_string(),
        format!("{}, link {}", lab.full_name(lab.end(rule.end).node), link.name),
        rule.from.map_or_else(|| "the node itself".to_owned(), from),
        if rule.in_force { "yes".to_owned() } else { "NO".to_owned() },
    ]
}

fn as_json(lab: &Lab, rule: &Rule) -> serde_json::Value {
    json!({
        "node": lab.node(rule.node).name,
        "from": rule.from.map(|id| lab.node(id).name.clone()),
        "link_address": rule.addr,
        "end": lab.full_name(lab.end(rule.end).node),
        "link": lab.link(rule.end.link).name,
        "in_force": rule.in_force,
    })
}
