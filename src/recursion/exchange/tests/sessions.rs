//! Sessions: how they begin and end, what is refused, and what is sent again.

use proptest::prelude::*;

use super::*;
use crate::recursion::exchange::wire::{Seal, emit};

/// A peer at port 2 that says whatever a test wants, and the speaker at port 1 that hears it.
struct Bench {
    speaker: Speaker,
    seal: Seal,
    header: Header,
}

const PREFIX: &str = "10.2.0.0/16";

impl Bench {
    /// Both have heard each other, and the peer said that [`PREFIX`] leaves by its port.
    fn new() -> Self {
        let mut speaker = Speaker::new(&config(1, 3), Duration::ZERO).unwrap();
        speaker.handle_local(Duration::ZERO, records(1, 1400, &[("10.1.0.0/16", 1)])).unwrap();
        let header = Header {
            router: Ipv4Addr::new(9, 9, 9, 9),
            port: Port(2),
            hold_ms: 1000,
            number: 0,
            epoch: 5_000,
            heard: 1_000,
            ack: 0,
        };
        let mut bench = Self { speaker, seal: Seal::new(&Key::default()), header };
        bench.update(ms(0), 0, 2, &records(2, 1400, &[(PREFIX, 1)]).changes().collect::<Vec<_>>()).unwrap();
        assert_eq!(bench.table(), 1);
        bench
    }

    fn message(&mut self, body: &Body<&[Change]>) -> Vec<u8> {
        self.header.number += 1;
        emit(&self.header, body, &self.seal, u(2), u(1))
    }

    fn update(&mut self, now: Duration, from: u64, to: u64, changes: &[Change]) -> Result<(), Refused> {
        let bytes = self.message(&Body::Update { from, to, changes });
        self.speaker.handle_datagram(now, u(2), &bytes)
    }

    fn hello(&mut self, now: Duration, last: u64) -> Result<(), Refused> {
        let digest = wire::digest(self.status().records);
        let bytes = self.message(&Body::Hello { last, digest });
        self.speaker.handle_datagram(now, u(2), &bytes)
    }

    fn status(&self) -> PeerStatus<'_> {
        self.speaker.peers().next().unwrap()
    }

    fn table(&self) -> usize {
        self.speaker.table().len()
    }

    /// What the speaker sends to the peer.
    fn sent(&mut self) -> Vec<Vec<u8>> {
        let all = std::iter::from_fn(|| self.speaker.poll_transmit());
        all.filter(|(to, _)| *to == u(2)).map(|(_, bytes)| bytes).collect()
    }

    fn spans(&mut self) -> Vec<(u64, u64)> {
        let span = |bytes: &Vec<u8>| match Message::new_checked(bytes).unwrap().body {
            Body::Hello { .. } => None,
            Body::Update { from, to, .. } => Some((from, to)),
        };
        self.sent().iter().filter_map(span).collect()
    }
}

fn unreach() -> Vec<Change> {
    vec![Change::Unreach(prefix(PREFIX))]
}

#[test]
fn who_is_not_heard_for_the_hold_time_is_forgotten() {
    let mut bench = Bench::new();
    bench.hello(ms(400), 2).unwrap();
    bench.speaker.handle_timeout(ms(1399));
    assert_eq!((bench.table(), bench.status().lease), (1, ms(1)));
    assert!(bench.speaker.poll_timeout().is_some_and(|due| due <= ms(1400)));
    bench.speaker.handle_timeout(ms(1400));
    assert_eq!((bench.table(), bench.status().state), (0, State::Down));
    let hello = bench.sent().pop().unwrap();
    let header = Message::new_checked(&hello).unwrap().header;
    assert_eq!((header.epoch, header.heard), (1_001, 0), "the next epoch, and nobody is heard");
}

