//! The items of `tests:`. Trees go in; [`TestSpec`]s with unbound names come out. It never runs anything.

use super::apps::command;
use super::diag::{Diagnostic, Span, Spanned};
use super::fields::{Errors, Fields, boolean, choice, list, name, number, text};
use super::impair;
use super::units::{duration_ms, rate_bps};
use super::yaml::{Tree, Value};
use crate::model::Impairment;

/// The counters of dropped packets, as `by:` names them.
pub const DROPPED_BY: [&str; 29] = [
    "strong-host",
    "no-tunnel",
    "no-link",
    "not-ipip",
    "not-ipv4",
    "truncated",
    "bad-length",
    "bad-checksum",
    "fragment",
    "reassembly",
    "ecn-ce",
    "esp-auth",
    "esp-replay",
    "esp-malformed",
    "esp-required",
    "esp-unexpected",
    "esp-sequence",
    "link-down",
    "no-route",
    "too-big",
    "too-deep",
    "self-transit",
    "base-unreachable",
    "rx-overrun",
    "tx-overrun",
    "tx-error",
    "tun-error",
    "impaired-loss",
    "shaped-overflow",
];

/// A test or action, names not bound.
#[derive(Debug, Clone, PartialEq)]
pub struct TestSpec {
    pub span: Span,
    pub name: Option<String>,
    pub within_ms: Option<u64>,
    pub not: bool,
    pub kind: TestKindSpec,
}

/// What must hold of any lab: a file of `tests:` apart from the lab's own.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpectSpec {
    pub description: Option<String>,
    /// The labs may have `apps:`, which run as the user who tests them.
    pub apps: bool,
    pub tests: Vec<GradedSpec>,
}

/// A test and what it is worth.
#[derive(Debug, Clone, PartialEq)]
pub struct GradedSpec {
    pub points: Option<u32>,
    pub test: TestSpec,
}

/// `from -> to`
#[derive(Debug, Clone, PartialEq)]
pub struct PairSpec {
    pub from: Spanned<String>,
    pub to: Spanned<String>,
}

/// A row of `headers: is:`
#[derive(Debug, Clone, PartialEq)]
pub struct RowSpec {
    pub inward: bool,
    pub neighbour: Spanned<String>,
    pub base: Option<PairSpec>,
    pub link: Option<PairSpec>,
    pub net: Option<PairSpec>,
    pub stack: Option<Vec<PairSpec>>,
}

/// `inject:`
#[derive(Debug, Clone, PartialEq)]
pub struct InjectSpec {
    pub at: Spanned<String>,
    pub stack: Vec<PairSpec>,
    pub delivered: bool,
    pub by: Option<String>,
    pub strong_host: bool,
}

/// `exec:`
#[derive(Debug, Clone, PartialEq)]
pub struct ExecSpec {
    pub at: Spanned<String>,
    /// Program and arguments; not empty.
    pub run: Vec<String>,
    /// Pattern of standard output, `*` standing for anything.
    pub stdout: Option<String>,
    /// Exit status.
    pub status: u8,
}

#[derive(Debug, Clone, PartialEq)]
pub enum TestKindSpec {
    Ping { pair: PairSpec, count: u32, size: Option<u32>, df: bool },
    PingAll(Spanned<String>),
    Isolated(Vec<Spanned<String>>),
    Trace { pair: PairSpec, hops: Vec<Spanned<String>> },
    Ttl { pair: PairSpec, is: u8 },
    Headers { pair: PairSpec, at: Spanned<String>, is: Vec<RowSpec> },
    Depth { vi: Spanned<String>, headers: usize, mtu: Option<u32> },
    Mtu { pair: PairSpec, is: u32 },
    Inject(InjectSpec),
    Source { pair: PairSpec, is: Spanned<String> },
    Route { node: Spanned<String>, to: Spanned<String>, via: Vec<Spanned<String>> },
    Tcp { pair: PairSpec, at_least_bps: Option<u64> },
    Exec(ExecSpec),
    Converged,
    Impair { link: Spanned<String>, to: [Impairment; 2] },
    Down(Spanned<String>),
    Up(Spanned<String>),
    Wait(u64),
}

impl TestKindSpec {
    /// It does something to the lab, and says nothing about it.
    #[must_use]
    pub fn is_action(&self) -> bool {
        matches!(self, Self::Impair { .. } | Self::Down(_) | Self::Up(_) | Self::Wait(_))
    }
}

pub(super) const KINDS: [&str; 17] = [
    "ping",
    "isolated",
    "trace",
    "ttl",
    "headers",
    "depth",
    "mtu",
    "source",
    "route",
    "tcp",
    "exec",
    "inject",
    "converged",
    "down",
    "up",
    "impair",
    "wait",
];

