//! The tests `ping` and `ttl`. Pairs of nodes go in, a verdict comes out. They never retry: `within` does.

use std::time::Duration;

use super::arrival;
use super::patience::Ways;
use super::probe::{Battery, Fate, PAYLOAD, Pace, Shot, WINDOW};
use super::runner::Verdict;
use super::{Context, names, reach};
use crate::error::Result;
use crate::model::NodeId;

/// How long an echo reply may take, beside what impairments take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Failing pairs shown by name.
const SHOWN: usize = 8;

/// What a `ping:` asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ping<'a> {
    pub(crate) pairs: &'a [(NodeId, NodeId)],
    pub(crate) count: u32,
    pub(crate) size: Option<u32>,
    pub(crate) df: bool,
}

/// `count` echo requests for each pair, all pairs at once; holds when all are answered, so of no pairs too.
pub(crate) fn ping(ctx: &Context<'_>, asked: &Ping<'_>) -> Result<Verdict> {
    let payload = asked.size.map_or(PAYLOAD, |s| usize::try_from(s).unwrap_or(usize::MAX));
    let rounds = asked.count.max(1);
    let mut shots = Vec::new();
    for _ in 0..rounds {
        for (from, to) in asked.pairs {
            let Some(address) = ctx.lab.address(*to) else { return Ok(no_address(ctx, *to)) };
            shots.push(Shot { payload, ..Shot::new(*from, address) });
        }
    }
    // Every window of probes may have to wait its full time.
    let deadline = PATIENCE * u32::try_from(2 + shots.len() / WINDOW).unwrap_or(u32::MAX).min(600);
    let pace = Pace { retry: PATIENCE, attempts: 1, errors_settle: true, deadline, linger: Duration::ZERO };
    let pace = Ways::there_and_back(ctx, asked.pairs.iter().copied()).slower(&pace, shots.len());
    let mut battery = Battery::open(ctx, asked.pairs.iter().map(|(from, _)| *from), asked.df)?;
    let fates = battery.fire(&shots, &pace)?;
    Ok(judge(ctx, asked.pairs, &fates))
}

fn no_address(ctx: &Context<'_>, node: NodeId) -> Verdict {
    let name = ctx.lab.full_name(node);
    Verdict::of(false, format!("{name} answers"), format!("{name} has no address"))
}

fn judge(ctx: &Context<'_>, pairs: &[(NodeId, NodeId)], fates: &[Fate]) -> Verdict {
    let answered = fates.iter().filter(|f| matches!(f, Fate::Answered { .. })).count();
    let mut measured = vec![format!("{answered} of {} echo requests answered", fates.len())];
    let mut failing = 0usize;
    for (i, (from, to)) in pairs.iter().enumerate() {
        let own: Vec<Fate> = fates.iter().skip(i).step_by(pairs.len()).copied().collect();
        let lost: Vec<&Fate> = own.iter().filter(|f| !matches!(f, Fate::Answered { .. })).collect();
        let Some(last) = lost.last() else { continue };
        failing += 1;
        if failing <= SHOWN {
            let why = reach::reason(ctx, from.net, **last);
            let loss =
                if own.len() > 1 { format!("{} of {} lost, ", lost.len(), own.len()) } else { String::new() };
            measured.push(format!("{}: {loss}{why}", names::pair(ctx.lab, *from, *to)));
        }
    }
    if failing > SHOWN {
        measured.push(format!("and {} more pairs", failing - SHOWN));
    }
    let expected = vec![format!("{0} of {0} echo requests answered", fates.len())];
    Verdict { holds: failing == 0, expected, measured }
}

/// The TTL of a probe sent with 64 when it arrives.
pub(crate) fn ttl(ctx: &Context<'_>, from: NodeId, to: NodeId, is: u8) -> Result<Verdict> {
    let Some(address) = ctx.lab.address(to) else { return Ok(no_address(ctx, to)) };
    let flight = arrival::fly(ctx, from, to, address)?;
    let expected = format!("TTL {is}");
    Ok(match flight.arrived {
        Some(arrived) => {
            Verdict::of(arrived.header.ttl == is, expected, format!("TTL {}", arrived.header.ttl))
        }
        None => Verdict::of(false, expected, flight.failure()),
    })
}
