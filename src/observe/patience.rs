//! How long probes are waited for, and how often they are sent, where links are impaired on purpose. Ways and the pace
//! that suits links without impairments go in; a pace that suits these comes out. It never changes a pace where
//! nothing is impaired, and it knows no clock.

use std::time::Duration;

use super::Context;
use super::probe::{Pace, WINDOW};
use crate::model::NodeId;
use crate::routing::{Journey, Journeys};
use crate::shape;

/// Bytes of a probe with the headers of some layers.
const PROBE: usize = 150;
/// Probes that wait in each other's way on a slow link: a window of them.
const QUEUE: usize = WINDOW * PROBE;
/// The chance that probes which could be answered are not, however often they are sent.
const RISK: f64 = 1e-6;
/// The most attempts.
const MOST: u32 = 1000;
/// A way on which less than this share arrives is not expected to work.
pub(crate) const HOPELESS: f64 = 0.1;

/// The longest of some ways, there and back or one way, and the one that loses most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ways {
    time: Duration,
    delivered: f64,
}

impl Ways {
    pub(crate) fn of(journeys: impl IntoIterator<Item = Journey>) -> Self {
        let none = Self { time: Duration::ZERO, delivered: 1.0 };
        journeys.into_iter().fold(none, |worst, journey| Self {
            time: worst.time.max(time(&journey)),
            delivered: worst.delivered.min(journey.delivered.max(HOPELESS)),
        })
    }

    /// There and back, for each of these pairs.
    pub(crate) fn there_and_back(
        ctx: &Context<'_>,
        pairs: impl IntoIterator<Item = (NodeId, NodeId)>,
    ) -> Self {
        if !ctx.lab.impaired() {
            return Self::of([]);
        }
        let journeys = Journeys::new(ctx.lab, ctx.rib);
        Self::of(pairs.into_iter().filter_map(|(from, to)| journeys.round_trip(from, to)))
    }

    /// There and back over each link of these nodes.
    pub(crate) fn to_neighbours(ctx: &Context<'_>, nodes: &[NodeId]) -> Self {
        let ends =
            |id: &NodeId| ctx.lab.node(*id).ends.iter().map(|e| ctx.lab.peer(*e).node).collect::<Vec<_>>();
        Self::there_and_back(ctx, nodes.iter().flat_map(|id| ends(id).into_iter().map(move |far| (*id, far))))
    }

    fn none(&self) -> bool {
        self.time.is_zero() && self.delivered >= 1.0
    }

    /// How much longer an answer takes.
    pub(crate) fn time(&self) -> Duration {
        self.time
    }

    /// At least `least`, and so many that all of `shots` are answered.
    pub(crate) fn attempts(&self, least: u32, shots: usize) -> u32 {
        if self.delivered >= 1.0 {
            return least;
        }
        // With s shots that each fail with f^n, all are answered but for a chance of s * f^n.
        let shots = f64::from(u32::try_from(shots.max(1)).unwrap_or(u32::MAX));
        let needed = (RISK / shots).ln() / (1.0 - self.delivered).ln();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a few")]
        let needed = needed.ceil().clamp(1.0, f64::from(MOST)) as u32;
        least.max(needed)
    }

    /// The same probes with time for the way; as many attempts.
    pub(crate) fn slower(&self, pace: &Pace, shots: usize) -> Pace {
        if self.none() {
            return *pace;
        }
        let retry = pace.retry + self.time;
        let rounds = pace.attempts.min(MOST).saturating_mul(windows(shots));
        let deadline = pace.deadline.max(retry.saturating_mul(rounds).saturating_add(pace.retry));
        Pace { retry, deadline, linger: pace.linger + self.time, ..*pace }
    }

    /// With time for the way, and attempts enough for its losses.
    pub(crate) fn persistent(&self, pace: &Pace, shots: usize) -> Pace {
        if self.none() {
            return *pace;
        }
        // Where attempts have no bound, the deadline must allow for those that losses take.
        let unbounded = pace.attempts == u32::MAX;
        let attempts = self.attempts(if unbounded { 1 } else { pace.attempts }, shots);
        let slower = self.slower(&Pace { attempts, ..*pace }, shots);
        let deadline = if unbounded { slower.deadline + pace.deadline } else { slower.deadline };
        Pace { attempts: if unbounded { u32::MAX } else { attempts }, deadline, ..slower }
    }
}

/// The longest that a probe takes on a way, behind a window of others where a link is slow.
fn time(journey: &Journey) -> Duration {
    let queue = journey.rate_bps.map_or(0, |rate| shape::serialisation(rate, QUEUE));
    Duration::from_micros(journey.delay_us + journey.jitter_us) + Duration::from_nanos(queue)
}

fn windows(shots: usize) -> u32 {
    u32::try_from(shots.div_ceil(WINDOW).max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const PACE: Pace = Pace {
        retry: Duration::from_millis(100),
        attempts: 3,
        errors_settle: false,
        deadline: Duration::from_millis(400),
        linger: Duration::ZERO,
    };

    fn way(delay_ms: u64, delivered: f64) -> Ways {
        Ways::of([Journey { delay_us: delay_ms * 1000, delivered, ..Journey::default() }])
    }

    fn same(a: &Pace, b: &Pace) -> bool {
        (a.retry, a.attempts, a.deadline, a.linger) == (b.retry, b.attempts, b.deadline, b.linger)
    }

    #[test]
    fn without_impairments_nothing_changes() {
        let none = Ways::of([Journey::default()]);
        assert!(same(&none.slower(&PACE, 1000), &PACE) && same(&none.persistent(&PACE, 1000), &PACE));
    }

    #[test]
    fn a_probe_is_not_sent_again_before_it_can_be_answered() {
        let pace = way(250, 1.0).slower(&PACE, WINDOW);
        assert_eq!((pace.retry, pace.attempts, pace.linger), (350 * MS, 3, 250 * MS));
        assert_eq!(pace.deadline, 3 * 350 * MS + 100 * MS);
        assert_eq!(way(250, 1.0).slower(&PACE, WINDOW + 1).deadline, 6 * 350 * MS + 100 * MS);
    }

    #[test]
    fn losses_take_attempts() {
        assert_eq!(way(0, 1.0).attempts(3, 1000), 3);
        // Half is lost: 2^-20 is about a millionth.
        assert_eq!(way(0, 0.5).attempts(3, 1), 20);
        assert_eq!(way(0, 0.5).attempts(3, 1000), 30);
        assert_eq!(way(0, 0.999_999_9).attempts(3, 1), 3);
        let pace = way(10, 0.5).persistent(&PACE, 1);
        assert_eq!((pace.attempts, pace.deadline), (20, 20 * 110 * MS + 100 * MS));
    }

    #[test]
    fn attempts_without_bound_stay_so_and_get_time() {
        let pace = way(1000, 0.5).persistent(&Pace { attempts: u32::MAX, ..PACE }, 1);
        assert_eq!((pace.attempts, pace.deadline), (u32::MAX, 20 * 1100 * MS + 100 * MS + PACE.deadline));
    }

    #[test]
    fn the_slowest_and_the_most_lossy_way_count() {
        let ways = Ways::of([
            Journey { delay_us: 5_000, jitter_us: 1_000, ..Journey::default() },
            Journey { delivered: 0.9, ..Journey::default() },
            Journey { rate_bps: Some(8 * QUEUE as u64), ..Journey::default() },
        ]);
        assert_eq!(ways, Ways { time: 1000 * MS, delivered: 0.9 });
        assert_eq!(way(0, 0.0).delivered, HOPELESS);
    }
}