/// Reads a file of expectations.
pub(super) fn expectations(tree: &Tree, errors: &mut Errors) -> Option<ExpectSpec> {
    let mut fields = Fields::new(tree, "a file of expectations", errors)?;
    let description = fields.take("description").and_then(|t| text(t, "`description`", errors));
    let apps = fields.take("apps").and_then(|t| boolean(t, "`apps`", errors)).unwrap_or(false);
    let tests = fields.require("tests", errors).map(|t| list(t, "`tests`", errors));
    // Expansion has used it up: it is named so that it can be meant.
    let _expanded = fields.take("params");
    fields.finish(errors);
    if tests.is_some_and(<[Tree]>::is_empty) {
        errors.push(Diagnostic::new("test", tree.span, "the file expects nothing: `tests:` has no items"));
    }
    let tests = tests.unwrap_or_default().iter().filter_map(|t| graded(t, errors)).collect();
    Some(ExpectSpec { description: description.map(|d| d.value), apps, tests })
}

/// Reads one item of the `tests:` of a file of expectations.
fn graded(tree: &Tree, errors: &mut Errors) -> Option<GradedSpec> {
    let mut fields = Fields::new(tree, "a test", errors)?;
    let points = fields.take("points").and_then(|t| number(t, "`points`", 0..=10_000, errors));
    Some(GradedSpec { points, test: item(tree, fields, errors)? })
}

/// Reads one item of `tests:`.
pub(super) fn test(tree: &Tree, errors: &mut Errors) -> Option<TestSpec> {
    let fields = Fields::new(tree, "a test", errors)?;
    item(tree, fields, errors)
}

