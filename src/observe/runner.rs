//! Runs the tests of a lab in order. A [`Context`] goes in; a [`TestResult`] for each test comes out, with what was
//! expected and what was measured in words that stand side by side. It never leaves an action in force: all are
//! undone after the last test.

use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::actions::Actions;
use super::arrival::pass_time;
use super::exec::Exec;
use super::inject::Injection;
use super::ping::Ping;
use super::{Context, converge, exec, headers, inject, isolated, names, ping, routes, sizes, tcp, trace};
use crate::error::Result;
use crate::model::{Target, Test, TestKind};
use crate::routing::Faults;

/// Between attempts of a test with `within`: long enough not to load the lab, short beside any time asked for.
const PAUSE: Duration = Duration::from_millis(50);

/// What one test came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestResult {
    pub name: String,
    /// Line in the lab file, from 1.
    pub line: usize,
    pub passed: bool,
    /// The test asks that `expected` is not what is measured.
    pub not: bool,
    /// Rows of text; [`TestResult::table`] shows them beside those measured.
    pub expected: Vec<String>,
    pub measured: Vec<String>,
    /// In JSON: milliseconds.
    #[serde(rename = "elapsed_ms", serialize_with = "as_millis", deserialize_with = "from_millis")]
    pub elapsed: Duration,
}

pub(super) fn as_millis<S: Serializer>(time: &Duration, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_f64(time.as_secs_f64() * 1000.0)
}

fn from_millis<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Duration, D::Error> {
    let seconds = f64::deserialize(from)? / 1000.0;
    Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom)
}

/// The lab as a test has left it: what actions did is in force.
#[derive(Debug)]
pub struct Moment<'a> {
    pub context: &'a Context<'a>,
    /// What is down.
    pub faults: &'a Faults,
    /// `None` where it was the undoing.
    pub test: Option<&'a Test>,
}

/// Whether what a test says holds now, and both sides in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) holds: bool,
    pub(crate) expected: Vec<String>,
    pub(crate) measured: Vec<String>,
}

impl Verdict {
    pub(crate) fn of(holds: bool, expected: String, measured: String) -> Self {
        Self { holds, expected: vec![expected], measured: vec![measured] }
    }

    /// Holds only if `other` does too.
    pub(crate) fn and(&mut self, other: Self) {
        self.holds &= other.holds;
        self.expected.extend(other.expected);
        self.measured.extend(other.measured);
    }
}

/// Runs all tests of the lab; `on_result` hears of each as it ends, and may look at the lab. Failures are results, not
/// errors. If the actions cannot be undone, a last failed result says so.
pub fn run_tests(ctx: &Context<'_>, on_result: &mut dyn FnMut(&TestResult, &Moment<'_>)) -> Vec<TestResult> {
    let mut actions = Actions::new(ctx);
    let mut results = Vec::new();
    // With the impairments as tests have left them: probes need time for them.
    let mut lab = ctx.lab.clone();
    for test in &ctx.lab.tests {
        let result = run(&Context { lab: &lab, ..ctx.clone() }, &mut actions, test);
        if let TestKind::Impair { link, to } = &test.kind {
            lab.networks[link.net.0].links[link.index].impair = *to;
        }
        let context = &Context { lab: &lab, ..ctx.clone() };
        on_result(&result, &Moment { context, faults: actions.faults(), test: Some(test) });
        results.push(result);
    }
    let start = Instant::now();
    if let Err(e) = actions.undo() {
        let result = TestResult {
            name: "undo all actions".into(),
            line: ctx.lab.tests.last().map_or(1, |t| t.line),
            passed: false,
            not: false,
            expected: vec!["all links as before".into()],
            measured: e.to_string().lines().map(str::to_owned).collect(),
            elapsed: start.elapsed(),
        };
        on_result(&result, &Moment { context: ctx, faults: &Faults::default(), test: None });
        results.push(result);
    }
    results
}

fn run(ctx: &Context<'_>, actions: &mut Actions<'_>, test: &Test) -> TestResult {
    let start = Instant::now();
    let until = start + Duration::from_millis(test.within_ms.unwrap_or(0));
    let (passed, verdict) = loop {
        let (decided, verdict) = attempt(ctx, actions, test, until);
        let passed = decided && verdict.holds != test.not;
        if passed || Instant::now() >= until || pass_time((Instant::now() + PAUSE).min(until)).is_err() {
            break (passed, verdict);
        }
    };
    TestResult {
        name: test.name.clone(),
        line: test.line,
        passed,
        not: test.not,
        expected: verdict.expected,
        measured: verdict.measured,
        elapsed: start.elapsed(),
    }
}