#[test]
fn the_hold_time_is_the_senders() {
    let mut bench = Bench::new();
    bench.header.hold_ms = 3000;
    bench.hello(ms(100), 2).unwrap();
    bench.speaker.handle_timeout(ms(3099));
    assert_eq!(bench.table(), 1);
    bench.speaker.handle_timeout(ms(3100));
    assert_eq!(bench.table(), 0);
}

#[test]
fn a_late_datagram_comes_after_the_hold_time_has_done_its_work() {
    let mut bench = Bench::new();
    bench.hello(ms(5000), 2).unwrap(); // nobody called handle_timeout
    assert_eq!((bench.table(), bench.status().state), (0, State::Init));
}

#[test]
fn a_new_life_makes_void_what_was_said_in_the_old_one() {
    let mut bench = Bench::new();
    bench.header = Header { epoch: 5_001, number: 0, heard: 0, ..bench.header };
    let bytes = bench.message(&Body::Hello { last: 0, digest: 0 });
    bench.speaker.handle_datagram(ms(10), u(2), &bytes).unwrap();
    assert_eq!((bench.table(), bench.status().state), (0, State::Init));
    bench.header.heard = 1_000;
    bench.update(ms(20), 0, 1, &[Change::Reach(prefix(PREFIX), 1)]).unwrap();
    assert_eq!((bench.table(), bench.status().state), (0, State::Up), "no binding in this life");
}

#[test]
fn a_message_of_a_former_life_changes_nothing() {
    let mut bench = Bench::new();
    let late = bench.message(&Body::Update { from: 0, to: 9, changes: &unreach() });
    bench.header = Header { epoch: 6_000, number: 0, ..bench.header };
    bench.update(ms(10), 0, 2, &records(2, 1400, &[(PREFIX, 1)]).changes().collect::<Vec<_>>()).unwrap();
    bench.speaker.handle_datagram(ms(900), u(2), &late).unwrap();
    assert_eq!((bench.table(), bench.status().lease), (1, ms(110)));
}

#[test]
fn what_was_meant_for_a_former_life_of_the_receiver_changes_nothing() {
    let mut bench = Bench::new();
    bench.header.heard = 999;
    bench.update(ms(10), 2, 3, &unreach()).unwrap();
    bench.speaker.handle_timeout(ms(300));
    assert_eq!((bench.table(), bench.status().lease), (1, ms(700)), "and renews no lease");
}

#[test]
fn records_are_used_only_where_both_hear_each_other() {
    let said = [records(1, 1400, &[("10.1.0.0/16", 1)]), records(2, 1400, &[("10.2.0.0/16", 1)])];
    let mut network = settled(&said);
    network.cut.insert((0, 1));
    network.run_for(ms(1010));
    assert_eq!(network.speaker(1).peers().next().unwrap().state, State::Down);
    assert_eq!(network.speaker(0).peers().next().unwrap().state, State::Init);
    assert!(network.speaker(0).table().is_empty() && network.speaker(1).table().is_empty());
    network.cut.clear();
    network.run_for(ms(350));
    network.check().unwrap();
}

#[test]
fn a_session_begins_with_the_first_message_that_arrives() {
    let mut network = Network::new(2, 1, Weather { longest_ms: 1, ..Weather::FAIR });
    network.set(1, records(2, 1400, &[("10.2.0.0/16", 1)]));
    network.start(0);
    network.run_for(ms(1000));
    network.start(1);
    network.run_for(ms(10)); // HELLO, answer, UPDATE: no timer is waited for
    network.check().unwrap();
    assert_eq!(network.speaker(0).table().len(), 1);
}

#[test]
fn records_that_cannot_be_the_peers_begin_a_new_session() {
    let mut bench = Bench::new();
    bench.hello(ms(10), 3).unwrap();
    assert_eq!(bench.status().state, State::Up, "the rest is under way");
    assert!(!bench.status().complete);
    let bytes = bench.message(&Body::Hello { last: 2, digest: 77 });
    bench.speaker.handle_datagram(ms(20), u(2), &bytes).unwrap();
    assert_eq!((bench.table(), bench.status().state), (0, State::Down), "another digest");

    let mut bench = Bench::new();
    bench.hello(ms(20), 1).unwrap();
    assert_eq!((bench.table(), bench.status().state), (0, State::Down), "fewer changes than were heard");
}

