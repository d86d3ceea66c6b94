//! `vilab logs`. Names of services go in; what they printed comes out on standard output, each line under the name of
//! its service where there are several. It never ends while it follows a lab that is up.

use std::io::{self, Write};
use std::path::PathBuf;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::{DONE, output};
use crate::error::{Context, Error, Kind, Result};
use crate::lab::Running;
use crate::lab::logs::{self, Mark};

/// The lab itself among the services.
const LAB: &str = "lab";

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  vilab logs web\n  vilab logs -f -n 20\n  vilab logs -l first lab")]
pub(super) struct Args {
    /// The lab; may be left out when only one is up
    #[arg(short, long, env = "VILAB_LAB")]
    lab: Option<String>,
    /// Services as `vilab status` names them, or lab; without: all
    names: Vec<String>,
    /// Goes on while the lab is up
    #[arg(short, long)]
    follow: bool,
    /// Shows the last lines only, so many of each
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<usize>,
}

/// One log, read up to a mark.
struct Shown {
    /// What stands before each line.
    prefix: String,
    path: PathBuf,
    mark: Mark,
    /// A line whose end has not been printed yet.
    rest: Vec<u8>,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let lab = Running::open_or_only(args.lab.as_deref())?;
    let mut shown = chosen(&lab, &args.names)?;
    // Watched before it is read: nothing falls between.
    let changes = if args.follow { Some(watch(&lab)?) } else { None };
    for log in &mut shown {
        let (bytes, mark) = logs::tail(&log.path, args.lines).doing(Kind::Environment, || unreadable(log))?;
        log.mark = mark;
        log.print(bytes);
    }
    let Some(changes) = changes else {
        shown.iter_mut().for_each(Shown::finish);
        return Ok(DONE);
    };
    while await_change(&changes)? {
        for log in &mut shown {
            let (bytes, mark) =
                logs::since(&log.path, log.mark).doing(Kind::Environment, || unreadable(log))?;
            log.mark = mark;
            log.print(bytes);
        }
    }
    shown.iter_mut().for_each(Shown::finish);
    Ok(DONE)
}

fn unreadable(log: &Shown) -> String {
    format!("cannot read {}", log.path.display())
}

/// The logs of these services, or all there are, the lab's own first.
fn chosen(lab: &Running, names: &[String]) -> Result<Vec<Shown>> {
    let mut all = vec![(LAB.to_owned(), lab.log())];
    all.extend(lab.init()?.services()?.into_iter().map(|s| (s.name, lab.logs().join(s.log))));
    let chosen: Vec<(String, PathBuf)> = match names {
        [] => all,
        names => names.iter().map(|name| find(lab, &all, name)).collect::<Result<_>>()?,
    };
    let width = chosen.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let several = chosen.len() > 1;
    let shown = |(name, path): (String, PathBuf)| Shown {
        prefix: if several { format!("{name:width$} | ") } else { String::new() },
        path,
        mark: Mark::default(),
        rest: Vec::new(),
    };
    Ok(chosen.into_iter().map(shown).collect())
}

fn find(lab: &Running, all: &[(String, PathBuf)], name: &str) -> Result<(String, PathBuf)> {
    all.iter().find(|(n, _)| n == name).cloned().ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|(n, _)| n.as_str()).collect();
        Error::usage(format!("lab {} has no service {name}", lab.name()))
            .hint(format!("its logs: {}", names.join(", ")))
    })
}

fn watch(lab: &Running) -> Result<Inotify> {
    let what = || "cannot follow the logs".to_owned();
    let changes = Inotify::init(InitFlags::IN_CLOEXEC).doing(Kind::Environment, what)?;
    let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE_SELF;
    changes.add_watch(&lab.logs(), flags).doing(Kind::Environment, what)?;
    changes.add_watch(&lab.log(), flags).doing(Kind::Environment, what)?;
    Ok(changes)
}

/// Waits for something to be written; false when the lab has gone.
fn await_change(changes: &Inotify) -> Result<bool> {
    let events = loop {
        match changes.read_events() {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other.doing(Kind::Environment, || "cannot follow the logs".into())?,
        }
    };
    Ok(!events.iter().any(|e| e.mask.contains(AddWatchFlags::IN_DELETE_SELF)))
}

impl Shown {
    /// Prints whole lines; with nothing before them, at once.
    fn print(&mut self, bytes: Vec<u8>) {
        if self.prefix.is_empty() {
            return write(&bytes);
        }
        self.rest.extend(bytes);
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            write(&[self.prefix.as_bytes(), &line].concat());
        }
    }

    fn finish(&mut self) {
        if !self.rest.is_empty() {
            output::line(&format!("{}{}", self.prefix, String::from_utf8_lossy(&self.rest)));
        }
    }
}

fn write(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    let _unread = stdout.write_all(bytes).and_then(|()| stdout.flush());
}
