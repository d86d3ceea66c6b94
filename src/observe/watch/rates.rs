//! Rates from two samples of counters. What was counted before and after and the time between go in; amounts a second come out.
//! It reads no clock, and never gives a number where the two samples are not of one thing.

use std::time::Duration;

use serde::Serialize;

use crate::observe::EndStats;

/// The device of a link's end at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// The kernel's number of the device: another one is another device, whatever its name.
    pub index: u32,
    pub stats: EndStats,
}

/// What passes one end in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Flow {
    pub bits_per_s: u64,
    pub packets_per_s: u64,
}

/// What passes one end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Flows {
    pub sent: Flow,
    pub received: Flow,
    /// By the device itself, both ways, packets a second.
    pub dropped_per_s: u64,
}

impl Flows {
    /// `None` where one of the samples lacks the device, or they are of two devices.
    #[must_use]
    pub fn between(before: Option<Reading>, after: Option<Reading>, time: Duration) -> Option<Self> {
        let (before, after) = before.zip(after).filter(|(b, a)| b.index == a.index)?;
        let (b, a) = (before.stats, after.stats);
        Some(Self {
            sent: flow([b.tx_bytes, a.tx_bytes], [b.tx_packets, a.tx_packets], time),
            received: flow([b.rx_bytes, a.rx_bytes], [b.rx_packets, a.rx_packets], time),
            dropped_per_s: per_second(
                grown(b.rx_dropped, a.rx_dropped) + grown(b.tx_dropped, a.tx_dropped),
                time,
            ),
        })
    }
}

fn flow(bytes: [u64; 2], packets: [u64; 2], time: Duration) -> Flow {
    Flow {
        bits_per_s: per_second(grown(bytes[0], bytes[1]).saturating_mul(8), time),
        packets_per_s: per_second(grown(packets[0], packets[1]), time),
    }
}

/// How much a counter has counted. One that is smaller than it was began again from zero, and what it had counted before
/// that nobody knows.
pub(super) fn grown(before: u64, after: u64) -> u64 {
    after.checked_sub(before).unwrap_or(after)
}

/// Rounded to the nearest; nothing where no time has passed.
pub(super) fn per_second(amount: u64, time: Duration) -> u64 {
    let ns = time.as_nanos();
    if ns == 0 {
        return 0;
    }
    let rate = (u128::from(amount) * 1_000_000_000 + ns / 2) / ns;
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// Processor time of a process: its id and the ticks it has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticks {
    pub(super) pid: i32,
    pub(super) used: u64,
}

/// Hundredths of one processor that a process used; `None` where it is another process.
pub(super) fn processor(before: Option<Ticks>, after: Option<Ticks>, time: Duration, hz: u64) -> Option<u64> {
    let (before, after) = before.zip(after).filter(|(b, a)| b.pid == a.pid)?;
    Some(per_second(after.used.saturating_sub(before.used).saturating_mul(100), time) / hz.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn reading(index: u32, bytes: u64, packets: u64) -> Option<Reading> {
        let stats = EndStats { tx_bytes: bytes, tx_packets: packets, ..EndStats::default() };
        Some(Reading { index, stats })
    }

    fn sent(before: Option<Reading>, after: Option<Reading>, time: Duration) -> Option<(u64, u64)> {
        Flows::between(before, after, time).map(|f| (f.sent.bits_per_s, f.sent.packets_per_s))
    }

    #[test]
    fn rates_are_amounts_over_time() {
        assert_eq!(sent(reading(7, 1000, 10), reading(7, 2000, 13), SECOND), Some((8000, 3)));
        assert_eq!(sent(reading(7, 1000, 10), reading(7, 2000, 13), SECOND / 2), Some((16000, 6)));
        assert_eq!(sent(reading(7, 0, 0), reading(7, 0, 1), SECOND * 2), Some((0, 1)), "rounded");
        assert_eq!(sent(reading(7, 0, 0), reading(7, 5, 1), Duration::ZERO), Some((0, 0)));
    }

    #[test]
    fn received_and_dropped_are_apart_from_sent() {
        let stats = |n: u64| EndStats {
            rx_bytes: n,
            rx_packets: 2 * n,
            rx_dropped: n,
            tx_dropped: n,
            ..EndStats::default()
        };
        let of = |n: u64| Some(Reading { index: 1, stats: stats(n) });
        let flows = Flows::between(of(1), of(4), SECOND).unwrap();
        assert_eq!(flows.sent, Flow::default());
        assert_eq!(flows.received, Flow { bits_per_s: 24, packets_per_s: 6 });
        assert_eq!(flows.dropped_per_s, 6);
    }

    #[test]
    fn a_counter_that_began_again_counts_from_zero() {
        assert_eq!(sent(reading(7, 1_000_000, 900), reading(7, 100, 1), SECOND), Some((800, 1)));
        assert_eq!(grown(u64::MAX, 5), 5);
    }

    #[test]
    fn another_device_of_the_same_name_has_no_rate_yet() {
        assert_eq!(sent(reading(7, 0, 0), reading(8, 5000, 5), SECOND), None);
        assert_eq!(sent(None, reading(8, 5000, 5), SECOND), None);
        assert_eq!(sent(reading(7, 0, 0), None, SECOND), None);
    }

    #[test]
    fn processor_time_is_of_one_process() {
        let ticks = |pid: i32, used: u64| Some(Ticks { pid, used });
        assert_eq!(processor(ticks(1, 100), ticks(1, 150), SECOND, 100), Some(50));
        assert_eq!(processor(ticks(1, 100), ticks(1, 150), SECOND * 2, 100), Some(25));
        assert_eq!(processor(ticks(1, 100), ticks(2, 150), SECOND, 100), None);
        assert_eq!(processor(None, ticks(2, 150), SECOND, 100), None);
    }

    #[test]
    fn the_largest_amounts_do_not_overflow() {
        assert_eq!(per_second(u64::MAX, Duration::from_nanos(1)), u64::MAX);
        assert_eq!(sent(reading(1, 0, 0), reading(1, u64::MAX, 0), SECOND), Some((u64::MAX, 0)));
    }
}
