//! The shaper with a clock of the tests' own.

use proptest::prelude::*;

use super::*;

const MS: Nanos = 1_000_000;

fn impairment(delay_us: u64, jitter_us: u64, loss_ppm: u32, rate_bps: Option<u64>) -> Impairment {
    Impairment { delay_us, jitter_us, loss_ppm, rate_bps }
}

fn chance() -> Chance {
    Chance::new(1)
}

#[test]
fn nothing_asked_is_nothing_done() {
    let mut shaper = Shaper::new(Impairment::default());
    for now in 0..100 {
        assert_eq!(shaper.admit(1500, now, &mut chance()), Verdict::Pass);
    }
}

#[test]
fn delay_is_exact_and_keeps_the_distances() {
    let mut shaper = Shaper::new(impairment(10_000, 0, 0, None));
    for now in [0, 3, 3, 7 * MS] {
        assert_eq!(shaper.admit(64, now, &mut chance()), Verdict::Hold(now + 10 * MS));
    }
}

#[test]
fn rate_spaces_packets_and_an_idle_link_is_free() {
    let mut shaper = Shaper::new(impairment(0, 0, 0, Some(8_000_000)));
    let mut at = |now| match shaper.admit(1000, now, &mut chance()) {
        Verdict::Hold(until) => until,
        other @ (Verdict::Pass | Verdict::Lost | Verdict::Overflow) => panic!("{other:?}"),
    };
    assert_eq!([at(0), at(0), at(MS / 2)], [MS, 2 * MS, 3 * MS]);
    assert_eq!(at(10 * MS), 11 * MS);
}

#[test]
fn rate_comes_before_the_way() {
    let mut shaper = Shaper::new(impairment(5_000, 0, 0, Some(8_000_000)));
    assert_eq!(shaper.admit(1000, 0, &mut chance()), Verdict::Hold(6 * MS));
    assert_eq!(shaper.admit(1000, 0, &mut chance()), Verdict::Hold(7 * MS));
}

#[test]
fn jitter_is_evenly_spread_about_the_delay() {
    let mut chance = chance();
    let mut delays = Vec::new();
    for i in 0..10_000 {
        // So far apart that none has to wait for another.
        let now = i * 100 * MS;
        let mut shaper = Shaper::new(impairment(10_000, 4_000, 0, None));
        let Verdict::Hold(until) = shaper.admit(64, now, &mut chance) else { panic!("held") };
        delays.push(until - now);
    }
    let mean = delays.iter().sum::<Nanos>() / 10_000;
    assert!((9_900_000..10_100_000).contains(&mean), "{mean}");
    assert!(delays.iter().all(|d| (6 * MS..=14 * MS).contains(d)));
    let near = delays.iter().filter(|d| (8 * MS..12 * MS).contains(d)).count();
    assert!((4_700..5_300).contains(&near), "{near}");
}

#[test]
fn a_full_queue_refuses_until_something_has_left() {
    let to = impairment(0, 0, 0, Some(1_000));
    let mut shaper = Shaper::new(to);
    let count = limit(&to) as usize;
    for _ in 0..count {
        assert!(matches!(shaper.admit(100, 0, &mut chance()), Verdict::Hold(_)));
    }
    assert_eq!(shaper.admit(100, 0, &mut chance()), Verdict::Overflow);
    shaper.released(100);
    assert!(matches!(shaper.admit(100, 0, &mut chance()), Verdict::Hold(_)));
}

#[test]
fn bytes_are_bounded_too() {
    let mut shaper = Shaper::new(impairment(60_000_000, 0, 0, None));
    let held = (0..).take_while(|_| matches!(shaper.admit(65_535, 0, &mut chance()), Verdict::Hold(_)));
    assert_eq!(held.count(), MOST_BYTES / 65_535);
}

#[test]
fn queues_hold_what_is_on_the_way() {
    assert_eq!(limit(&impairment(0, 0, 0, None)), MOST_PACKETS);
    assert_eq!(limit(&impairment(0, 0, 0, Some(100_000_000))), 1000);
    // 100 Mbit/s for 100 ms are 1.25 MB.
    assert_eq!(limit(&impairment(90_000, 10_000, 0, Some(100_000_000))), 1000 + 2500);
    assert_eq!(limit(&impairment(60_000_000, 0, 0, Some(u64::MAX))), MOST_PACKETS);
}

