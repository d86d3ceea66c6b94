//! What an impairment does to the packets of one direction of a link. Their lengths, the time and chance go in; when
//! each leaves, or why it does not, comes out. It never holds a packet itself and never reads a clock.
//!
//! The semantics are those of netem(8), with one choice: packets never overtake each other. Jitter moves each packet's
//! departure, and a packet that would leave before the one in front of it leaves right behind it, as in the queue of a
//! real link; netem would let it pass.

mod chance;
mod later;

pub use chance::Chance;
pub use later::Later;

use crate::model::Impairment;

/// A time, nanoseconds from a start that the caller chose.
pub type Nanos = u64;

/// Packets that wait for a link of limited rate, beside those on the way: the usual queue of a Linux device.
const WAITING: u64 = 1000;
/// Bytes for each packet on the way of a link of limited rate.
const ON_THE_WAY: u64 = 500;
/// The most packets that one direction holds.
const MOST_PACKETS: u32 = 100_000;
/// The most bytes that one direction holds.
const MOST_BYTES: usize = 128 << 20;

/// How many packets one direction holds at most: those on their way at this rate, and a queue.
#[must_use]
pub fn limit(to: &Impairment) -> u32 {
    let Some(rate) = to.rate_bps else { return MOST_PACKETS };
    let bytes = u128::from(rate) * u128::from(to.delay_us + to.jitter_us) / 8_000_000;
    let packets = bytes / u128::from(ON_THE_WAY) + u128::from(WAITING);
    u32::try_from(packets).unwrap_or(MOST_PACKETS).min(MOST_PACKETS)
}

/// How long a link of this rate takes to send `len` bytes.
#[must_use]
pub fn serialisation(rate_bps: u64, len: usize) -> Nanos {
    let nanos = len as u128 * 8_000_000_000 / u128::from(rate_bps.max(1));
    Nanos::try_from(nanos).unwrap_or(Nanos::MAX)
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It leaves at once.
    Pass,
    /// It leaves then; [`Shaper::released`] must be told.
    Hold(Nanos),
    /// Lost, as asked.
    Lost,
    /// There is no room to hold it.
    Overflow,
}

/// One direction of an impaired link.
#[derive(Debug)]
pub struct Shaper {
    to: Impairment,
    limit: usize,
    /// When the last packet has been sent at the link's rate.
    free: Nanos,
    /// When the last packet leaves.
    last: Nanos,
    packets: usize,
    bytes: usize,
}

impl Shaper {
    #[must_use]
    pub fn new(to: Impairment) -> Self {
        Self { to, limit: limit(&to) as usize, free: 0, last: 0, packets: 0, bytes: 0 }
    }

    #[must_use]
    pub fn impairment(&self) -> Impairment {
        self.to
    }

    /// From here on. What is held leaves when it would have left, and what comes after may overtake it.
    pub fn change(&mut self, to: Impairment) {
        let (packets, bytes) = (self.packets, self.bytes);
        *self = Self { packets, bytes, ..Self::new(to) };
    }

    /// Decides about a packet of `len` bytes that comes `now`.
    pub fn admit(&mut self, len: usize, now: Nanos, chance: &mut Chance) -> Verdict {
        if chance.hits(self.to.loss_ppm) {
            return Verdict::Lost;
        }
        if self.packets >= self.limit || self.bytes + len > MOST_BYTES {
            return Verdict::Overflow;
        }
        let sent = match self.to.rate_bps {
            Some(rate) => self.free.max(now).saturating_add(serialisation(rate, len)),
            None => now,
        };
        self.free = sent;
        self.last = self.last.max(sent.saturating_add(self.way(chance)));
        if self.last <= now {
            return Verdict::Pass;
        }
        self.packets += 1;
        self.bytes += len;
        Verdict::Hold(self.last)
    }

    /// A packet of `len` bytes that was held has left.
    pub fn released(&mut self, len: usize) {
        self.packets = self.packets.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(len);
    }

    /// The delay of one packet.
    fn way(&self, chance: &mut Chance) -> Nanos {
        let (delay, jitter) = (self.to.delay_us * 1000, self.to.jitter_us * 1000);
        if jitter == 0 {
            return delay;
        }
        (delay + chance.below(2 * jitter + 1)).saturating_sub(jitter)
    }
}

#[cfg(test)]
mod tests;
