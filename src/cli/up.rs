//! `vilab up`. A lab file goes in; a running, verified lab and a table of it come out. When it fails, or is
//! interrupted, nothing is left.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use serde_json::json;

use super::capture::CaptureArgs;
use super::params::ParamArgs;
use super::table::table;
use super::wait::TimeoutArg;
use super::{DONE, measure, output};
use crate::apply::{Progress, Timings};
use crate::error::{Context, Error, Kind, Result};
use crate::lab::{self, Job, Message, Starting, permission};
use crate::model::{DataplaneChoice, Lab, NodeId};
use crate::observe::doctor;
use crate::plan::Plan;
use crate::sys::signals;

pub(super) use crate::observe::doctor::plan;

/// Exit codes of shells for a command ended by signal n.
const BY_SIGNAL: u8 = 128;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  vilab up lab.yaml")]
pub(super) struct Args {
    /// The lab file, `-` for standard input
    pub(super) file: PathBuf,
    #[command(flatten)]
    pub(super) params: ParamArgs,
    #[command(flatten)]
    pub(super) dataplane: DataplaneArg,
    #[command(flatten)]
    pub(super) timeout: TimeoutArg,
    #[command(flatten)]
    pub(super) capture: CaptureArgs,
    /// Print the lab as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Clone, clap::Args)]
pub(super) struct DataplaneArg {
    /// What carries the virtual links, instead of what the file says
    #[arg(long, value_enum, env = "VILAB_DATAPLANE")]
    dataplane: Option<Choice>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Choice {
    Auto,
    Kernel,
    Fastpath,
}

impl DataplaneArg {
    pub(super) fn apply(&self, lab: &mut Lab) {
        let Some(choice) = self.dataplane else { return };
        lab.carry_by(match choice {
            Choice::Auto => DataplaneChoice::Auto,
            Choice::Kernel => DataplaneChoice::Kernel,
            Choice::Fastpath => DataplaneChoice::Fastpath,
        });
    }
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let mut lab = lab::load_to_run(&args.file, &args.params.params, None)?;
    args.dataplane.apply(&mut lab);
    let outline = doctor::outline(&lab)?;
    let file = lab::whereabouts(&args.file);
    let capture = args.capture.capture()?;
    let job = Job { file, lab, machine: outline.machine.clone(), patience: args.timeout.timeout, capture };
    let signals = interruptions()?;
    let mut display = Display::new();
    let coming = come_up(&job, &signals, &mut |progress| display.show(progress));
    display.finish();
    match coming? {
        Coming::Ready(starting, timings) => {
            starting.commit()?;
            report(&job.lab, &outline.plan, &timings, args)?;
            Ok(DONE)
        }
        Coming::Interrupted => interrupted(&signals),
    }
}

/// How a lab's coming up ended, if not with an error.
pub(super) enum Coming {
    /// It is verified; it ends with [`Starting`] unless it is committed.
    Ready(Starting, Timings),
    /// A signal came; nothing is left.
    Interrupted,
}

/// Starts a lab and waits until it is ready; leaves nothing when it is not.
pub(super) fn come_up(job: &Job, signals: &SignalFd, show: &mut dyn FnMut(&Progress)) -> Result<Coming> {
    let mut starting = Starting::begin(job)?;
    match follow(&mut starting, signals, show) {
        Ok(Followed::Ready(timings)) => Ok(Coming::Ready(starting, timings)),
        Ok(Followed::Interrupted) => {
            starting.abandon();
            Ok(Coming::Interrupted)
        }
        Err(e) => {
            starting.abandon();
            // Asked here, outside the lab's user namespace, which has limits of its own.
            Err(permission::explained_by_limit(e))
        }
    }
}

/// Says that a signal came and that nothing is left; the exit code that shells give for it.
pub(super) fn interrupted(signals: &SignalFd) -> Result<u8> {
    output::note("interrupted; nothing is left");
    ended_by(signals)
}

/// The exit code that shells give for the signal that came.
pub(super) fn ended_by(signals: &SignalFd) -> Result<u8> {
    let info = signals.read_signal().doing(Kind::Bug, || "cannot read the signal that came".into())?;
    let signal = info.and_then(|info| u8::try_from(info.ssi_signo).ok()).unwrap_or_default();
    Ok(BY_SIGNAL.saturating_add(signal))
}

enum Followed {
    Ready(Timings),
    Interrupted,
}

fn follow(starting: &mut Starting, signals: &SignalFd, show: &mut dyn FnMut(&Progress)) -> Result<Followed> {
    loop {
        let came = interrupts(starting.as_fd(), starting.buffered(), signals);
        if came.doing(Kind::Bug, || "cannot wait for the lab".into())? {
            return Ok(Followed::Interrupted);
        }
        match starting.receive()? {
            Message::Progress(progress) => show(&progress),
            Message::Ready(timings) => return Ok(Followed::Ready(timings)),
            Message::Failed(failure) => return Err(Error::from(failure)),
        }
    }
}

/// The signals that end a command early, held back to be read.
pub(super) fn interruptions() -> Result<SignalFd> {
    signals::any_of([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])
        .doing(Kind::Environment, || "cannot prepare for signals".into())
}

/// Whether a signal has come. It stays to be seen, by whoever else waits, until [`ended_by`] reads it.
pub(super) fn signalled(signals: &SignalFd) -> nix::Result<bool> {
    let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut fds, PollTimeout::ZERO)? > 0)
}

