use proptest::prelude::*;

use super::*;
use crate::recursion::exchange::Bind;

fn prefix(n: u8) -> Ipv4Net {
    format!("10.{n}.0.0/16").parse().unwrap()
}

fn records(bound: bool, reach: &[(u8, u32)]) -> Records {
    let bind = Bind::new("p1", [10, 9, 0, 1].into(), BTreeSet::new(), 1400).unwrap();
    let reach = reach.iter().map(|(n, metric)| (prefix(*n), *metric)).collect();
    Records { bind: bound.then_some(bind), reach }
}

#[test]
fn announcements_come_before_withdrawals_and_the_binding_before_what_leaves_by_it() {
    let mut log = Log::default();
    log.replace(records(true, &[(1, 5), (2, 5)]));
    let (to, said) = log.after(0);
    assert!(matches!(said[0], Change::Bind(_)), "{said:?}");
    assert_eq!((to, &said[1..]), (3, &[Change::Reach(prefix(1), 5), Change::Reach(prefix(2), 5)][..]));

    log.replace(records(false, &[(2, 6), (3, 5)]));
    let expected = [
        Change::Reach(prefix(2), 6),
        Change::Reach(prefix(3), 5),
        Change::Unbind,
        Change::Unreach(prefix(1)),
    ];
    assert_eq!(log.after(3), (7, expected.to_vec()));
}

#[test]
fn the_same_records_are_no_change() {
    let mut log = Log::default();
    log.replace(records(true, &[(1, 5)]));
    assert!(log.replace(records(true, &[(1, 5)])).is_empty());
    assert_eq!(log.last(), 2);
}

#[test]
fn nothing_is_kept_of_what_all_have_heard_is_gone() {
    let mut log = Log::default();
    for n in 0..200 {
        log.replace(records(n % 3 > 0, &[(n, 5)]));
        let last = log.last();
        log.forget(last);
        let live = usize::from(log.records().bind.is_some()) + log.records().reach.len();
        assert_eq!((log.changes.len(), log.numbers.len(), log.withdrawn.len()), (live, live, 0));
    }
}

fn any_records() -> impl Strategy<Value = Records> {
    let reach = proptest::collection::vec((0u8..100, 0u32..3), 0..100);
    (any::<bool>(), reach).prop_map(|(bound, reach)| records(bound, &reach))
}

proptest! {
    /// Whoever takes all changes after those it has, at whatever moments, has the records.
    #[test]
    fn changes_lead_to_the_records(course in proptest::collection::vec((any_records(), 0u8..4), 1..12)) {
        let (mut log, mut theirs, mut have) = (Log::default(), Records::default(), 0);
        for (records, messages) in course {
            log.replace(records);
            for _ in 0..messages {
                let (to, changes) = log.after(have);
                changes.into_iter().for_each(|change| theirs.apply(change));
                have = to;
            }
            log.forget(have);
        }
        while have < log.last() {
            let (to, changes) = log.after(have);
            prop_assert!(to > have && changes.iter().map(wire::encoded_len).sum::<usize>() <= wire::ROOM);
            changes.into_iter().for_each(|change| theirs.apply(change));
            have = to;
        }
        prop_assert_eq!(&theirs, log.records());
        prop_assert_eq!(wire::digest(&theirs), log.digest());
    }
}
