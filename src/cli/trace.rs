//! `vilab trace`. Two nodes of a running lab go in; the way of one probe through all layers, as computed and as captured,
//! comes out, with the first difference and what explains it. It never changes anything.

use std::path::PathBuf;
use std::time::Duration;

use super::{DONE, FAILED, node, output};
use crate::capture::{Filter, WHOLE};
use crate::error::{Context as _, Kind, Result};
use crate::graph::{self, HeaderBox, StackRow};
use crate::lab::Running;
use crate::observe::{self, Followed, HeaderSeen, Live, Passing, Stack, Trace};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  vilab trace blue/a c\n  vilab trace --size 1460 blue/a c\n  vilab trace -l first blue/a c --json\n  \
                  vilab trace --live --filter 'tcp port 80' blue/a c"
)]
pub(super) struct Args {
    /// The lab; may be left out when only one is up
    #[arg(short, long, env = "VILAB_LAB")]
    lab: Option<String>,
    /// The node that sends
    from: String,
    /// The node it is for: of the same network, or of one joined with it
    to: String,
    /// Bytes of the probe, with its IP header; it is sent with DF. Without, 84 bytes and no DF
    #[arg(short, long, value_name = "BYTES")]
    size: Option<usize>,
    /// Follow a packet that the first node sends to the second by itself, instead of a probe
    #[arg(long, conflicts_with = "size")]
    live: bool,
    /// Of these packets follow the first that passes this, in tcpdump's words, such as 'tcp port 80'
    #[arg(short, long, value_name = "EXPRESSION", requires = "live")]
    filter: Option<String>,
    /// How long --live waits for one, such as 30s
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = super::wait::time)]
    patience: Duration,
    /// Show the bytes of each captured header
    #[arg(short = 'x', long)]
    bytes: bool,
    /// Draw the packet on each wire, as SVG
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// 1 if the probe does not arrive, or not as computed.
pub(super) fn run(args: &Args) -> Result<u8> {
    let running = Running::open_or_only(args.lab.as_deref())?;
    let lab = &running.state().lab;
    let from = node::find(lab, &args.from)?;
    let to = match lab.net(from.net).nodes.iter().find(|n| n.name == args.to) {
        Some(near) => near.id,
        None => node::find(lab, &args.to)?,
    };
    let filter = args.filter.as_ref().map(|text| Filter::compile(text, WHOLE)).transpose()?;
    let live = Live { patience: args.patience, filter };
    let what = if args.live { Followed::Live(live) } else { Followed::Probe(args.size) };
    let trace = observe::follow_in(&running, from, to, &what)?;
    if let Some(file) = &args.output {
        let picture = graph::stacks(&rows(&trace), &verdict(&trace));
        std::fs::write(file, picture)
            .doing(Kind::Environment, || format!("cannot write {}", file.display()))?;
    }
    if args.json {
        output::json(&trace.to_json(&lab.name)?)?;
    } else {
        lines(&trace, args.bytes).iter().for_each(|line| output::line(line));
    }
    Ok(if trace.arrived && trace.is_as_computed() { DONE } else { FAILED })
}

/// The table: for each wire what is done before it, then the stack, the outermost header first.
pub(super) fn lines(trace: &Trace, bytes: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for hop in &trace.hops {
        lines.extend(hop.before.iter().map(|act| format!("       {act}")));
        lines.extend(wire(trace, hop, bytes));
    }
    lines.extend(trace.end.iter().map(|act| format!("       {act}")));
    lines.push(String::new());
    lines.extend(verdict(trace));
    lines
}

/// One wire: as computed, and where it differs as captured below.
fn wire(trace: &Trace, hop: &Passing, bytes: bool) -> Vec<String> {
    let differs = trace.difference == Some(hop.hop);
    let mut lines = Vec::new();
    match (&hop.computed, &hop.captured) {
        (Some(computed), Some(captured)) if differs => {
            lines.push(row(hop.hop, '!', "computed", computed, bytes));
            lines.push(row(hop.hop, '!', "captured", captured, bytes));
        }
        (_, Some(captured)) => lines.push(row(hop.hop, if differs { '!' } else { ' ' }, "", captured, bytes)),
        (Some(computed), None) => {
            lines.push(row(hop.hop, if differs { '!' } else { '-' }, "not seen", computed, bytes))
        }
        (None, None) => {}
    }
    lines
}

