//! One lab from its file to its end. A file goes in; an [`Outcome`] comes out. The lab is brought up for its tests under a
//! name of its own and ends with them, whatever happens, unless it is to be kept when they fail: until then it is never
//! committed.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signalfd::SignalFd;
use serde_json::json;

use super::bundle::{Bundle, Bundles, REPORT};
use super::measuring::{Evidence, Order, TESTER, Told};
use super::outcome::{Check, Outcome};
use super::pool::Said;
use super::room::{self, Room};
use super::sheet::Sheet;
use super::{report, screen};
use crate::apply::Progress;
use crate::cli::params::ParamArgs;
use crate::cli::plan;
use crate::cli::up::{self, Coming, DataplaneArg};
use crate::error::{Context, Error, Kind, Result};
use crate::lab::{self, Job, Running, Starting, logs};
use crate::model::{Expectations, Lab};
use crate::observe::doctor::{self, Outline};
use crate::process;
use crate::routing::Rib;

/// What all labs of a run share.
#[derive(Debug)]
pub(super) struct Sessions<'a> {
    pub(super) params: &'a ParamArgs,
    pub(super) dataplane: &'a DataplaneArg,
    pub(super) patience: Option<Duration>,
    /// What to test instead of the labs' own tests.
    pub(super) expectations: Option<&'a Expectations>,
    pub(super) reveal: bool,
    pub(super) keep: bool,
    pub(super) bundles: Option<&'a Bundles>,
    pub(super) room: &'a Room,
    pub(super) signals: &'a SignalFd,
}

/// One lab.
struct Session<'a> {
    all: &'a Sessions<'a>,
    /// Its number, which no other lab of this process has.
    number: usize,
    bundle: Option<Bundle>,
    outcome: Outcome,
    say: &'a mut dyn FnMut(Said),
}

impl Sessions<'_> {
    /// Tests lab `number`, of `file`.
    pub(super) fn run(&self, number: usize, file: &Path, say: &mut dyn FnMut(Said)) -> Outcome {
        let worth = self.expectations.map(Expectations::points);
        let outcome = Outcome { file: file.to_owned(), worth, ..Outcome::default() };
        let bundle = self.bundles.and_then(|bundles| bundles.of(number));
        let start = Instant::now();
        let mut session = Session { all: self, number, bundle, outcome, say };
        session.outcome.error = session.test(file).err();
        session.outcome.elapsed = start.elapsed();
        session.close();
        session.outcome
    }
}

