//! `vilab test`. Lab files go in; a verdict for each of their tests comes out, for people, or as a report for a program.
//! Labs are tested side by side, each under a name of its own, and end with their tests.

mod bundle;
mod evidence;
mod measuring;
mod outcome;
mod pool;
mod report;
mod room;
mod screen;
mod session;
mod sheet;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::num::NonZero;
use std::path::{Path, PathBuf};

use super::output;
use super::params::ParamArgs;
use super::up::{self, DataplaneArg};
use super::wait::TimeoutArg;
use crate::error::{Context, Error, Kind, Result};
use crate::lab;
use bundle::Bundles;
use outcome::{Outcome, exit_code};
use room::Room;
use screen::Screen;
use session::Sessions;

pub(super) use measuring::{TESTER, run as measure};

/// Where GitHub's runners show a summary of a step.
const STEP_SUMMARY: &str = "GITHUB_STEP_SUMMARY";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vilab test labs/*.yaml
  vilab test --jobs 4 --junit results.xml --bundle failed labs/*.yaml
  vilab test --keep-on-fail lab.yaml
  vilab test --expect expectations.yaml students/*.yaml")]
pub(super) struct Args {
    /// The lab files, `-` for standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    params: ParamArgs,
    #[command(flatten)]
    dataplane: DataplaneArg,
    #[command(flatten)]
    timeout: TimeoutArg,
    /// Labs tested at once; by default one for each processor. A large lab waits until there is memory for it
    #[arg(short, long, value_name = "N", env = "VILAB_JOBS")]
    jobs: Option<NonZero<usize>>,
    /// Test the labs against the tests of this file instead of their own, and count points
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// Show what the tests of --expect are about, and what was measured
    #[arg(long, requires = "expect")]
    reveal: bool,
    /// Write the results as JUnit's XML too
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Print the results as TAP, the Test Anything Protocol
    #[arg(long, conflicts_with = "json")]
    tap: bool,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
    /// Leave a lab up whose tests fail
    #[arg(long)]
    keep_on_fail: bool,
    /// Write what tells of a failure to a directory in this one, for each lab that fails: plan, routes, counters, logs
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    // What cannot be read or written is told before any lab is built.
    let expectations = args.expect.as_deref().map(lab::expectations).transpose()?;
    let junit = args.junit.as_deref().map(create).transpose()?;
    let bundles = args.bundle.as_deref().map(|dir| Bundles::prepare(dir, &args.files)).transpose()?;
    let (signals, room) = (up::interruptions()?, Room::of_this_machine());
    let sessions = Sessions {
        params: &args.params,
        dataplane: &args.dataplane,
        patience: args.timeout.timeout,
        expectations: expectations.as_ref(),
        reveal: args.reveal,
        keep: args.keep_on_fail,
        bundles: bundles.as_ref(),
        room: &room,
        signals: &signals,
    };
    let jobs = args.jobs.map_or_else(room::jobs, NonZero::get);
    let mut screen = Screen::new(args.tap || args.json, &args.files);
    let work = |lab: usize, say: &mut dyn FnMut(pool::Said)| sessions.run(lab, &args.files[lab], say);
    let outcomes = pool::run(args.files.len(), jobs, work, &mut screen);
    screen.finish(&outcomes);
    if let (Some(mut file), Some(path)) = (junit, &args.junit) {
        let xml = report::junit(&outcomes)?;
        file.write_all(xml.as_bytes()).map_err(|e| unwritable(path, &e))?;
    }
    if args.json {
        output::json(&report::json(&outcomes))?;
    } else if args.tap {
        output::line(report::tap(&outcomes).trim_end());
    }
    add_summary(&outcomes);
    if !up::signalled(&signals).doing(Kind::Bug, || "cannot look for signals".into())? {
        return Ok(exit_code(&outcomes));
    }
    if outcomes.iter().all(|o| o.kept.is_none()) {
        return up::interrupted(&signals);
    }
    output::note("interrupted; of the labs only those stay that failed before");
    up::ended_by(&signals)
}

fn create(path: &Path) -> Result<File> {
    File::create(path).map_err(|e| unwritable(path, &e))
}

fn unwritable(path: &Path, e: &std::io::Error) -> Error {
    Error::environment(format!("cannot write {}", path.display())).because(e)
}

/// Adds to the page of a CI run, where there is one. A page that cannot be written fails no test.
fn add_summary(outcomes: &[Outcome]) {
    let Some(path) = std::env::var_os(STEP_SUMMARY).filter(|path| !path.is_empty()).map(PathBuf::from) else {
        return;
    };
    let file = OpenOptions::new().append(true).create(true).open(&path);
    if let Err(e) = file.and_then(|mut file| file.write_all(report::summary(outcomes).as_bytes())) {
        output::error(&unwritable(&path, &e).hint(format!("{STEP_SUMMARY} names it")));
    }
}