#[test]
fn who_has_lost_its_memory_learns_all_again() {
    let said = [records(1, 1400, &[("10.1.0.0/16", 1)]), records(2, 1400, &[("10.2.0.0/16", 1)])];
    let mut network = settled(&said);
    let peer = network.edges[0].speaker.as_mut().unwrap().peers.get_mut(&u(2)).unwrap();
    peer.damage_what_it_said();
    network.edges[0].broken = 1;
    network.run_for(ms(400));
    network.check().unwrap();
    let speaker = network.speaker(0);
    let peer = speaker.peers().next().unwrap();
    assert_eq!((peer.records.reach.len(), peer.broken), (1, 1));
}

#[test]
fn changes_that_come_in_any_order_are_taken_in_theirs() {
    let reach = |n: u8, metric| Change::Reach(Ipv4Net::new([10, 2, n, 0].into(), 24).unwrap(), metric);
    let mut bench = Bench::new();
    bench.update(ms(1), 4, 6, &[reach(1, 9), Change::Unreach(prefix(PREFIX))]).unwrap();
    bench.update(ms(2), 3, 4, &[reach(2, 1)]).unwrap();
    assert_eq!(bench.table(), 1, "change 3 is missing");
    bench.update(ms(3), 2, 3, &[reach(1, 1)]).unwrap();
    let records = bench.status().records.clone();
    assert_eq!(
        records.reach.into_iter().map(|(p, m)| (p.to_string(), m)).collect::<Vec<_>>(),
        [("10.2.1.0/24".to_owned(), 9), ("10.2.2.0/24".to_owned(), 1)]
    );
    bench.update(ms(4), 1, 3, &[reach(1, 1)]).unwrap(); // once more, late
    assert_eq!(bench.status().records.reach.len(), 2);
    bench.hello(ms(5), 6).unwrap();
    assert!(bench.status().complete);
}

#[test]
fn a_replayed_message_neither_renews_the_lease_nor_brings_back_what_was_withdrawn() {
    let mut bench = Bench::new();
    let all = records(2, 1400, &[(PREFIX, 1)]).changes().collect::<Vec<_>>();
    let update = bench.message(&Body::Update { from: 0, to: 2, changes: &all });
    let digest = wire::digest(bench.status().records);
    let hello = bench.message(&Body::Hello { last: 2, digest });
    bench.speaker.handle_datagram(ms(1), u(2), &hello).unwrap();
    bench.update(ms(2), 2, 3, &unreach()).unwrap();
    for bytes in [&update, &hello] {
        bench.speaker.handle_datagram(ms(900), u(2), bytes).unwrap();
        assert_eq!((bench.table(), bench.status().lease, bench.status().state), (0, ms(102), State::Up));
    }
    bench.speaker.handle_timeout(ms(1002));
    for bytes in [&update, &hello] {
        bench.speaker.handle_datagram(ms(1003), u(2), bytes).unwrap();
        assert_eq!(
            (bench.table(), bench.status().state),
            (0, State::Init),
            "it says that it hears another epoch"
        );
    }
}