/// A test that could not be carried out is undecided: neither it nor its contrary holds.
fn attempt(ctx: &Context<'_>, actions: &mut Actions<'_>, test: &Test, until: Instant) -> (bool, Verdict) {
    match judge(ctx, actions, test, until) {
        Ok(verdict) => (true, verdict),
        Err(e) => {
            let measured = e.to_string().lines().map(str::to_owned).collect();
            (false, Verdict { holds: false, expected: vec![test.name.clone()], measured })
        }
    }
}

/// How long `converged` waits, which hears of every change by itself: as `up` does, unless the test says how long or
/// that it must not be so.
fn patience(ctx: &Context<'_>, test: &Test, until: Instant) -> Duration {
    match test.within_ms {
        Some(_) if !test.not => until.saturating_duration_since(Instant::now()),
        None if !test.not => converge::patience(ctx.lab),
        _ => Duration::ZERO,
    }
}

fn judge(ctx: &Context<'_>, actions: &mut Actions<'_>, test: &Test, until: Instant) -> Result<Verdict> {
    match &test.kind {
        TestKind::Ping { pairs, count, size, df } => {
            ping::ping(ctx, &Ping { pairs, count: *count, size: *size, df: *df })
        }
        TestKind::Isolated { networks } => isolated::test(ctx, actions.faults(), networks),
        TestKind::Trace { from, to, hops } => trace::test(ctx, *from, *to, hops),
        TestKind::Ttl { from, to, is } => ping::ttl(ctx, *from, *to, *is),
        TestKind::Headers { from, to, at, is } => headers::test(ctx, *from, *to, *at, is),
        TestKind::Depth { net, headers, mtu } => sizes::depth(ctx, *net, *headers, *mtu),
        TestKind::Mtu { from, to, is } => sizes::mtu(ctx, *from, *to, *is),
        TestKind::Inject { at, stack, to, delivered, by, strong_host } => {
            let by = by.as_deref();
            let (at, to, delivered, strong_host) = (*at, *to, *delivered, *strong_host);
            inject::test(ctx, &Injection { at, stack, to, delivered, by, strong_host })
        }
        TestKind::Tcp { from, to, at_least_bps } => tcp::test(ctx, *from, *to, *at_least_bps),
        TestKind::Exec { at, argv, stdout, status } => {
            exec::test(ctx, &Exec { at: *at, argv, stdout: stdout.as_deref(), status: *status })
        }
        TestKind::Source { from, to, is } => routes::source(ctx, *from, *to, *is),
        TestKind::Route { node, to, via } => routes::route(ctx, *node, *to, via),
        TestKind::Converged => routes::converged(ctx, actions.faults(), patience(ctx, test, until)),
        TestKind::Impair { link, to } => actions.impair(*link, to).map(|()| {
            let name = words(ctx, Target::Link(*link));
            let to = to.map(|i| i.to_string()).join(" forward, backward ");
            Verdict::of(true, format!("{name}: {to}"), format!("{name}: {to}"))
        }),
        TestKind::Down(target) => actions.down(*target).map(|()| done(ctx, *target, "down")),
        TestKind::Up(target) => actions.up(*target).map(|()| done(ctx, *target, "up")),
        TestKind::Wait(ms) => {
            pass_time(Instant::now() + Duration::from_millis(*ms))?;
            Ok(Verdict::of(true, format!("{ms} ms pass"), format!("{ms} ms pass")))
        }
    }
}

fn done(ctx: &Context<'_>, target: Target, state: &str) -> Verdict {
    let name = words(ctx, target);
    Verdict::of(true, format!("{name} {state}"), format!("{name} {state}"))
}

fn words(ctx: &Context<'_>, target: Target) -> String {
    match target {
        Target::Link(link) => format!("link {} of {}", ctx.lab.link(link).name, ctx.lab.place(link)),
        Target::Node(node) => ctx.lab.full_name(node),
    }
}

impl TestResult {
    /// Expected and measured side by side under a line of titles, rows that differ marked with `!`.
    #[must_use]
    pub fn table(&self) -> Vec<String> {
        let title = if self.not { "must not be" } else { "expected" };
        names::side_by_side(title, &self.expected, &self.measured)
    }
}
