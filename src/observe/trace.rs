//! Traceroute with echo requests. Two nodes go in, the nodes that answer for each TTL come out. It never resolves
//! a name outside the lab.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::Serialize;

use super::patience::Ways;
use super::probe::{Battery, Fate, Pace, Shot};
use super::runner::Verdict;
use super::wire::TIME_EXCEEDED;
use super::{Context, names};
use crate::error::{Error, Result};
use crate::model::NodeId;

/// Silent hops in a row after which the rest is taken for unreachable.
const SILENT: usize = 3;
const LONGEST: u8 = 64;
const PACE: Pace = Pace {
    retry: Duration::from_millis(400),
    attempts: 3,
    errors_settle: true,
    deadline: Duration::from_millis(1300),
    linger: Duration::ZERO,
};

/// What answered a probe of one TTL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hop {
    pub ttl: u8,
    /// Who answered; `None` if nobody did.
    pub addr: Option<Ipv4Addr>,
    /// The node that has this address, of the sender's network or one joined with it by gateways.
    pub node: Option<NodeId>,
    /// It was the destination's echo reply.
    pub reached: bool,
    /// An error other than "TTL exceeded", in words: it ends the trace.
    pub error: Option<String>,
}

/// Echo requests with TTL 1, 2, … until the destination answers, something says that it cannot be reached, or
/// several hops in a row are silent.
///
/// # Errors
/// If the destination has no address or sockets cannot be used.
pub fn trace(ctx: &Context<'_>, from: NodeId, to: NodeId) -> Result<Vec<Hop>> {
    let address = ctx.lab.address(to);
    let address = address.ok_or_else(|| Error::usage(format!("{} has no address", ctx.lab.full_name(to))))?;
    let mut battery = Battery::open(ctx, [from], false)?;
    let pace = Ways::there_and_back(ctx, [(from, to)]).persistent(&PACE, 1);
    let mut hops: Vec<Hop> = Vec::new();
    for ttl in 1..=LONGEST {
        let fates = battery.fire(&[Shot { ttl, ..Shot::new(from, address) }], &pace)?;
        let hop = hop(ctx, from, ttl, fates.first().copied().unwrap_or(Fate::Silent));
        let over = hop.reached || hop.error.is_some();
        hops.push(hop);
        let silent = hops.iter().rev().take_while(|h| h.addr.is_none()).count();
        if over || silent >= SILENT {
            break;
        }
    }
    Ok(hops)
}

fn hop(ctx: &Context<'_>, from: NodeId, ttl: u8, fate: Fate) -> Hop {
    let silent = Hop { ttl, addr: None, node: None, reached: false, error: None };
    let heard = |by| Hop { addr: Some(by), node: ctx.lab.owner_near(from.net, by), ..silent.clone() };
    match fate {
        Fate::Silent => silent,
        Fate::Answered { by, .. } => Hop { reached: true, ..heard(by) },
        Fate::Refused { by, kind: TIME_EXCEEDED, .. } => heard(by),
        Fate::Refused { by, .. } => {
            Hop { error: Some(super::reach::reason(ctx, from.net, fate)), ..heard(by) }
        }
        Fate::Unsent(_) => Hop { error: Some(super::reach::reason(ctx, from.net, fate)), ..silent },
    }
}

fn words(ctx: &Context<'_>, from: NodeId, hop: &Hop) -> String {
    match (&hop.error, hop.addr) {
        (Some(error), _) => error.clone(),
        (None, Some(addr)) => names::name_of(ctx.lab, from.net, addr),
        (None, None) => "*".into(),
    }
}

/// The test `trace`: exactly these nodes answer, in this order, and the last is the destination itself.
pub(crate) fn test(ctx: &Context<'_>, from: NodeId, to: NodeId, hops: &[NodeId]) -> Result<Verdict> {
    let found = trace(ctx, from, to)?;
    let expected: Vec<_> = hops.iter().map(|id| names::seen_from(ctx.lab, from.net, *id)).collect();
    let measured = found.iter().map(|h| words(ctx, from, h)).collect();
    let nodes: Vec<_> = found.iter().map(|h| h.node).collect();
    let same = nodes.len() == hops.len() && nodes.iter().zip(hops).all(|(a, b)| *a == Some(*b));
    let reached = found.last().is_some_and(|h| h.reached);
    Ok(Verdict { holds: same && reached, expected, measured })
}