#[test]
fn what_is_no_message_of_a_peer_is_refused() {
    let mut bench = Bench::new();
    let hello = Body::Hello { last: 2, digest: 0 };
    let good = bench.header;
    let foreign = records(3, 1400, &[]).changes().collect::<Vec<_>>();
    let cases = [
        (Header { router: u(7), ..good }, hello, u(2), Refused::Router(u(7))),
        (Header { port: Port(3), ..good }, hello, u(2), Refused::Port(Port(3))),
        (good, hello, u(9), Refused::Stranger(u(9))),
        (good, hello, u(3), Refused::Authenticator), // sealed as from port 2
        (Header { epoch: 0, ..good }, hello, u(2), Refused::Malformed(Malformed::Value)),
        (good, Body::Update { from: 2, to: 3, changes: &foreign[..] }, u(2), Refused::ThirdParty(u(3))),
    ];
    bench.sent();
    for (header, body, from, refused) in cases {
        let header = Header { number: 100, ..header };
        let bytes = emit(&header, &body, &bench.seal, u(2), u(1));
        assert_eq!(bench.speaker.handle_datagram(ms(5), from, &bytes), Err(refused));
        assert_eq!((bench.table(), bench.status().lease, bench.sent().len()), (1, ms(995), 0));
    }
    let other = Seal::new(&Key([7; 32]));
    let bytes = emit(&good, &hello, &other, u(2), u(1));
    assert_eq!(bench.speaker.handle_datagram(ms(5), u(2), &bytes), Err(Refused::Authenticator));
}

#[test]
fn an_update_that_is_not_acknowledged_is_sent_again_after_ever_longer_pauses() {
    let mut bench = Bench::new();
    assert_eq!(bench.spans(), [(0, 2)]);
    let mut times = Vec::new();
    for now in 1..4000 {
        if now % 300 == 0 {
            bench.hello(ms(now), 2).unwrap();
        }
        bench.speaker.handle_timeout(ms(now));
        for span in bench.spans() {
            assert_eq!(span, (0, 2));
            times.push(now);
        }
    }
    assert_eq!(times, [100, 300, 700, 1500, 2300, 3100, 3900]);
    bench.header.ack = 2;
    bench.hello(ms(4000), 2).unwrap();
    bench.speaker.handle_timeout(ms(4900));
    assert!(bench.spans().is_empty() && bench.status().told);
}

#[test]
fn no_more_than_a_window_is_under_way() {
    let mut bench = Bench::new();
    let reach = (0..2000u32).map(|n| (Ipv4Net::new((n << 8).into(), 24).unwrap(), 1)).collect();
    bench.speaker.handle_local(ms(1), Records { reach, ..records(1, 1400, &[]) }).unwrap();
    let first = bench.spans();
    assert_eq!(first.len(), 8);
    assert!(first.iter().zip(&first[1..]).all(|(a, b)| a.1 == b.0), "{first:?}");
    bench.header.ack = first[2].1;
    bench.hello(ms(2), 2).unwrap();
    let next = bench.spans();
    assert_eq!((next.len(), next[0].0), (3, first[7].1), "as many as were acknowledged");
}

#[test]
fn an_acknowledgement_that_cannot_be_or_is_late_means_nothing() {
    let mut bench = Bench::new();
    let reach = (0..200u32).map(|n| (Ipv4Net::new((n << 8).into(), 24).unwrap(), 1)).collect();
    bench.speaker.handle_local(ms(1), Records { reach, ..records(1, 1400, &[]) }).unwrap();
    let first = bench.spans();
    bench.header.ack = first[0].1;
    let late = bench.message(&Body::Update { from: 0, to: 1, changes: &[] });
    bench.header.ack = first[1].1;
    bench.hello(ms(2), 2).unwrap();
    bench.speaker.handle_datagram(ms(3), u(2), &late).unwrap();
    bench.header.ack = first.last().unwrap().1 + 1;
    bench.hello(ms(4), 2).unwrap();
    assert!(!bench.status().told && bench.spans().is_empty());
    bench.speaker.handle_timeout(ms(200));
    assert_eq!(bench.spans(), first[2..], "what was acknowledged in good time is not sent again");
}