impl Session<'_> {
    fn test(&mut self, file: &Path) -> Result<()> {
        if self.is_interrupted()? {
            return Ok(());
        }
        let mut lab = lab::load_to_run(file, &self.all.params.params, None)?;
        self.outcome.lab = Some(lab.name.clone());
        self.all.dataplane.apply(&mut lab);
        let mut sheet = Sheet::default();
        if let Some(expectations) = self.all.expectations {
            check_apps(&lab, expectations)?;
            lab.tests.clear();
            sheet = Sheet::new(expectations.bind(&lab), self.all.reveal);
        }
        let _place = self.all.room.enter(room::size(&lab));
        let (job, outline) = self.job(file, lab)?;
        let say = &mut *self.say;
        let coming = up::come_up(&job, self.all.signals, &mut |progress| say(Said::Stage(progress.clone())))?;
        drop(outline);
        match coming {
            Coming::Interrupted => self.outcome.interrupted = true,
            Coming::Ready(starting, _) => self.judge(starting, &job.lab, &mut sheet)?,
        }
        Ok(())
    }

    fn is_interrupted(&mut self) -> Result<bool> {
        let signalled = up::signalled(self.all.signals);
        self.outcome.interrupted = signalled.doing(Kind::Bug, || "cannot look for signals".into())?;
        Ok(self.outcome.interrupted)
    }

    fn job(&mut self, file: &Path, lab: Lab) -> Result<(Job, Outline)> {
        let outline = doctor::outline(&lab)?;
        let (plan, machine) = (&outline.plan, outline.machine.clone());
        self.outcome.carried_by = up::carried_by(&lab, plan);
        self.outcome.dataplanes = Some(json!(up::dataplanes(&lab, plan)));
        self.outcome.why = Some(plan.why.clone());
        (self.say)(Said::Begun(screen::head(&self.outcome)));
        if let Some(bundle) = &self.bundle {
            // Taken away again where all passes.
            let plan = crate::plan::build(&lab, &Rib::compute(&lab), &machine)?;
            bundle.write("plan.txt", plan::text(&plan).as_bytes())?;
        }
        let path = lab::whereabouts(file);
        let name = instance(&lab.name, self.number);
        let lab = Lab { name, ..lab };
        Ok((Job { file: path, lab, machine, patience: self.all.patience, capture: None }, outline))
    }

    /// Has the lab measured, then ends it.
    fn judge(&mut self, starting: Starting, lab: &Lab, sheet: &mut Sheet) -> Result<()> {
        let heard = self.measure(lab, sheet);
        let failed = heard.is_err() || self.outcome.checks.iter().any(|c| !c.passed);
        let logs = match &self.bundle {
            Some(bundle) if failed => save_logs(&lab.name, bundle),
            _ => Ok(()),
        };
        if failed && self.all.keep && !self.outcome.interrupted {
            starting.commit()?;
            self.outcome.kept = Some(lab.name.clone());
        } else {
            starting.abandon();
        }
        heard.and(logs)
    }

    /// Lets a process of its own measure, for it must join the lab's user namespace.
    fn measure(&mut self, lab: &Lab, sheet: &mut Sheet) -> Result<()> {
        let what = || "cannot start measuring".to_owned();
        let order = Order { tests: sheet.tests(), evidence: self.evidence(), explain: !self.hides() };
        let order = order.text()?;
        let mut child = process::myself(&format!("vilab: tests of {}", lab.name), TESTER)
            .arg(&lab.name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .doing(Kind::Environment, what)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A child that ended early says more by its status.
            let _broken_pipe = stdin.write_all(order.as_bytes());
        }
        let total = sheet.count().unwrap_or(lab.tests.len());
        let heard = self.listen(&mut child, sheet, total);
        // Dead or about to be: it ends with its output.
        let _gone = if heard.is_ok() && !self.outcome.interrupted { Ok(()) } else { child.kill() };
        let status = child.wait().doing(Kind::Environment, || "cannot wait for the measuring".into())?;
        heard?;
        match self.outcome.interrupted || status.success() {
            true => Ok(()),
            false => Err(Error::bug("the measuring process failed").because(status)),
        }
    }

    /// Whether nothing may be told of what is tested.
    fn hides(&self) -> bool {
        self.all.expectations.is_some() && !self.all.reveal
    }

    fn evidence(&self) -> Option<Evidence> {
        self.bundle.as_ref().map(|_| if self.hides() { Evidence::Lab } else { Evidence::LabAndTest })
    }

    /// Hears every verdict until the end, or until a signal comes.
    fn listen(&mut self, child: &mut Child, sheet: &mut Sheet, total: usize) -> Result<()> {
        let what = || "cannot hear what is measured".to_owned();
        let stdout = child.stdout.take().ok_or_else(|| Error::bug(what()))?;
        let mut lines = BufReader::new(stdout);
        loop {
            let came = up::interrupts(lines.get_ref().as_fd(), !lines.buffer().is_empty(), self.all.signals);
            self.outcome.interrupted = came.doing(Kind::Environment, what)?;
            let mut line = String::new();
            if self.outcome.interrupted {
                return Ok(());
            }
            if lines.read_line(&mut line).doing(Kind::Environment, what)? == 0 {
                sheet.rest().into_iter().for_each(|check| self.note(check, total));
                return Ok(());
            }
            match Told::read(&line)? {
                Told::Check(check) => {
                    sheet.enter(check).into_iter().for_each(|check| self.note(check, total));
                }
                Told::Evidence(files) => self.save(&files)?,
            }
        }
    }

    fn note(&mut self, check: Check, total: usize) {
        (self.say)(Said::Check(Box::new(check.clone())));
        self.outcome.checks.push(check);
        let done = self.outcome.checks.len();
        (self.say)(Said::Stage(Progress { stage: "tests".into(), done, total: total.max(done) }));
    }

    fn save(&self, files: &[(String, String)]) -> Result<()> {
        let Some(bundle) = &self.bundle else { return Ok(()) };
        files.iter().try_for_each(|(name, text)| bundle.write(name, text.as_bytes()))
    }

    /// Completes the bundle of a lab that failed, takes away that of one that did not.
    fn close(&mut self) {
        let Some(bundle) = self.bundle.take() else { return };
        if self.outcome.passed() || self.outcome.interrupted {
            // What cannot be taken away does no harm.
            let _stays = fs::remove_dir_all(bundle.dir());
            return;
        }
        match self.complete(&bundle) {
            Ok(()) => self.outcome.bundle = Some(bundle.dir().to_owned()),
            Err(e) => drop(self.outcome.error.get_or_insert(e)),
        }
    }

    fn complete(&self, bundle: &Bundle) -> Result<()> {
        let file = &self.outcome.file;
        if let Ok(text) = fs::read(file) {
            bundle.write("lab.yaml", &text)?;
        }
        if let Ok(flat) = lab::flat(file, &self.all.params.params) {
            bundle.write("flat.yaml", flat.as_bytes())?;
        }
        let report = serde_json::to_vec_pretty(&report::json(std::slice::from_ref(&self.outcome)));
        bundle.write("report.json", &report.doing(Kind::Bug, || "cannot write JSON".into())?)?;
        bundle.write(REPORT, screen::text(&self.outcome).as_bytes())
    }
}

/// Apps run as the user who tests, who in general is not the one who wrote them.
fn check_apps(lab: &Lab, expectations: &Expectations) -> Result<()> {
    match lab.apps.as_slice() {
        [first, ..] if !expectations.allows_apps() => {
            let title = format!(
                "the lab runs programs (`apps:`, such as `{}`), which is not allowed here",
                first.name
            );
            let hint = "they would run as you; `apps: true` in the file of expectations allows them";
            Err(Error::new(Kind::LabFile, title).hint(hint))
        }
        _ => Ok(()),
    }
}

/// A name that no other lab has, so that tests disturb nothing that is up.
fn instance(name: &str, number: usize) -> String {
    format!("{name}-test-{}-{}", std::process::id(), number + 1)
}

/// Copies what the lab's services and its own processes printed.
fn save_logs(name: &str, bundle: &Bundle) -> Result<()> {
    let running = Running::open(name)?;
    let what = || format!("cannot read the logs of lab {name}");
    let entries = fs::read_dir(running.logs()).map(|d| d.flatten().map(|e| e.path()).collect::<Vec<_>>());
    let mut files = entries.unwrap_or_default();
    files.push(running.log());
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // An older half comes with its newer one.
        if !name.ends_with('~') {
            let (text, _) = logs::tail(&file, None).doing(Kind::Environment, what)?;
            bundle.write(&format!("logs/{name}"), &text)?;
        }
    }
    Ok(())
}
