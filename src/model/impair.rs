//! Impairments in words, and what follows from them. An [`Impairment`] goes in; text in the language's own units, or
//! what a link does to a packet, comes out. It never rounds.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Impairment, Lab, Link, LinkId};
use crate::error::{Error, Result};

/// What one direction of a link was measured to do; what could not be measured is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Measured {
    /// One way, what lies below included, microseconds.
    pub delay_us: Option<u64>,
    /// Half of what the slowest probe took more than the quickest, microseconds.
    pub jitter_us: Option<u64>,
    /// Probes.
    pub sent: u32,
    pub lost: u32,
    /// Of a short burst, bits a second: an estimate.
    pub rate_bps: Option<u64>,
}

/// Both directions of a link: from the first end to the second, and back. `None` where it would take too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkMeasured {
    pub link: LinkId,
    pub directions: [Option<Measured>; 2],
}

/// What is asked of a link that does something already; what is not named stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wish {
    pub delay_us: Option<u64>,
    pub jitter_us: Option<u64>,
    pub loss_ppm: Option<u32>,
    pub rate_bps: Option<u64>,
    /// Ends what was asked before.
    pub clear: bool,
}

impl Wish {
    /// What both directions do then, where the `chosen` ones follow the wish.
    ///
    /// # Errors
    /// If a packet would arrive before it is sent.
    pub fn of(&self, before: &[Impairment; 2], chosen: [bool; 2]) -> Result<[Impairment; 2]> {
        let mut to = *before;
        for (to, _) in to.iter_mut().zip(chosen).filter(|(_, chosen)| *chosen) {
            let from = if self.clear { Impairment::default() } else { *to };
            *to = Impairment {
                delay_us: self.delay_us.unwrap_or(from.delay_us),
                jitter_us: self.jitter_us.unwrap_or(from.jitter_us),
                loss_ppm: self.loss_ppm.unwrap_or(from.loss_ppm),
                rate_bps: self.rate_bps.or(from.rate_bps),
            };
        }
        if to.iter().any(|i| i.jitter_us > i.delay_us) {
            let error =
                Error::usage("jitter cannot be greater than delay: no packet arrives before it is sent");
            return Err(error.hint("give both, or --clear"));
        }
        Ok(to)
    }
}

impl Impairment {
    /// Nothing is done to packets.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// `delay 10.1ms, jitter 0.05ms, loss 1 of 50, rate ~99.2mbit`, of what is not zero.
impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { delay_us, jitter_us, sent, lost, rate_bps } = *self;
        if sent == 0 {
            return f.write_str("nothing can be sent");
        }
        let time = |word: &str, us: Option<u64>| us.map(|us| format!("{word} {:.2}ms", millis(us)));
        let words = [
            time("delay", delay_us),
            time("jitter", jitter_us),
            Some(format!("loss {lost} of {sent}")),
            rate_bps.map(|bps| format!("rate ~{}", rate(rounded(bps)))),
        ];
        f.write_str(&words.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

fn millis(us: u64) -> f64 {
    f64::from(u32::try_from(us).unwrap_or(u32::MAX)) / 1000.0
}

/// To three digits.
fn rounded(bps: u64) -> u64 {
    let scale = 10u64.pow(bps.max(1).ilog10().saturating_sub(2));
    (bps + scale / 2) / scale * scale
}

/// As in a lab file: `delay 10ms, jitter 1ms, loss 0.1%, rate 100mbit`; `none`.
impl fmt::Display for Impairment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |word: &str, us: u64| (us > 0).then(|| format!("{word} {}", duration(us)));
        let loss = (self.loss_ppm > 0).then(|| format!("loss {}", share(self.loss_ppm)));
        let words = [
            time("delay", self.delay_us),
            time("jitter", self.jitter_us),
            loss,
            self.rate_bps.map(|bps| format!("rate {}", rate(bps))),
        ];
        let words: Vec<String> = words.into_iter().flatten().collect();
        if words.is_empty() { f.write_str("none") } else { f.write_str(&words.join(", ")) }
    }
}