fn item(tree: &Tree, mut fields: Fields<'_>, errors: &mut Errors) -> Option<TestSpec> {
    let name = fields.take("name").and_then(|t| text(t, "`name`", errors)).map(|s| s.value);
    let within_ms = fields.take("within").and_then(|t| duration_ms(t, "`within`", errors));
    let not = fields.take("not").and_then(|t| boolean(t, "`not`", errors)).unwrap_or(false);
    let mut found: Vec<(&'static str, Span, &Tree)> = Vec::new();
    for kind in KINDS {
        found.extend(fields.take_key(kind).map(|(span, value)| (kind, span, value)));
    }
    let errors_before = errors.len();
    fields.finish(errors);
    let [(kind, _, value)] = found.as_slice() else {
        if let Some((_, second, _)) = found.get(1) {
            errors.push(Diagnostic::new("test", *second, "one item of `tests:` is one test"));
        } else if errors.len() == errors_before {
            let help = format!("one of: {}", KINDS.join(", "));
            errors.push(Diagnostic::new("test", tree.span, "this says not what to test").help(help));
        }
        return None;
    };
    let kind = kind_spec(kind, value, errors)?;
    Some(TestSpec { span: tree.span, name, within_ms, not, kind })
}

fn kind_spec(kind: &str, tree: &Tree, errors: &mut Errors) -> Option<TestKindSpec> {
    match kind {
        "ping" => ping(tree, errors),
        "isolated" => Some(TestKindSpec::Isolated(texts(tree, "`isolated`", errors))),
        "trace" => with_pair(tree, "`trace`", errors, |fields, pair, errors| {
            let hops = texts(fields.require("hops", errors)?, "`hops`", errors);
            Some(TestKindSpec::Trace { pair, hops })
        }),
        "ttl" => with_pair(tree, "`ttl`", errors, |fields, pair, errors| {
            let is = number(fields.require("is", errors)?, "a TTL", 0..=255, errors)?;
            Some(TestKindSpec::Ttl { pair, is: u8::try_from(is).ok()? })
        }),
        "mtu" => with_pair(tree, "`mtu`", errors, |fields, pair, errors| {
            let is = number(fields.require("is", errors)?, "an MTU", 68..=65_535, errors)?;
            Some(TestKindSpec::Mtu { pair, is })
        }),
        "headers" => headers(tree, errors),
        "depth" => depth(tree, errors),
        "inject" => inject(tree, errors),
        "source" => with_pair(tree, "`source`", errors, |fields, pair, errors| {
            let is = text(fields.require("is", errors)?, "`is`", errors)?;
            Some(TestKindSpec::Source { pair, is })
        }),
        "route" => route(tree, errors),
        "tcp" => with_pair(tree, "`tcp`", errors, |fields, pair, errors| {
            let at_least_bps = fields.take("at-least").and_then(|t| rate_bps(t, "`at-least`", errors));
            Some(TestKindSpec::Tcp { pair, at_least_bps })
        }),
        "exec" => exec(tree, errors),
        "converged" => converged(tree, errors),
        "impair" => impair(tree, errors),
        "down" => Some(TestKindSpec::Down(text(tree, "`down`", errors)?)),
        "up" => Some(TestKindSpec::Up(text(tree, "`up`", errors)?)),
        _ => Some(TestKindSpec::Wait(duration_ms(tree, "`wait`", errors)?)),
    }
}

fn route(tree: &Tree, errors: &mut Errors) -> Option<TestKindSpec> {
    let mut fields = Fields::new(tree, "`route`", errors)?;
    let node = fields.require("node", errors).and_then(|t| text(t, "`node`", errors));
    let to = fields.require("to", errors).and_then(|t| text(t, "`to`", errors));
    let via = fields.require("via", errors).map(|t| texts(t, "`via`", errors));
    fields.finish(errors);
    Some(TestKindSpec::Route { node: node?, to: to?, via: via? })
}

fn exec(tree: &Tree, errors: &mut Errors) -> Option<TestKindSpec> {
    let mut fields = Fields::new(tree, "`exec`", errors)?;
    let at = fields.require("at", errors).and_then(|t| text(t, "`at`", errors));
    let run = fields.require("run", errors).and_then(|t| command(t, "`run`", errors));
    let stdout = fields.take("stdout").and_then(|t| text(t, "`stdout`", errors)).map(|s| s.value);
    let status = fields.take("status").and_then(|t| number(t, "`status`", 0..=255, errors));
    fields.finish(errors);
    let status = status.and_then(|s| u8::try_from(s).ok()).unwrap_or(0);
    Some(TestKindSpec::Exec(ExecSpec { at: at?, run: run?, stdout, status }))
}

fn converged(tree: &Tree, errors: &mut Errors) -> Option<TestKindSpec> {
    if boolean(tree, "`converged`", errors)? {
        return Some(TestKindSpec::Converged);
    }
    let error = Diagnostic::new("test", tree.span, "`converged` is tested by `true` only");
    errors.push(error.help("`not: true` beside `converged: true` tests the contrary"));
    None
}

/// `{link: X -- Y, delay: 10ms}`: what is not given is none.
fn impair(tree: &Tree, errors: &mut Errors) -> Option<TestKindSpec> {
    let mut fields = Fields::new(tree, "`impair`", errors)?;
    let link = fields.require("link", errors).and_then(|t| text(t, "`link`", errors));
    let to = impair::take(&mut fields, tree.span, errors);
    fields.finish(errors);
    Some(TestKindSpec::Impair { link: link?, to })
}

fn ping(tree: &Tree, errors: &mut Errors) -> Option<TestKindSpec> {
    if let Value::Scalar(words) = &tree.value {
        if let Some(network) = words.strip_prefix("all in ") {
            let network = Spanned::new(network.trim().to_owned(), tree.span);
            return Some(TestKindSpec::PingAll(network));
        }
        let pair = arrow(tree, errors)?;
        return Some(TestKindSpec::Ping { pair, count: 1, size: None, df: false });
    }
    with_pair(tree, "`ping`", errors, |fields, pair, errors| {
        let count = fields.take("count").and_then(|t| number(t, "`count`", 1..=100_000, errors)).unwrap_or(1);
        let size = fields.take("size").and_then(|t| number(t, "`size`", 0..=65_507, errors));
        let df = fields.take("df").and_then(|t| boolean(t, "`df`", errors)).unwrap_or(false);
        Some(TestKindSpec::Ping { pair, count, size, df })
    })
}

fn with_pair(
    tree: &Tree,
    what: &'static str,
    errors: &mut Errors,
    rest: impl FnOnce(&mut Fields<'_>, PairSpec, &mut Errors) -> Option<TestKindSpec>,
) -> Option<TestKindSpec> {
    let mut fields = Fields::new(tree, what, errors)?;
    let from = fields.require("from", errors).and_then(|t| text(t, "`from`", errors));
    let to = fields.require("to", errors).and_then(|t| text(t, "`to`", errors));
    let complete = from.is_some() && to.is_some();
    let blank = || Spanned::new(String::new(), tree.span);
    let pair = PairSpec { from: from.unwrap_or_else(blank), to: to.unwrap_or_else(blank) };
    let kind = rest(&mut fields, pair, errors);
    fields.finish(errors);
    kind.filter(|_| complete)
}

fn headers(tree: &Tree, errors: &mut Errors) -> Option<TestKindSpec> {
    with_pair(tree, "`headers`", errors, |fields, pair, errors| {
        let at = fields.require("at", errors).and_then(|t| text(t, "`at`", errors));
        let rows = list(fields.require("is", errors)?, "`is`", errors);
        let is = rows.iter().filter_map(|row| header_row(row, errors)).collect();
        Some(TestKindSpec::Headers { pair, at: at?, is })
    })
}

fn header_row(tree: &Tree, errors: &mut Errors) -> Option<RowSpec> {
    let mut fields = Fields::new(tree, "a row of headers", errors)?;
    let inward = fields.take("in").and_then(|t| text(t, "`in`", errors));
    let outward = fields.take("out").and_then(|t| text(t, "`out`", errors));
    let mut pair = |key, errors: &mut Errors| fields.take(key).and_then(|t| arrow(t, errors));
    let (base, link, net) = (pair("base", errors), pair("link", errors), pair("net", errors));
    let stack = fields.take("stack").map(|t| arrows(t, errors));
    fields.finish(errors);
    let (inward, neighbour) = match (inward, outward) {
        (Some(node), None) => (true, node),
        (None, Some(node)) => (false, node),
        _ => {
            let what = "a row says `in: NODE` or `out: NODE`: the base node at the other end of the wire";
            errors.push(Diagnostic::new("test", tree.span, what));
            return None;
        }
    };
    Some(RowSpec { inward, neighbour, base, link, net, stack })
}

fn depth(tree: &Tree, errors: &mut Errors) -> Option<TestKindSpec> {
    let mut fields = Fields::new(tree, "`depth`", errors)?;
    let vi = fields.require("vi", errors).and_then(|t| text(t, "`vi`", errors));
    let headers = fields.require("headers", errors).and_then(|t| number(t, "`headers`", 0..=1000, errors));
    let mtu = fields.take("mtu").and_then(|t| number(t, "`mtu`", 68..=65_535, errors));
    fields.finish(errors);
    Some(TestKindSpec::Depth { vi: vi?, headers: headers? as usize, mtu })
}

fn inject(tree: &Tree, errors: &mut Errors) -> Option<TestKindSpec> {
    const FATES: [(&str, bool); 3] = [("dropped", false), ("delivered", true), ("accepted", true)];
    let mut fields = Fields::new(tree, "`inject`", errors)?;
    let at = fields.require("at", errors).and_then(|t| text(t, "`at`", errors));
    let stack = fields.require("stack", errors).map(|t| arrows(t, errors)).unwrap_or_default();
    let delivered = fields.require("is", errors).and_then(|t| choice(t, "`is`", &FATES, errors));
    let by = fields.take("by").and_then(|t| reason(t, errors));
    if let (Some(by), Some(true)) = (&by, delivered) {
        errors.push(Diagnostic::new("test", by.span, "what is delivered is dropped `by` nothing"));
    }
    let by = by.map(|by| by.value);
    let switch = [("on", true), ("off", false)];
    let strong_host = fields.take("strong-host").and_then(|t| choice(t, "`strong-host`", &switch, errors));
    fields.finish(errors);
    let strong_host = strong_host.unwrap_or(true);
    Some(TestKindSpec::Inject(InjectSpec { at: at?, stack, delivered: delivered?, by, strong_host }))
}

fn reason(tree: &Tree, errors: &mut Errors) -> Option<Spanned<String>> {
    let by = text(tree, "`by`", errors)?;
    if !DROPPED_BY.contains(&by.value.as_str()) {
        let error =
            Diagnostic::new("wrong-value", tree.span, format!("no packet is dropped by `{}`", by.value));
        errors.push(error.meant(&by.value, DROPPED_BY));
        return None;
    }
    Some(by)
}

fn arrows(tree: &Tree, errors: &mut Errors) -> Vec<PairSpec> {
    let items = list(tree, "`stack`", errors);
    if items.is_empty() {
        errors.push(Diagnostic::new("test", tree.span, "a stack has at least one `SOURCE -> DESTINATION`"));
    }
    items.iter().filter_map(|t| arrow(t, errors)).collect()
}

/// `from -> to`
fn arrow(tree: &Tree, errors: &mut Errors) -> Option<PairSpec> {
    let words = text(tree, "this", errors)?;
    let Some((from, to)) = words.value.split_once("->") else {
        errors.push(Diagnostic::new("test", tree.span, "this must look like `A -> B`"));
        return None;
    };
    if from.trim().is_empty() || to.trim().is_empty() {
        errors.push(Diagnostic::new("test", tree.span, "both sides of `->` need a name"));
        return None;
    }
    let part = |part: &str| words.part(part.trim());
    Some(PairSpec { from: part(from), to: part(to) })
}

fn texts(tree: &Tree, what: &str, errors: &mut Errors) -> Vec<Spanned<String>> {
    list(tree, what, errors).iter().filter_map(|t| name(t, "a name", errors)).collect()
}
