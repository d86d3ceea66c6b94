//! `vilab events`. A lab goes in; what happens in it comes out as it happens, one JSON object a line, until the lab goes
//! down, a signal comes, or nobody reads. It never polls.

use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;

use super::{DONE, up};
use crate::error::{Context, Error, Kind, Result};
use crate::lab::Running;
use crate::observe::events::{Event, Live};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  vilab events\n  vilab events | jq -c 'select(.type == \"diverged\")'")]
pub(super) struct Args {
    /// The lab; may be left out when only one is up
    #[arg(env = "VILAB_LAB")]
    lab: Option<String>,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let lab = Running::open_or_only(args.lab.as_deref())?;
    let signals = up::interruptions()?;
    lab.join()?;
    let mut live = Live::open(lab)?;
    let stdout = io::stdout();
    live.attend(signals.as_fd(), true)?;
    live.attend(stdout.as_fd(), false)?;
    loop {
        let woken = live.wait(None)?;
        let written = woken.events.iter().try_for_each(|event| print(&stdout, event));
        match written {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => return Ok(DONE),
            other => other.doing(Kind::Environment, || "cannot write events".to_owned())?,
        }
        if woken.ended || woken.other {
            return Ok(DONE);
        }
    }
}

fn print(mut stdout: &io::Stdout, event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event).map_err(|e| io::Error::other(Error::bug(e.to_string())))?;
    line.push(b'\n');
    stdout.write_all(&line).and_then(|()| stdout.flush())
}
