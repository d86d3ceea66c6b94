//! `vilab doctor`. Nothing goes in; what this machine can carry, and a command for each missing thing, comes out.

use super::{DONE, machine, output};
use crate::error::Result;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  vilab doctor")]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let machine = machine::machine()?;
    let _ = args.json;
    output::json(&machine)?;
    Ok(DONE)
}
