//! `vilab down`. Names go in; the labs end. It never reads a lab file.

use super::{DONE, output};
use crate::error::{Error, Result};
use crate::lab::{self, Running};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  vilab down first")]
pub(super) struct Args {
    /// The lab; may be left out when only one is up
    lab: Option<String>,
    /// All labs that are up
    #[arg(long, conflicts_with = "lab")]
    all: bool,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let labs = match (&args.lab, args.all) {
        (Some(name), _) => vec![name.clone()],
        (None, true) => lab::names()?,
        (None, false) => vec![Running::only()?.name().to_owned()],
    };
    let mut failed: Option<Error> = None;
    for name in &labs {
        match lab::end(name) {
            Ok(()) => output::note(&format!("lab {name} is down")),
            Err(e) => {
                output::error(&e);
                failed = Some(e);
            }
        }
    }
    Ok(failed.map_or(DONE, |e| super::code(&e)))
}