#[test]
fn what_lingers_ends_when_its_speaker_says_otherwise() {
    let lingers = |bench: &Bench| bench.speaker.peers[&u(2)].lingering(&prefix(PREFIX)).is_some();
    let mut bench = Bench::new();
    bench.update(ms(1), 2, 3, &unreach()).unwrap();
    assert!(lingers(&bench) && bench.table() == 1);
    bench.update(ms(2), 3, 4, &[Change::Reach(prefix(PREFIX), 5)]).unwrap();
    assert!(!lingers(&bench) && bench.table() == 1, "announced again");

    bench.update(ms(3), 4, 5, &unreach()).unwrap();
    bench.update(ms(4), 5, 6, &[Change::Unbind]).unwrap();
    bench.update(ms(5), 6, 7, &[records(2, 1400, &[]).changes().next().unwrap()]).unwrap();
    assert!(!lingers(&bench) && bench.table() == 0, "closed, and open again");
}

#[test]
fn a_port_that_closes_is_not_used_though_its_prefixes_were_not_withdrawn() {
    let mut bench = Bench::new();
    bench.update(ms(1), 2, 3, &[Change::Unbind]).unwrap();
    assert_eq!((bench.table(), bench.status().records.reach.len()), (0, 1));
    bench.update(ms(2), 3, 4, &unreach()).unwrap();
    assert_eq!(bench.table(), 0, "and does not linger");
}

#[test]
fn only_hellos_are_sent_while_nothing_changes() {
    let said = [1u16, 2, 3].map(|port| records(port, 1400, &[("10.0.0.0/8", port.into())]));
    let mut network = settled(&said);
    let (updates, sent) = (network.updates, network.sent());
    network.run_for(Duration::from_secs(30));
    assert_eq!((network.updates - updates, network.sent() - sent), (0, 3 * 2 * 100));
}

/// Numbers that matter to the bench, and those at the ends.
fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..6, 998u64..1_003, 4_999u64..5_002, Just(u64::MAX - 1), Just(u64::MAX), any::<u64>()]
}

fn any_change() -> impl Strategy<Value = Change> {
    let prefix =
        (0u8..4, 0u8..=32).prop_map(|(n, len)| Ipv4Net::new([10, n, 0, 0].into(), len).unwrap().trunc());
    prop_oneof![
        Just(records(2, 1400, &[]).changes().next().unwrap()),
        (prefix.clone(), any::<u32>()).prop_map(|(prefix, metric)| Change::Reach(prefix, metric)),
        prefix.prop_map(Change::Unreach),
        Just(Change::Unbind),
    ]
}

prop_compose! {
    fn any_message()(
        [epoch, heard, ack, first, second] in [any_number(), any_number(), any_number(), any_number(), any_number()],
        (number, hold_ms) in (any::<u32>(), 1u16..),
        changes in proptest::collection::vec(any_change(), 0..8),
        hello: bool,
    ) -> Vec<u8> {
        let header = Header { number, hold_ms, epoch, heard, ack, router: [9, 9, 9, 9].into(), port: Port(2) };
        let body = if hello {
            Body::Hello { last: first, digest: second }
        } else {
            Body::Update { from: first, to: second, changes: &changes[..] }
        };
        emit(&header, &body, &Seal::new(&Key::default()), u(2), u(1))
    }
}

proptest! {
    /// A peer may say anything: no entry is without an exit, nothing is left undone, and the time goes on.
    #[test]
    fn a_peer_may_say_anything(course in proptest::collection::vec((any_message(), 0u64..500), 0..30)) {
        let (mut bench, mut now) = (Bench::new(), ms(0));
        for (bytes, pause) in course {
            now += ms(pause);
            let _ = bench.speaker.handle_datagram(now, u(2), &bytes);
            prop_assert!(bench.sent().iter().all(|bytes| bytes.len() <= MAX_LEN));
            prop_assert!(bench.speaker.poll_timeout().is_some_and(|due| due > now));
            let only = [Exit { port: Port(2), u: u(2) }];
            let named = bench.speaker.table().values().all(|entry| entry.exits == only);
            prop_assert!(named);
        }
        bench.speaker.handle_timeout(now + Duration::from_secs(66));
        prop_assert!(bench.speaker.table().is_empty());
    }
}
