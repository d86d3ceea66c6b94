//! `vilab doctor`. Nothing goes in; what this machine can carry, and a command for each missing thing, comes out. It
//! changes nothing but what dead labs left in the state directory.

use serde_json::json;

use super::table::table;
use super::{DONE, machine, output};
use crate::error::Result;
use crate::lab;
use crate::observe::doctor::{self, Facts, Finding};
use crate::observe::nesting::Nesting;

/// The exit code of an environment that carries no labs.
const ENVIRONMENT: u8 = 4;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  vilab doctor")]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let machine = machine::machine();
    let nesting = measured(machine.as_ref().is_ok_and(|m| m.ipip));
    let findings = doctor::findings(&machine, &Facts::gather(), nesting);
    let cleared = lab::clear()?;
    let carries = doctor::carries_labs(&machine);
    if args.json {
        output::json(&json!({
            "schema": "vilab.doctor/1",
            "carries_labs": carries,
            "findings": findings,
            "nesting": nesting,
            "cleared": cleared,
        }))?;
    } else {
        print(&findings, &cleared);
    }
    Ok(if carries { DONE } else { ENVIRONMENT })
}

/// The nesting limit; what cannot be measured is no reason to hide the rest.
fn measured(has_ipip: bool) -> Option<Nesting> {
    has_ipip.then(machine::nesting)?.inspect_err(output::error).ok()
}

fn print(findings: &[Finding], cleared: &[String]) {
    let rows: Vec<Vec<String>> = findings.iter().flat_map(rows).collect();
    table(&["", "", "", "to get it"], &rows).iter().skip(1).for_each(|line| output::line(line));
    for name in cleared {
        output::line(&format!("removed what the dead lab {name} had left"));
    }
}

/// A finding, and under it what else would mend it.
fn rows(finding: &Finding) -> Vec<Vec<String>> {
    let (mark, fix) = match (finding.ok, &finding.fix) {
        (true, _) => ("yes", String::new()),
        (false, Some(fix)) => ("no", format!("to get it: {fix}")),
        (false, None) => ("no", String::new()),
    };
    let first = vec![mark.to_owned(), finding.name.to_owned(), finding.detail.clone(), fix];
    let others =
        finding.or.iter().map(|or| vec![String::new(), String::new(), String::new(), format!("or: {or}")]);
    std::iter::once(first).chain(others).collect()
}
