//! `vilab wait`. A lab goes in; the command ends when the kernels' routes are the computed ones, or says which are
//! not. It never waits longer than it has to.

use std::time::Duration;

use serde_json::json;

use super::{DONE, measure, output, up};
use crate::error::{Error, Result};
use crate::lab::Running;
use crate::observe::{self, Converged};
use crate::spec;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  vilab link down X -- Y && vilab wait --timeout 30s")]
pub(super) struct Args {
    /// The lab; may be left out when only one is up
    #[arg(env = "VILAB_LAB")]
    lab: Option<String>,
    #[command(flatten)]
    timeout: TimeoutArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, clap::Args)]
pub(super) struct TimeoutArg {
    /// How long routing may take to settle, such as 30s; by default longer the larger the lab
    #[arg(long, value_parser = time)]
    pub(super) timeout: Option<Duration>,
}

pub(super) fn time(text: &str) -> Result<Duration, String> {
    spec::duration(text).ok_or_else(|| "it must be a time such as 30s or 500ms".to_owned())
}

/// Routes are not as computed where what makes them does not run.
fn with_services(lab: &Running, error: Error) -> Error {
    let services = lab.init().and_then(|mut init| init.services()).unwrap_or_default();
    let causes = observe::down_services(&lab.state().lab, &services);
    causes.iter().map(|cause| format!("at {}: {}", cause.at, cause.what)).fold(error, Error::because)
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let lab = Running::open_or_only(args.lab.as_deref())?;
    lab.join()?;
    let faults = lab.faults()?;
    let converged = measure::with_context(&lab, |context| {
        let patience = args.timeout.timeout.unwrap_or_else(|| observe::patience(context.lab));
        observe::converge(context, &faults, patience, &mut |_, _| ())
    });
    let converged = converged.map_err(|e| with_services(&lab, e))?;
    let row = |c: &Converged| (lab.state().lab.net(c.net).name.clone(), c.after.as_secs_f64() * 1000.0);
    let rows: Vec<(String, f64)> = converged.iter().map(row).collect();
    if args.json {
        let networks: Vec<_> =
            rows.iter().map(|(name, ms)| json!({ "network": name, "after_ms": ms })).collect();
        output::json(&json!({ "schema": "vilab.wait/1", "lab": lab.name(), "networks": networks }))?;
    } else {
        let words: Vec<String> = rows.iter().map(|(name, ms)| format!("{name} {}", up::time(*ms))).collect();
        output::note(&format!("lab {} has converged: {}", lab.name(), words.join(", ")));
    }
    Ok(DONE)
}