/// Waits until `input` can be read, which it can at once where some of it is `buffered`; whether a signal came instead.
pub(super) fn interrupts(input: BorrowedFd<'_>, buffered: bool, signals: &SignalFd) -> nix::Result<bool> {
    if signalled(signals)? {
        return Ok(true);
    }
    if buffered {
        return Ok(false);
    }
    let mut fds = [input, signals.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    poll(&mut fds, PollTimeout::NONE)?;
    Ok(!fds[0].any().unwrap_or(true))
}

/// Progress on a terminal as bars, elsewhere as a line a stage.
#[derive(Debug)]
pub(super) struct Display {
    terminal: bool,
    bar: Option<(String, ProgressBar)>,
}

impl Display {
    pub(super) fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), bar: None }
    }

    pub(super) fn show(&mut self, progress: &Progress) {
        if !self.terminal {
            if progress.done == progress.total {
                let unit = match progress.stage.as_str() {
                    lab::init::NETWORK | lab::init::APPS => "running",
                    stage => measure::unit(stage).unwrap_or("operations"),
                };
                output::note(&format!("{}: {} {unit}", progress.stage, progress.total));
            }
            return;
        }
        if self.bar.as_ref().is_none_or(|(stage, _)| *stage != progress.stage) {
            self.finish();
            self.bar = Some((progress.stage.clone(), bar(progress)));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_position(progress.done as u64);
        }
    }

    pub(super) fn finish(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn bar(progress: &Progress) -> ProgressBar {
    let bar = ProgressBar::new(progress.total as u64);
    let style = ProgressStyle::with_template("{msg:20} {bar:30} {pos}/{len} {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(progress.stage.clone());
    bar
}

fn report(lab: &Lab, plan: &Plan, timings: &Timings, args: &Args) -> Result<()> {
    if args.json {
        return output::json(&json!({
            "schema": "vilab.up/1",
            "lab": lab.name,
            "dataplanes": dataplanes(lab, plan),
            "why": plan.why,
            "nodes": lab.named_nodes().map(|n| node_json(lab, n.id)).collect::<Vec<_>>(),
            "timings": timings,
        }));
    }
    let rows: Vec<_> = lab.named_nodes().map(|n| node_row(lab, plan, n.id)).collect();
    let titles = ["network", "node", "address", "mtu", "base node", "dataplane"];
    table(&titles, &rows).iter().for_each(|line| output::note(line));
    output::note(&format!("\n{}", times(timings)));
    let on = carried_by(lab, plan);
    output::note(&format!("lab {} is up on {on}: {}", lab.name, plan.why));
    Ok(())
}

pub(super) fn dataplanes<'a>(lab: &'a Lab, plan: &'a Plan) -> BTreeMap<&'a str, crate::model::Dataplane> {
    lab.base().nodes.iter().map(|n| n.name.as_str()).zip(plan.dataplanes.iter().copied()).collect()
}

/// The dataplanes that carry virtual links, in words.
pub(super) fn carried_by(lab: &Lab, plan: &Plan) -> String {
    let virtual_nodes = lab.networks[1..].iter().flat_map(|n| &n.nodes);
    let used: std::collections::BTreeSet<&str> =
        virtual_nodes.filter_map(|n| plan.dataplanes.get(n.base.index)).map(|d| name(*d)).collect();
    let used: Vec<&str> = used.into_iter().collect();
    if used.is_empty() { "base only".to_owned() } else { used.join(" and ") }
}

fn node_json(lab: &Lab, id: NodeId) -> serde_json::Value {
    let node = lab.node(id);
    json!({
        "name": lab.full_name(id),
        "address": lab.address(id),
        "mtu": mtu(lab, id),
        "base": lab.node(node.base).name,
        "role": node.role,
    })
}

fn node_row(lab: &Lab, plan: &Plan, id: NodeId) -> Vec<String> {
    let node = lab.node(id);
    let dataplane = plan.dataplanes.get(node.base.index).map_or("", |d| name(*d));
    vec![
        lab.net(id.net).name.clone(),
        node.name.clone(),
        lab.address(id).map(|a| a.to_string()).unwrap_or_default(),
        mtu(lab, id).map(|m| m.to_string()).unwrap_or_default(),
        lab.node(node.base).name.clone(),
        dataplane.to_owned(),
    ]
}

/// The smallest of its interfaces.
pub(super) fn mtu(lab: &Lab, id: NodeId) -> Option<u32> {
    lab.node(id).ends.iter().map(|e| lab.link(e.link).mtu).min()
}

pub(super) fn name(dataplane: crate::model::Dataplane) -> &'static str {
    match dataplane {
        crate::model::Dataplane::Kernel => "kernel",
        crate::model::Dataplane::Fastpath => "fastpath",
    }
}

pub(super) fn times(timings: &Timings) -> String {
    let total: f64 = timings.iter().map(|t| t.ms).sum();
    let stages: Vec<String> = timings.iter().map(|t| format!("{} {}", t.stage, time(t.ms))).collect();
    format!("{} in {}", stages.join(", "), time(total))
}

pub(super) fn time(ms: f64) -> String {
    let time = Duration::from_secs_f64(ms / 1000.0);
    if ms < 1000.0 { format!("{ms:.0} ms") } else { format!("{:.2} s", time.as_secs_f64()) }
}
