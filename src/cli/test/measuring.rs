//! The process that measures. It joins the lab's namespaces, so it is one of its own; what to test comes on its standard
//! input, each result leaves as one line of JSON. It ends with whoever started it.

use std::io::Write;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::evidence;
use super::outcome::Check;
use crate::cli::measure;
use crate::error::{Context, Kind, Result};
use crate::lab::Running;
use crate::model::{Lab, Test};
use crate::observe::{self, Cause, Moment, TestResult};

/// Failures that are looked into: a probe that is lost takes its time.
const EXPLAINED: usize = 3;

/// The subcommand under which [`run`] is started.
pub(in crate::cli) const TESTER: &str = "lab-tester";

/// What is to be measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Order {
    /// Other tests than the lab's own. They come this way and not with the lab, whose own processes could read them there.
    pub(super) tests: Option<Vec<Test>>,
    /// What to gather when the first test fails.
    pub(super) evidence: Option<Evidence>,
    /// Whether what explains a failure may be told.
    pub(super) explain: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Evidence {
    /// Of the lab alone, not of what the test was about.
    Lab,
    LabAndTest,
}

/// What it tells.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Told {
    Check(Check),
    /// Names and contents of files.
    Evidence(Vec<(String, String)>),
}

/// Runs tests on lab `name`.
pub(in crate::cli) fn run(name: &str) -> Result<()> {
    let what = || "cannot prepare to measure".to_owned();
    prctl::set_pdeathsig(Signal::SIGKILL).doing(Kind::Environment, what)?;
    let order: Order = serde_json::from_reader(std::io::stdin()).doing(Kind::Bug, what)?;
    let running = Running::open(name)?;
    running.join()?;
    measure::with_context(&running, |context| {
        let own = context.lab;
        let lab = order.tests.map(|tests| Lab { tests, ..own.clone() });
        let context = observe::Context { lab: lab.as_ref().unwrap_or(own), ..context.clone() };
        let (mut wanted, explain, mut explained) = (order.evidence, order.explain, 0);
        observe::run_tests(&context, &mut |result, moment| {
            let mut check = check(result);
            if explain && !result.passed && !result.not && explained < EXPLAINED {
                explained += 1;
                check.causes = evidence::causes(moment, &|| services(&running));
            }
            tell(&Told::Check(check));
            if let Some(wanted) = wanted.take_if(|_| !result.passed) {
                tell(&Told::Evidence(gather(wanted, moment)));
            }
        });
    });
    Ok(())
}

/// What the lab needs and what does not run.
fn services(running: &Running) -> Vec<Cause> {
    let services = running.init().and_then(|mut init| init.services()).unwrap_or_default();
    observe::down_services(&running.state().lab, &services)
}

fn check(result: &TestResult) -> Check {
    Check {
        name: result.name.clone(),
        line: Some(result.line),
        passed: result.passed,
        not: result.not,
        expected: result.expected.clone(),
        measured: result.measured.clone(),
        causes: Vec::new(),
        elapsed_ms: result.elapsed.as_secs_f64() * 1000.0,
        points: None,
        hidden: false,
    }
}

fn tell(told: &Told) {
    if let Ok(text) = serde_json::to_string(told) {
        // Who does not listen has gone, and this process with it.
        let _unheard = writeln!(std::io::stdout(), "{text}");
    }
}

fn gather(wanted: Evidence, moment: &Moment<'_>) -> Vec<(String, String)> {
    let mut files = evidence::of_lab(moment);
    if wanted == Evidence::LabAndTest {
        files.extend(evidence::of_test(moment));
    }
    files
}

impl Order {
    /// As the process reads it.
    pub(super) fn text(&self) -> Result<String> {
        serde_json::to_string(self).doing(Kind::Bug, || "cannot write what is to be measured".into())
    }
}

impl Told {
    pub(super) fn read(line: &str) -> Result<Self> {
        serde_json::from_str(line).doing(Kind::Bug, || "cannot read what was measured".into())
    }
}
