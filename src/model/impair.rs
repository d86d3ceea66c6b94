//! Impairments in words, and what follows from them. An [`Impairment`] goes in; text in the language's own units, or
//! what a link does to a packet, comes out. It never rounds.

use std::fmt;

use super::{Impairment, Lab};

impl Impairment {
    /// Nothing is done to packets.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
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
    /// Whether any link is impaired.
    #[must_use]
    pub fn impaired(&self) -> bool {
        self.networks.iter().flat_map(|n| &n.links).any(|l| l.impair.iter().any(|i| !i.is_none()))
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
    fn numbers_are_exact() {
        let times = [(1, "1us"), (1_001, "1.001ms"), (60_000_000, "60s"), (1_000_050, "1.00005s")];
        for (us, text) in times {
            assert_eq!(duration(us), text);
        }
        assert_eq!([share(1), share(1_000_000), share(333_333)], ["0.0001%", "100%", "33.3333%"]);
        assert_eq!([rate(8), rate(64_000), rate(2_500_000_000_000)], ["8bit", "64kbit", "2.5tbit"]);
    }
}
