use super::*;

mod chaos;
mod network;
mod sessions;

use network::{Network, Weather};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn u(port: u16) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, u8::try_from(port).unwrap())
}

fn config(port: u16, of: u16) -> Config {
    Config {
        router: Ipv4Addr::new(9, 9, 9, 9),
        port: Port(port),
        u: u(port),
        epoch: 1_000,
        peers: (1..=of).filter(|other| *other != port).map(|other| (Port(other), u(other))).collect(),
        key: Key::default(),
        timers: Timers::default(),
    }
}

fn records(port: u16, mtu: u16, reach: &[(&str, u32)]) -> Records {
    let address = Ipv4Addr::new(192, 168, u8::try_from(port).unwrap(), 1);
    let bind = Bind::new(format!("p{port}"), u(port), [address].into(), mtu).unwrap();
    let reach = reach.iter().map(|(prefix, metric)| (prefix.parse().unwrap(), *metric)).collect();
    Records { bind: Some(bind), reach }
}

/// Speakers in fair weather that say this, one after the other, and have heard each other.
fn settled(said: &[Records]) -> Network {
    let ports = u16::try_from(said.len()).unwrap();
    let mut network = Network::new(ports, 1, Weather::FAIR);
    for (at, records) in said.iter().enumerate() {
        network.set(at, records.clone());
    }
    network.start_all();
    network.run_for(ms(100));
    network.check().unwrap();
    network
}

/// The table, a line for each prefix: exits by port, metric, MTU, and `local`.
fn lines(speaker: &Speaker) -> Vec<String> {
    let line = |(prefix, entry): (&Ipv4Net, &Entry)| {
        let exits: Vec<String> = entry.exits.iter().map(|exit| exit.port.to_string()).collect();
        let local = if entry.local { " local" } else { "" };
        format!("{prefix} by {} metric {} mtu {}{local}", exits.join("+"), entry.metric, entry.mtu)
    };
    speaker.table().iter().map(line).collect()
}