fn row(hop: usize, mark: char, title: &str, stack: &Stack, bytes: bool) -> String {
    let headers: Vec<String> = stack.headers.iter().map(|h| header(h, bytes)).collect();
    let length = stack.headers.first().map_or(0, |h| h.length);
    let title = if title.is_empty() { String::new() } else { format!("{title}: ") };
    let lost = if stack.received { "" } else { "  LOST on this wire" };
    format!(
        "{mark} {hop:>3}  {title}{} => {}  {}  {length} of {}{lost}",
        stack.from,
        stack.to,
        headers.join(" | "),
        stack.mtu
    )
}

fn header(header: &HeaderSeen, bytes: bool) -> String {
    let esp = if header.sealed { " esp" } else { "" };
    let bytes = header.bytes.as_ref().filter(|_| bytes).map(|b| format!(" [{b}]")).unwrap_or_default();
    format!("{} ttl {}{esp}{bytes}", header.words, header.ttl)
}

/// What a trace has found that explains why packets between its nodes are lost, in lines; nothing where all is as computed.
pub(super) fn explanation(trace: &Trace) -> Vec<String> {
    if trace.is_as_computed() && trace.arrived == trace.arrives {
        return Vec::new();
    }
    let mut lines = vec![format!("a probe from {} to {}:", trace.from, trace.to)];
    lines.extend(difference(trace));
    lines.extend(trace.causes.iter().map(|c| format!("  at {}: {}", c.at, c.what)));
    lines
}

/// The rows of the picture.
fn rows(trace: &Trace) -> Vec<StackRow> {
    let row = |hop: &Passing| {
        let stack = hop.captured.as_ref().or(hop.computed.as_ref())?;
        let fault = (trace.difference == Some(hop.hop)).then_some(match &hop.captured {
            None => "not sent",
            Some(stack) if !stack.received => "lost here",
            Some(_) => "not as computed",
        });
        let count = stack.headers.len();
        let boxed = |(index, h): (usize, &HeaderSeen)| HeaderBox {
            words: h.words.clone(),
            more: format!("ttl {}, {} bytes{}", h.ttl, h.length, if h.sealed { ", ESP" } else { "" }),
            // One colour for each layer, the base's own for the outermost header.
            colour: if index == 0 { 0 } else { count - index },
        };
        Some(StackRow {
            title: format!("{}  {} \u{2192} {}", hop.hop, stack.from, stack.to),
            headers: stack.headers.iter().enumerate().map(boxed).collect(),
            missing: hop.captured.is_none(),
            fault: fault.map(str::to_owned),
        })
    };
    trace.hops.iter().filter_map(row).collect()
}

fn verdict(trace: &Trace) -> Vec<String> {
    let (from, to) = (&trace.from, &trace.to);
    let mut lines = vec![match (trace.arrived, trace.ttl[1]) {
        (true, Some(ttl)) => format!("{} bytes arrived at {to} with TTL {ttl}", trace.length),
        _ => format!("{} bytes from {from} did not arrive at {to}", trace.length),
    }];
    if let Some(mtu) = trace.mtu {
        lines[0] += &format!("; MTU {mtu}");
    }
    if trace.ways > 1 {
        lines.push(format!("it took one of {} ways of equal cost", trace.ways));
    }
    lines.extend(difference(trace));
    if trace.is_as_computed() {
        lines.push("all is as computed".to_owned());
    }
    lines.extend(trace.causes.iter().map(|c| format!("  at {}: {}", c.at, c.what)));
    if trace.difference.is_some() && trace.causes.is_empty() {
        lines.push(
            "  nothing that vilab can look at explains it: routes, devices, MTUs and filters are as computed"
                .to_owned(),
        );
    }
    lines
}

/// Where a trace first differs from what is computed.
fn difference(trace: &Trace) -> Option<String> {
    const DIFFERS: &str = "it differs from what is computed";
    let hop = trace.difference?;
    Some(match trace.hops.get(hop - 1).map(|h| (&h.computed, &h.captured)) {
        Some((Some(c), None)) => {
            format!("{DIFFERS} at hop {hop}: it was not sent from {} to {}", c.from, c.to)
        }
        Some((Some(c), Some(s))) if !s.received => {
            format!("{DIFFERS} at hop {hop}: lost between {} and {}", c.from, c.to)
        }
        Some((None, Some(s))) => format!("{DIFFERS} at hop {hop}: it goes on from {} to {}", s.from, s.to),
        Some(_) => format!("{DIFFERS} at hop {hop}"),
        None if trace.arrives => format!("{DIFFERS} after the last hop"),
        None => "it must not have arrived".to_owned(),
    })
}
