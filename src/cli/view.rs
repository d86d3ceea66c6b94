//! `vilab view`. A running lab goes in; the address of its page comes out, which is served until a signal comes or the lab
//! goes down. It never listens but on the loopback address.

use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use serde_json::json;

use super::{DONE, output, up};
use crate::error::Result;
use crate::lab::Running;
use crate::view::{Ended, Server};

/// What opens addresses on a desktop.
const OPENER: &str = "xdg-open";

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  vilab view\n  vilab view first --port 8080 --open")]
pub(super) struct Args {
    /// The lab; may be left out when only one is up
    #[arg(env = "VILAB_LAB")]
    lab: Option<String>,
    /// The port on 127.0.0.1; without, the kernel chooses one that is free
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Open the page in a browser
    #[arg(long)]
    open: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let lab = Running::open_or_only(args.lab.as_deref())?;
    let name = lab.name().to_owned();
    let signals = up::interruptions()?;
    let server = Server::bind(args.port)?;
    let url = server.url();
    match args.json {
        true => output::json(&json!({ "schema": "vilab.view-url/1", "lab": name, "url": url }))?,
        false => output::line(&url),
    }
    if args.open {
        // Before the lab's user namespace is joined: a browser is the user's own.
        open(&url);
    }
    lab.join()?;
    if !args.json {
        output::note(&format!("serving lab {name} on this machine alone; Ctrl-C ends it"));
    }
    match server.serve(lab, signals.as_fd())? {
        Ended::LabDown if !args.json => output::note(&format!("lab {name} has gone down")),
        Ended::LabDown | Ended::Told => {}
    }
    Ok(DONE)
}

/// Opens the page, if there is what can; the address has been printed in any case.
fn open(url: &str) {
    let mut opener = Command::new(OPENER);
    opener.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Err(e) = opener.spawn() {
        output::note(&format!("no browser was opened: cannot start {OPENER}: {e}"));
    }
}
