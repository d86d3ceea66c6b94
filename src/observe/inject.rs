//! The test `inject`: a hand-built packet put on the wire by a base node. A stack of headers goes in; whether it
//! was delivered, and what counted it, comes out. A rule switched off for a control run is switched on again
//! whatever happens.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::arrival::{self, Listener};
use super::counters::{self, RuleOff};
use super::patience::Ways;
use super::probe::{Mark, PAYLOAD};
use super::runner::Verdict;
use super::wire;
use super::{Context, names};
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::{BASE, NodeId};
use crate::sys::packet_socket::Ipv4Socket;

/// How long a packet may take to be delivered or counted.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the counter is read while waiting.
const GLANCE: Duration = Duration::from_millis(20);
/// How much later than packets sent after it an injected packet may come.
const LATER: Duration = Duration::from_millis(200);

/// What an `inject:` asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Injection<'a> {
    pub(crate) at: NodeId,
    /// Source and destination of each header, outermost first.
    pub(crate) stack: &'a [(Ipv4Addr, Ipv4Addr)],
    pub(crate) to: NodeId,
    pub(crate) delivered: bool,
    pub(crate) by: Option<&'a str>,
    pub(crate) strong_host: bool,
}

pub(crate) fn test(ctx: &Context<'_>, asked: &Injection<'_>) -> Result<Verdict> {
    let receiver = asked.stack.first().and_then(|(_, dst)| ctx.lab.owner(BASE, *dst));
    let receiver = receiver.ok_or_else(|| Error::usage("no base node has the outermost destination"))?;
    let rule = if asked.strong_host { None } else { Some(RuleOff::new(ctx, receiver)?) };
    let outcome = observe(ctx, asked, receiver);
    rule.map_or(Ok(()), RuleOff::restore)?;
    let outcome = outcome?;
    let measured = outcome.text(asked);
    let expected = Outcome { delivered: asked.delivered, counted: u64::from(asked.by.is_some()) };
    Ok(Verdict { holds: outcome == expected, expected: expected.text(asked), measured })
}

/// What became of the packet; `counted` is by how much the counter asked for went up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Outcome {
    delivered: bool,
    counted: u64,
}

impl Outcome {
    fn text(&self, asked: &Injection<'_>) -> Vec<String> {
        let mut rows = vec![if self.delivered { "delivered".into() } else { "not delivered".to_owned() }];
        rows.extend(asked.by.map(|by| format!("{by} +{}", self.counted)));
        rows
    }
}

fn observe(ctx: &Context<'_>, asked: &Injection<'_>, receiver: NodeId) -> Result<Outcome> {
    let listener = Listener::open(ctx, asked.to)?;
    let count = || asked.by.map_or(Ok(0), |by| counters::counter(ctx, receiver, by));
    let before = count()?;
    let mark = send(ctx, asked)?;
    let base = ctx.lab.node(asked.to).base;
    let way = Ways::there_and_back(ctx, [(asked.at, base), (base, receiver)]);
    let end = Instant::now() + PATIENCE + way.time();
    let mut outcome = Outcome { delivered: false, counted: 0 };
    while !outcome.delivered && outcome.counted == 0 && Instant::now() < end {
        outcome.delivered = listener.wait(mark, 0, Instant::now() + GLANCE)?.is_some();
        outcome.counted = count()?.saturating_sub(before);
        if asked.by.is_none() && !asked.delivered && !outcome.delivered {
            follow(ctx, asked, receiver)?;
            outcome.delivered = listener.wait(mark, 0, Instant::now() + LATER)?.is_some();
            break;
        }
    }
    outcome.counted = count()?.saturating_sub(before);
    Ok(outcome)
}

/// Sends legitimate probes to where the injected packet goes: to the base node it is sent to and, from a neighbour
/// in its network, to the node it is meant for. When they have arrived, it would have.
fn follow(ctx: &Context<'_>, asked: &Injection<'_>, receiver: NodeId) -> Result<()> {
    if let Some(address) = ctx.lab.address(receiver).filter(|_| receiver != asked.at) {
        arrival::fly(ctx, asked.at, receiver, address)?;
    }
    if let Some(end) = ctx.lab.node(asked.to).ends.first() {
        arrival::fly(ctx, ctx.lab.peer(*end).node, asked.to, ctx.lab.end(*end).addr)?;
    }
    Ok(())
}

fn send(ctx: &Context<'_>, asked: &Injection<'_>) -> Result<Mark> {
    let mark = Mark::fresh();
    let packet = wire::emit_stack(asked.stack, &mark.message(0, PAYLOAD), mark.id());
    let packet = packet.ok_or_else(|| Error::usage("the stack of headers is too large for a packet"))?;
    let first = asked.stack.first().map_or(Ipv4Addr::UNSPECIFIED, |(_, dst)| *dst);
    let ns = &ctx.lab.node(asked.at).netns;
    let sent = ctx.namespaces.run(ns, || Ipv4Socket::open()?.send(first, &packet))?;
    let to = names::name_of(ctx.lab, BASE, first);
    sent.doing(Kind::Kernel, || format!("cannot send a packet from {ns} to {to}"))?;
    Ok(mark)
}