#[test]
fn what_comes_after_a_change_does_not_wait_for_what_was_before() {
    let mut shaper = Shaper::new(impairment(60_000_000, 0, 0, Some(8)));
    assert!(matches!(shaper.admit(1500, 0, &mut chance()), Verdict::Hold(_)));
    shaper.change(impairment(1_000, 0, 0, None));
    assert_eq!(shaper.admit(1500, 5, &mut chance()), Verdict::Hold(MS + 5));
    shaper.change(Impairment::default());
    assert_eq!(shaper.admit(1500, 6, &mut chance()), Verdict::Pass);
}

#[test]
fn things_come_out_when_due_in_order() {
    let mut later = Later::default();
    for (at, what) in [(5, 'c'), (3, 'a'), (9, 'e'), (3, 'b'), (5, 'd')] {
        later.push(at, what);
    }
    assert_eq!(later.pop(2), None);
    let out: String = std::iter::from_fn(|| later.pop(5)).collect();
    assert_eq!(out, "abcd");
    assert_eq!(later.pop_if(9, |what| *what == 'x'), None);
    assert_eq!(later.pop_if(9, |what| *what == 'e'), Some('e'));
    assert!(later.is_empty() && later.due().is_none());
}

proptest! {
    /// Whatever is asked: no packet twice, none out of order, none before its time, and what is not lost or refused
    /// comes out.
    #[test]
    fn order_is_kept_and_nothing_is_made_up(
        (delay, jitter) in (0u64..50_000).prop_flat_map(|d| (Just(d), 0..=d)),
        loss in 0u32..300_000,
        rate in proptest::option::of(8_000u64..10_000_000_000),
        packets in proptest::collection::vec((0u64..3_000_000, 20usize..1500), 1..200),
        seed: u64,
    ) {
        let (mut shaper, mut chance) = (Shaper::new(impairment(delay, jitter, loss, rate)), Chance::new(seed));
        let (mut later, mut out, mut now, mut dropped) = (Later::default(), Vec::new(), 0, 0);
        for (number, (gap, len)) in packets.iter().enumerate() {
            now += gap;
            while let Some((number, len)) = later.pop(now) {
                shaper.released(len);
                out.push(number);
            }
            match shaper.admit(*len, now, &mut chance) {
                Verdict::Pass => {
                    prop_assert!(later.is_empty());
                    out.push(number);
                }
                Verdict::Hold(until) => {
                    let earliest = now + (delay - jitter) * 1000 + rate.map_or(0, |r| serialisation(r, *len));
                    prop_assert!(until >= earliest);
                    later.push(until, (number, *len));
                }
                Verdict::Lost | Verdict::Overflow => dropped += 1,
            }
        }
        out.extend(std::iter::from_fn(|| later.pop(Nanos::MAX)).map(|(number, _)| number));
        prop_assert!(out.windows(2).all(|w| w[0] < w[1]));
        prop_assert_eq!(out.len() + dropped, packets.len());
        prop_assert!(loss > 0 || dropped == 0);
    }

    #[test]
    fn losses_are_as_many_as_asked(loss in 0u32..=1_000_000, seed: u64) {
        let (mut shaper, mut chance) = (Shaper::new(impairment(0, 0, loss, None)), Chance::new(seed));
        let packets = 20_000;
        let lost = (0..packets).filter(|_| shaper.admit(64, 0, &mut chance) == Verdict::Lost).count();
        let share = f64::from(loss) / 1e6;
        let expected = share * f64::from(packets);
        // Seven standard deviations.
        let slack = 7.0 * (f64::from(packets) * share * (1.0 - share)).sqrt() + 1e-9;
        #[expect(clippy::cast_precision_loss, reason = "thousands")]
        let lost = lost as f64;
        prop_assert!((lost - expected).abs() <= slack, "{lost} of {packets}, {expected} expected");
    }
}
