//! `vilab check`. A lab file goes in; its errors come out. It never changes anything.

use std::path::PathBuf;

use super::{DONE, FAILED, output};
use crate::error::Result;
use crate::lab;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  vilab check lab.yaml")]
pub(super) struct Args {
    /// The lab files
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let mut code = DONE;
    for file in &args.files {
        match lab::load(file) {
            Ok(lab) => output::note(&format!(
                "{}: lab {}, {} networks, {} nodes",
                file.display(),
                lab.name,
                lab.networks.len(),
                lab.nodes().count()
            )),
            Err(e) => {
                output::error(&e);
                code = FAILED;
            }
        }
    }
    Ok(code)
}
