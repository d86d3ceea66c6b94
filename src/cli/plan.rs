//! `vilab plan`. A lab file goes in; the operations of `up` come out as ip, tc, nft and sysctl lines. It never
//! changes anything.

use std::path::PathBuf;

use super::params::ParamArgs;
use super::{DONE, output, up};
use crate::error::Result;
use crate::lab;
use crate::plan::Plan;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  vilab plan lab.yaml")]
pub(super) struct Args {
    /// The lab file, `-` for standard input
    pub(super) file: PathBuf,
    #[command(flatten)]
    pub(super) params: ParamArgs,
    #[command(flatten)]
    pub(super) dataplane: up::DataplaneArg,
    /// Print the plan as JSON
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let mut lab = lab::load_with(&args.file, &args.params.params, None)?;
    args.dataplane.apply(&mut lab);
    let plan = up::plan(&lab)?;
    if args.json {
        output::json(&serde_json::json!({ "schema": "vilab.plan/1", "plan": plan }))?;
        return Ok(DONE);
    }
    output::line(text(&plan).trim_end());
    Ok(DONE)
}

/// A plan as commands.
pub(super) fn text(plan: &Plan) -> String {
    let mut lines = vec![format!("# {}", plan.why)];
    for stage in &plan.stages {
        lines.push(format!("\n# {}", stage.name));
        lines.extend(stage.ops.iter().map(ToString::to_string));
    }
    lines.extend(plan.beside());
    lines.join("\n") + "\n"
}
