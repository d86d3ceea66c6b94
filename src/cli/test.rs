//! `vilab test`. Lab files go in; a verdict for each of their tests comes out. Each lab is brought up for its tests
//! under a name of its own and ends with them, whatever happens: it is never committed.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::params::ParamArgs;
use super::up::{Coming, DataplaneArg};
use super::wait::TimeoutArg;
use super::{DONE, FAILED, code, measure, output, up};
use crate::error::{Context, Error, Kind, Result};
use crate::lab::{self, Job, Running, Starting};
use crate::model::Lab;
use crate::{observe, process};

/// The subcommand under which [`measure`] is started.
pub(super) const TESTER: &str = "lab-tester";

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  vilab test labs/*.yaml")]
pub(super) struct Args {
    /// The lab files
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    params: ParamArgs,
    #[command(flatten)]
    dataplane: DataplaneArg,
    #[command(flatten)]
    timeout: TimeoutArg,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

/// One test's verdict, as the process that measures tells it.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    passed: bool,
    name: String,
    line: usize,
    elapsed_ms: f64,
    /// The whole result.
    result: Value,
    /// Expected and measured side by side.
    table: Vec<String>,
}

/// What became of one file.
struct Outcome {
    file: PathBuf,
    told: Vec<Told>,
    plan: Option<(String, Value)>,
    error: Option<Error>,
    /// The signal that ended it.
    interrupted: Option<u8>,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let signals = up::interruptions()?;
    let mut outcomes: Vec<Outcome> = Vec::new();
    for file in &args.files {
        let outcome = test(file, args, &signals);
        if let Some(error) = &outcome.error {
            output::error(error);
        }
        let interrupted = outcome.interrupted;
        outcomes.push(outcome);
        if let Some(signal) = interrupted {
            return Ok(up::interrupted(signal));
        }
    }
    if args.json {
        output::json(&as_json(&outcomes))?;
    } else {
        summary(&outcomes);
    }
    Ok(exit_code(&outcomes))
}

fn test(file: &Path, args: &Args, signals: &SignalFd) -> Outcome {
    let mut outcome =
        Outcome { file: file.to_owned(), told: Vec::new(), plan: None, error: None, interrupted: None };
    outcome.error = try_test(file, args, signals, &mut outcome).err();
    outcome
}

fn try_test(file: &Path, args: &Args, signals: &SignalFd, outcome: &mut Outcome) -> Result<()> {
    let mut lab = lab::load_to_run(file, &args.params.params, None)?;
    args.dataplane.apply(&mut lab);
    let plan = up::plan(&lab)?;
    outcome.plan = Some((plan.why.clone(), json!(up::dataplanes(&lab, &plan))));
    if !args.json {
        output::line(&format!("{} on {}: {}", file.display(), up::carried_by(&lab, &plan), plan.why));
    }
    let path = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let job = Job {
        file: path,
        lab: Lab { name: instance(&lab.name), ..lab },
        plan,
        patience: args.timeout.timeout,
    };
    match up::come_up(&job, signals)? {
        Coming::Interrupted(signal) => {
            outcome.interrupted = Some(signal);
            Ok(())
        }
        Coming::Ready(starting, _) => judge(starting, &job.lab.name, args.json, signals, outcome),
    }
}

/// A name that no lab of another process has, so that tests disturb nothing that is up.
fn instance(name: &str) -> String {
    format!("{name}-test-{}", std::process::id())
}

/// Lets a process of its own measure, for it must join the lab's user namespace; then ends the lab.
fn judge(
    starting: Starting,
    name: &str,
    quiet: bool,
    signals: &SignalFd,
    outcome: &mut Outcome,
) -> Result<()> {
    let spawned = process::myself(&format!("vilab: tests of {name}"), TESTER)
        .arg(name)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .doing(Kind::Environment, || "cannot start measuring".into());
    let heard = spawned.and_then(|mut child| {
        let heard = listen(&mut child, signals, &mut |told| {
            if !quiet {
                show(&told);
            }
            outcome.told.push(told);
        });
        // Dead or about to be: it ends with its output.
        let _gone = if heard.as_ref().is_ok_and(Option::is_none) { Ok(()) } else { child.kill() };
        let status = child.wait().doing(Kind::Environment, || "cannot wait for the measuring".into())?;
        let heard = heard?;
        match heard.is_some() || status.success() {
            true => Ok(heard),
            false => Err(Error::bug("the measuring process failed").because(status)),
        }
    });
    starting.abandon();
    outcome.interrupted = heard?;
    Ok(())
}

/// Hears every verdict until the end, or gives the signal that came.
fn listen(child: &mut Child, signals: &SignalFd, hear: &mut dyn FnMut(Told)) -> Result<Option<u8>> {
    let what = || "cannot hear what is measured".to_owned();
    let stdout = child.stdout.take().ok_or_else(|| Error::bug(what()))?;
    let mut lines = BufReader::new(stdout);
    loop {
        if let Some(signal) = await_line(&lines, signals).doing(Kind::Environment, what)? {
            return Ok(Some(signal));
        }
        let mut line = String::new();
        if lines.read_line(&mut line).doing(Kind::Environment, what)? == 0 {
            return Ok(None);
        }
        hear(serde_json::from_str(&line).doing(Kind::Bug, what)?);
    }
}

fn await_line(lines: &BufReader<ChildStdout>, signals: &SignalFd) -> nix::Result<Option<u8>> {
    loop {
        if let Some(signal) = up::signalled(signals)? {
            return Ok(Some(signal));
        }
        if !lines.buffer().is_empty() {
            return Ok(None);
        }
        let mut fds = [
            PollFd::new(lines.get_ref().as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut fds, PollTimeout::NONE)?;
        if fds[0].any().unwrap_or(true) {
            return Ok(None);
        }
    }
}

/// The measuring process: runs the tests of lab `name` and tells each verdict as one line of JSON.
pub(super) fn measure(name: &str) -> Result<()> {
    let what = || "cannot prepare to measure".to_owned();
    prctl::set_pdeathsig(Signal::SIGKILL).doing(Kind::Environment, what)?;
    let running = Running::open(name)?;
    running.join()?;
    measure::with_context(&running, |context| {
        observe::run_tests(context, &mut |result| {
            let told = Told {
                passed: result.passed,
                name: result.name.clone(),
                line: result.line,
                elapsed_ms: result.elapsed.as_secs_f64() * 1000.0,
                result: serde_json::to_value(result).unwrap_or(Value::Null),
                table: result.table(),
            };
            if let Ok(text) = serde_json::to_string(&told) {
                // Who does not listen has gone, and this process with it.
                let _unheard = writeln!(std::io::stdout(), "{text}");
            }
        });
    });
    Ok(())
}

fn show(told: &Told) {
    if told.passed {
        return output::line(&format!("  ok    {} ({})", told.name, up::time(told.elapsed_ms)));
    }
    output::line(&format!("  FAIL  {} (line {}, {})", told.name, told.line, up::time(told.elapsed_ms)));
    told.table.iter().for_each(|row| output::line(&format!("          {row}")));
}

fn summary(outcomes: &[Outcome]) {
    let tests: usize = outcomes.iter().map(|o| o.told.len()).sum();
    let held = outcomes.iter().flat_map(|o| &o.told).filter(|t| t.passed).count();
    let broken = outcomes.iter().filter(|o| o.error.is_some()).count();
    let labs = outcomes.len();
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    let mut text = format!("{held} of {tests} test{} of {labs} lab{} passed", plural(tests), plural(labs));
    if broken > 0 {
        text += &format!("; {broken} lab{} could not be tested", plural(broken));
    }
    output::line(&text);
}

fn as_json(outcomes: &[Outcome]) -> Value {
    let lab = |outcome: &Outcome| {
        json!({
            "file": outcome.file,
            "passed": outcome.error.is_none() && outcome.told.iter().all(|t| t.passed),
            "error": outcome.error.as_ref().map(ToString::to_string),
            "why": outcome.plan.as_ref().map(|(why, _)| why),
            "dataplanes": outcome.plan.as_ref().map(|(_, dataplanes)| dataplanes),
            "tests": outcome.told.iter().map(|t| &t.result).collect::<Vec<_>>(),
        })
    };
    let labs: Vec<Value> = outcomes.iter().map(lab).collect();
    json!({ "schema": "vilab.test/1", "passed": exit_code(outcomes) == DONE, "labs": labs })
}

/// 1 if a test failed, else that of the first error.
fn exit_code(outcomes: &[Outcome]) -> u8 {
    if outcomes.iter().flat_map(|o| &o.told).any(|t| !t.passed) {
        return FAILED;
    }
    outcomes.iter().find_map(|o| o.error.as_ref().map(code)).unwrap_or(DONE)
}
