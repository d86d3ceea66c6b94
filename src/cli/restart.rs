//! `vilab restart`. The name of a service goes in; it runs anew, and is ready if it says when. It never starts what
//! the lab does not have.

use super::{DONE, output};
use crate::error::Result;
use crate::lab::Running;
use crate::lab::control::Request;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  vilab restart web")]
pub(super) struct Args {
    /// The lab; may be left out when only one is up
    #[arg(short, long, env = "VILAB_LAB")]
    lab: Option<String>,
    /// The service as `vilab status` names it
    service: String,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let lab = Running::open_or_only(args.lab.as_deref())?;
    lab.init()?.tell(&Request::Restart { service: args.service.clone() })?;
    output::note(&format!("{} runs anew", args.service));
    Ok(DONE)
}