impl Lab {
    /// The links that are impaired, in either direction.
    pub fn impaired_links(&self) -> impl Iterator<Item = LinkId> + '_ {
        let impaired = |link: &&Link| link.impair.iter().any(|i| !i.is_none());
        self.networks.iter().flat_map(|n| &n.links).filter(impaired).map(|l| l.id)
    }

    /// Whether `written`, which names a link by its ends, has them in the order contrary to the link's.
    #[must_use]
    pub fn is_turned(&self, link: LinkId, written: &str) -> bool {
        let plain = written.replace(' ', "");
        let short = plain.rsplit_once('/').map_or(plain.as_str(), |(_, short)| short);
        let [a, b] = &self.link(link).ends;
        let (a, b) = (&self.node(a.node).name, &self.node(b.node).name);
        a != b && *short == format!("{b}--{a}")
    }

    /// Whether any link is impaired.
    #[must_use]
    pub fn impaired(&self) -> bool {
        self.impaired_links().next().is_some()
    }
}

/// `10ms`, `250us`, `1.5s`.
#[must_use]
pub fn duration(us: u64) -> String {
    match us {
        0..1_000 => format!("{us}us"),
        1_000..1_000_000 => format!("{}ms", decimal(us, 1_000)),
        _ => format!("{}s", decimal(us, 1_000_000)),
    }
}

/// `0.1%`.
#[must_use]
pub fn share(ppm: u32) -> String {
    format!("{}%", decimal(u64::from(ppm), 10_000))
}

/// `100mbit`, `1.5gbit`.
#[must_use]
pub fn rate(bps: u64) -> String {
    let units = [("tbit", 1_000_000_000_000), ("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000)];
    match units.into_iter().find(|(_, scale)| bps >= *scale) {
        Some((unit, scale)) => format!("{}{unit}", decimal(bps, scale)),
        None => format!("{bps}bit"),
    }
}

/// `value / scale`, a power of ten, with no more digits than it takes.
fn decimal(value: u64, scale: u64) -> String {
    let (whole, rest) = (value / scale, value % scale);
    if rest == 0 {
        return whole.to_string();
    }
    let digits = scale.ilog10() as usize;
    format!("{whole}.{rest:0digits$}").trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_language() {
        let all =
            Impairment { delay_us: 10_500, jitter_us: 250, loss_ppm: 1_000, rate_bps: Some(1_500_000_000) };
        assert_eq!(all.to_string(), "delay 10.5ms, jitter 250us, loss 0.1%, rate 1.5gbit");
        assert_eq!(Impairment::default().to_string(), "none");
    }

    #[test]
    fn what_was_measured_in_words() {
        let measured = Measured {
            delay_us: Some(10_123),
            jitter_us: Some(50),
            sent: 50,
            lost: 1,
            rate_bps: Some(99_273_456),
        };
        assert_eq!(measured.to_string(), "delay 10.12ms, jitter 0.05ms, loss 1 of 50, rate ~99.3mbit");
        let silent = Measured { sent: 50, lost: 50, ..Measured::default() };
        assert_eq!(silent.to_string(), "loss 50 of 50");
        assert_eq!(Measured::default().to_string(), "nothing can be sent");
    }

    #[test]
    fn ends_in_either_order() {
        let text = "name: t\nbase: {links: [X -- Y, {link: Y -- Z, name: Z--Y}]}\n";
        let lab = crate::model::parse(std::path::Path::new("t.yaml"), text).unwrap();
        let link = |index| LinkId { net: crate::model::BASE, index };
        let turned = ["Y -- X", "base/Y--X", "X -- Y", "first"].map(|w| lab.is_turned(link(0), w));
        assert_eq!(turned, [true, true, false, false]);
    }

    #[test]
    fn numbers_are_exact() {
        let times = [(1, "1us"), (1_001, "1.001ms"), (60_000_000, "60s"), (1_000_050, "1.00005s")];
        for (us, text) in times {
            assert_eq!(duration(us), text);
        }
        assert_eq!([share(1), share(1_000_000), share(333_333)], ["0.0001%", "100%", "33.3333%"]);
        assert_eq!([rate(8), rate(64_000), rate(2_500_000_000_000)], ["8bit", "64kbit", "2.5tbit"]);
    }
}
