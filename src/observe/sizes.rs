//! The tests `mtu` and `depth`: what fits through. Nodes and sizes go in, verdicts come out; a size counts as
//! usable only when it passes with DF set and one byte more does not. They never trust a device's own MTU.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::patience::Ways;
use super::probe::{Battery, Fate, OVERHEAD, Pace, SMALLEST, Shot};
use super::runner::Verdict;
use super::{Context, headers, names, reach};
use crate::error::{Error, Result};
use crate::model::{Link, NetId, NodeId};

/// Largest IPv4 packet, bytes.
const LARGEST: u32 = 65_535;
const PACE: Pace = Pace {
    retry: Duration::from_millis(300),
    attempts: 3,
    errors_settle: true,
    deadline: Duration::from_millis(1000),
    linger: Duration::ZERO,
};

/// Sends DF probes of a total size from one node to one address.
#[derive(Debug)]
struct Gauge {
    battery: Battery,
    from: NodeId,
    to: Ipv4Addr,
    pace: Pace,
}

impl Gauge {
    fn open(ctx: &Context<'_>, from: NodeId, to: Ipv4Addr) -> Result<Self> {
        let owner = ctx.lab.owner(from.net, to);
        let pace = Ways::there_and_back(ctx, owner.map(|to| (from, to))).persistent(&PACE, 1);
        Ok(Self { battery: Battery::open(ctx, [from], true)?, from, to, pace })
    }

    fn try_size(&mut self, size: u32) -> Result<Fate> {
        let payload = usize::try_from(size).unwrap_or(usize::MAX).saturating_sub(OVERHEAD);
        let fates = self.battery.fire(&[Shot { payload, ..Shot::new(self.from, self.to) }], &self.pace)?;
        fates.first().copied().ok_or_else(|| Error::bug("a shot without a fate"))
    }

    fn passes(&mut self, size: u32) -> Result<bool> {
        Ok(matches!(self.try_size(size)?, Fate::Answered { .. }))
    }

    /// The largest size that passes, by halving; `None` if even the smallest does not.
    fn search(&mut self) -> Result<Option<u32>> {
        let smallest = u32::try_from(SMALLEST).unwrap_or(u32::MAX);
        if !self.passes(smallest)? {
            return Ok(None);
        }
        let (mut passes, mut fails) = (smallest, LARGEST + 1);
        while fails - passes > 1 {
            let middle = passes + (fails - passes) / 2;
            if self.passes(middle)? { passes = middle } else { fails = middle }
        }
        Ok(Some(passes))
    }

    /// Holds when `size` passes and one byte more does not.
    fn judge(&mut self, ctx: &Context<'_>, size: u32) -> Result<Verdict> {
        let (fits, over) = (self.try_size(size)?, self.try_size(size.saturating_add(1))?);
        let holds = matches!(fits, Fate::Answered { .. }) && !matches!(over, Fate::Answered { .. });
        let expected =
            vec![format!("{size} bytes pass with DF"), format!("{} bytes do not", size.saturating_add(1))];
        let measured = if holds {
            vec![format!("{size} bytes pass with DF"), format!("{} bytes do not", size + 1)]
        } else {
            match self.search()? {
                Some(found) => {
                    vec![format!("{found} bytes pass with DF"), format!("{} bytes do not", found + 1)]
                }
                None => vec![format!("nothing passes: {}", reach::reason(ctx, self.from.net, fits))],
            }
        };
        Ok(Verdict { holds, expected, measured })
    }
}

/// The test `mtu`: along the whole path between two nodes.
pub(crate) fn mtu(ctx: &Context<'_>, from: NodeId, to: NodeId, is: u32) -> Result<Verdict> {
    let Some(address) = ctx.lab.address(to) else {
        let text = format!("{} has no address", ctx.lab.full_name(to));
        return Ok(Verdict::of(false, format!("{is} bytes pass with DF"), text));
    };
    Gauge::open(ctx, from, address)?.judge(ctx, is)
}

/// The test `depth`: the IP headers that a network adds on the wire and, if asked for, the size it leaves. It
/// looks at a link of the network whose ends are on different base nodes; of those, the one with the least MTU.
pub(crate) fn depth(ctx: &Context<'_>, net: NetId, headers: usize, mtu: Option<u32>) -> Result<Verdict> {
    let expected = format!("{headers} headers added");
    let Some(link) = tightest_wire_link(ctx, net) else {
        let text = format!("no link of {} leaves its base node", ctx.lab.net(net).name);
        return Ok(Verdict::of(false, expected, text));
    };
    let [near, far] = &link.ends;
    let rows = headers::measure(ctx, near.node, far.node, far.addr, ctx.lab.site(near).base)?;
    let found = rows.rows.iter().find(|r| !r.inward).map(|r| r.stack.len().saturating_sub(1));
    let holds = found == Some(headers);
    let measured =
        found.map_or_else(|| "no probe seen on the base wire".into(), |n| format!("{n} headers added"));
    let measured = if holds { measured } else { format!("{measured} (link {})", link.name) };
    let mut verdict = Verdict::of(holds, expected, measured);
    if let Some(size) = mtu {
        verdict.and(Gauge::open(ctx, near.node, far.addr)?.judge(ctx, size)?);
        if !verdict.holds {
            let ends = names::pair(ctx.lab, near.node, far.node);
            verdict.measured.push(format!("measured on link {}, {ends}", link.name));
        }
    }
    Ok(verdict)
}

fn tightest_wire_link<'a>(ctx: &Context<'a>, net: NetId) -> Option<&'a Link> {
    let apart = |l: &&Link| ctx.lab.site(&l.ends[0]).base != ctx.lab.site(&l.ends[1]).base;
    ctx.lab.net(net).links.iter().filter(apart).min_by_key(|l| l.mtu)
}
