//! `vilab expand`. A lab file goes in; the flat lab, without templates, parameters, ranges and generators, comes out as
//! YAML. It never changes anything.

use std::path::PathBuf;

use super::params::ParamArgs;
use super::{DONE, output};
use crate::error::Result;
use crate::lab;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  vilab expand -D depth=2 lab.yaml")]
pub(super) struct Args {
    /// The lab file, `-` for standard input
    file: PathBuf,
    #[command(flatten)]
    params: ParamArgs,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let flat = lab::flat(&args.file, &args.params.params)?;
    output::line(flat.trim_end());
    Ok(DONE)
}