fn prefix(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

#[test]
fn e6_e7_each_edge_learns_what_leaves_by_the_others() {
    let network = settled(&[
        records(1, 1420, &[("10.1.0.0/16", 10)]),
        records(2, 1400, &[("10.2.0.0/16", 10), ("10.4.0.0/16", 7)]),
        records(3, 1300, &[("10.3.0.0/16", 10), ("10.4.0.0/16", 7)]),
    ]);
    let first = network.speaker(0);
    assert_eq!(
        lines(first),
        [
            "10.2.0.0/16 by 2 metric 10 mtu 1400",
            "10.3.0.0/16 by 3 metric 10 mtu 1300",
            "10.4.0.0/16 by 2+3 metric 7 mtu 1300",
        ]
    );
    let us: Vec<Ipv4Addr> = first.table()[&prefix("10.4.0.0/16")].exits.iter().map(|exit| exit.u).collect();
    assert_eq!(us, [u(2), u(3)]);
    assert_eq!(
        lines(network.speaker(1)),
        [
            "10.1.0.0/16 by 1 metric 10 mtu 1420",
            "10.3.0.0/16 by 3 metric 10 mtu 1300",
            "10.4.0.0/16 by 3 metric 7 mtu 1300 local",
        ]
    );
    assert!(first.is_complete() && first.peers().all(|peer| peer.told && peer.complete));
}

#[test]
fn the_lowest_metric_wins_wherever_it_is() {
    let reach = |metric| [("10.0.0.0/8", metric)];
    let cases = [
        ([5, 7, 7], vec![]),
        ([7, 5, 7], vec!["10.0.0.0/8 by 2 metric 5 mtu 1400"]),
        ([7, 5, 5], vec!["10.0.0.0/8 by 2+3 metric 5 mtu 1400"]),
        ([5, 5, 7], vec!["10.0.0.0/8 by 2 metric 5 mtu 1400 local"]),
    ];
    for (metrics, expected) in cases {
        let said = [1u16, 2, 3].map(|port| records(port, 1400, &reach(metrics[usize::from(port) - 1])));
        assert_eq!(lines(settled(&said).speaker(0)), expected, "{metrics:?}");
    }
}

#[test]
fn what_leaves_by_a_port_without_binding_is_not_used() {
    let open = records(2, 1400, &[("10.2.0.0/16", 1)]);
    let closed = Records { bind: None, ..open.clone() };
    let mut network = settled(&[Records::default(), closed.clone()]);
    assert!(network.speaker(0).table().is_empty());
    assert_eq!(network.speaker(0).peers().next().unwrap().records, &closed);
    network.set(1, open);
    network.run_for(ms(20));
    assert_eq!(lines(network.speaker(0)), ["10.2.0.0/16 by 2 metric 1 mtu 1400"]);
    network.set(1, closed);
    network.run_for(ms(20));
    assert!(network.speaker(0).table().is_empty(), "a closed port does not linger");
}

#[test]
fn a_new_mtu_is_that_of_all_that_leaves_there() {
    let reach = [("10.2.0.0/16", 1), ("10.3.0.0/16", 1)];
    let mut network = settled(&[Records::default(), records(2, 1400, &reach)]);
    let before = network.updates;
    network.set(1, records(2, 1280, &reach));
    network.run_for(ms(20));
    assert_eq!(network.updates, before + 1);
    let expected = ["10.2.0.0/16 by 2 metric 1 mtu 1280", "10.3.0.0/16 by 2 metric 1 mtu 1280"];
    assert_eq!(lines(network.speaker(0)), expected);
}

#[test]
fn the_generation_tells_of_changes_of_the_table_alone() {
    let mut network = settled(&[Records::default(), records(2, 1400, &[("10.2.0.0/16", 1)])]);
    let before = network.speaker(0).generation();
    network.set(0, records(1, 1400, &[("10.1.0.0/16", 1)])); // its own, not in its table
    network.run_for(ms(2000));
    assert_eq!(network.speaker(0).generation(), before);
    network.set(1, records(2, 1400, &[("10.2.0.0/16", 2)]));
    network.run_for(ms(20));
    assert_eq!(network.speaker(0).generation(), before + 1);
}

/// Prefixes move from port to port of a router with three while a fourth looks on: they always have an exit.
#[test]
fn a_new_exit_is_there_before_the_old_one_is_gone() {
    let reach = [("10.1.0.0/16", 1), ("10.2.0.0/16", 1)];
    let mut network = settled(&[
        records(1, 1400, &reach),
        records(2, 1400, &[]),
        records(3, 1400, &[]),
        records(4, 1400, &[]),
    ]);
    network.weather = Weather { longest_ms: 100, ..Weather::FAIR };
    for round in 1..60usize {
        let (from, to) = ((round - 1) % 3, round % 3);
        let port = u16::try_from(to + 1).unwrap();
        network.set(from, records(u16::try_from(from + 1).unwrap(), 1400, &[]));
        network.set(to, records(port, 1400, &reach));
        for _ in 0..500 {
            network.run_for(ms(1));
            assert_eq!(network.speaker(3).table().len(), 2, "round {round}");
        }
        network.check().unwrap();
    }
}

#[test]
fn what_is_withdrawn_lingers_no_longer_than_it_may() {
    let mut network = settled(&[Records::default(), records(2, 1400, &[("10.2.0.0/16", 1)])]);
    network.weather.longest_ms = 1;
    network.set(1, records(2, 1400, &[]));
    network.run_for(ms(240));
    assert_eq!(network.speaker(0).table().len(), 1);
    network.run_for(ms(20));
    assert!(network.speaker(0).table().is_empty());
}

#[test]
fn a_table_of_many_messages_arrives_through_foul_weather() {
    let reach: BTreeMap<Ipv4Net, u32> =
        (0..3000u32).map(|n| (Ipv4Net::new((0x0a00_0000 + (n << 8)).into(), 24).unwrap(), n % 3)).collect();
    let full = Records { reach: reach.clone(), ..records(2, 1400, &[]) };
    let half = Records { reach: reach.into_iter().filter(|(_, m)| *m > 0).collect(), ..full.clone() };
    for seed in 0..3 {
        let mut network = Network::new(3, seed, Weather { longest_ms: 60, ..Weather::FOUL });
        network.set(1, full.clone());
        network.start_all();
        network.run_for(ms(700));
        network.set(1, half.clone()); // withdrawn while it is being said
        network.weather.damage = 0;
        network.run_for(Duration::from_secs(30));
        network.weather = Weather::FAIR;
        network.run_for(ms(2_000));
        network.check().unwrap();
        assert_eq!(network.speaker(0).table().len(), 2000);
    }
}

#[test]
fn resolution_takes_the_longest_prefix_and_says_who_said_it() {
    let mut network = settled(&[
        records(1, 1420, &[("10.0.0.0/8", 3), ("10.2.2.0/24", 1)]),
        records(2, 1400, &[("10.2.0.0/16", 1), ("10.2.2.0/24", 1)]),
        records(3, 1300, &[("0.0.0.0/0", 9)]),
    ]);
    network.run_for(ms(1000));
    let (speaker, now) = (network.speaker(0), network.now);
    let resolve = |address: &str| {
        let found = speaker.resolve(now, address.parse().unwrap()).unwrap();
        let exits: Vec<(String, Ipv4Addr, bool)> = found
            .exits
            .iter()
            .map(|exit| (exit.name.clone(), exit.u, exit.source == Source::Local))
            .collect();
        (found.prefix.to_string(), exits, found.mtu)
    };
    let (p1, p2, p3) =
        (("p1".to_owned(), u(1), true), ("p2".to_owned(), u(2), false), ("p3".to_owned(), u(3), false));
    assert_eq!(resolve("10.2.2.2"), ("10.2.2.0/24".to_owned(), vec![p1.clone(), p2.clone()], 1400));
    assert_eq!(resolve("10.2.3.2"), ("10.2.0.0/16".to_owned(), vec![p2], 1400));
    assert_eq!(resolve("10.3.0.1"), ("10.0.0.0/8".to_owned(), vec![p1], 1420));
    assert_eq!(resolve("11.0.0.1"), ("0.0.0.0/0".to_owned(), vec![p3], 1300));
    let found = speaker.resolve(now, Ipv4Addr::new(11, 0, 0, 1)).unwrap();
    let Source::Peer { age, lease } = found.exits[0].source else { panic!("port 3 is a peer") };
    assert!(age > ms(1000) && age < ms(1100), "{age:?}");
    assert!(lease > ms(600) && lease <= ms(1000), "{lease:?}");
}

#[test]
fn what_nobody_reaches_has_no_resolution() {
    let network = settled(&[records(1, 1400, &[]), records(2, 1400, &[("10.2.0.0/16", 1)])]);
    assert_eq!(network.speaker(0).resolve(network.now, Ipv4Addr::new(10, 3, 0, 1)), None);
}

#[test]
fn a_router_of_one_port_has_nobody_to_talk_to() {
    let mut speaker = Speaker::new(&config(1, 1), Duration::ZERO).unwrap();
    speaker.handle_local(Duration::ZERO, records(1, 1400, &[("10.0.0.0/8", 1)])).unwrap();
    assert_eq!((speaker.poll_transmit(), speaker.poll_timeout()), (None, None));
    assert!(speaker.is_complete() && speaker.table().is_empty());
    let found = speaker.resolve(Duration::ZERO, Ipv4Addr::new(10, 1, 1, 1)).unwrap();
    assert_eq!((found.exits[0].port, found.exits[0].source), (Port(1), Source::Local));
}

#[test]
fn a_configuration_that_contradicts_itself_is_refused() {
    let good = config(1, 3);
    let timers = Timers::default();
    let cases = [
        (Config { epoch: 0, ..good.clone() }, Misconfigured::Epoch),
        (Config { port: Port(2), ..good.clone() }, Misconfigured::OwnPort(Port(2))),
        (Config { u: u(3), ..good.clone() }, Misconfigured::Address(u(3))),
        (Config { timers: Timers { hello: ms(0), ..timers }, ..good.clone() }, Misconfigured::Timer),
        (Config { timers: Timers { retry: ms(0), ..timers }, ..good.clone() }, Misconfigured::Timer),
        (Config { timers: Timers { hold: ms(300), ..timers }, ..good.clone() }, Misconfigured::Hold(ms(300))),
        (Config { timers: Timers { hold: ms(65_536), ..timers }, ..good }, Misconfigured::Hold(ms(65_536))),
    ];
    for (config, wrong) in cases {
        assert_eq!(Speaker::new(&config, Duration::ZERO).map(drop), Err(wrong));
    }
}

#[test]
fn records_that_cannot_be_announced_change_nothing() {
    let mut speaker = Speaker::new(&config(1, 2), Duration::ZERO).unwrap();
    let good = records(1, 1400, &[("10.1.0.0/16", 1)]);
    speaker.handle_local(ms(1), good.clone()).unwrap();
    let foreign = Records { bind: records(2, 1400, &[]).bind, ..Records::default() };
    assert_eq!(speaker.handle_local(ms(1), foreign), Err(BadRecords::Address(u(2))));
    let untidy = records(1, 1400, &[("10.1.0.1/16", 1)]);
    assert_eq!(speaker.handle_local(ms(1), untidy), Err(BadRecords::Prefix(prefix("10.1.0.1/16"))));
    assert_eq!(speaker.records(), &good);
}

#[test]
fn bindings_that_no_message_carries_cannot_be_made() {
    let bind = |name: &str, u: [u8; 4], addresses: u8, mtu| {
        let addresses = (0..addresses).map(|n| Ipv4Addr::new(10, 0, 0, n)).collect();
        Bind::new(name, u.into(), addresses, mtu).map(drop)
    };
    let name = "x".repeat(MAX_NAME + 1);
    assert_eq!(bind("p1", [10, 9, 0, 1], 16, 68), Ok(()));
    assert_eq!(bind("", [10, 9, 0, 1], 1, 68), Err(BadBind::Name(String::new())));
    assert_eq!(bind(&name, [10, 9, 0, 1], 1, 68), Err(BadBind::Name(name.clone())));
    assert_eq!(bind("p 1", [10, 9, 0, 1], 1, 68), Err(BadBind::Name("p 1".to_owned())));
    assert_eq!(bind("p1", [224, 0, 0, 1], 1, 68), Err(BadBind::Address(Ipv4Addr::new(224, 0, 0, 1))));
    assert_eq!(bind("p1", [10, 9, 0, 1], 17, 68), Err(BadBind::Addresses(17)));
    assert_eq!(bind("p1", [10, 9, 0, 1], 1, 67), Err(BadBind::Mtu(67)));
}
