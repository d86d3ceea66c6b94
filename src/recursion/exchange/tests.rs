use super::*;

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

/// Carries messages until nobody has any.
fn settle(speakers: &mut [Speaker], now: Duration) {
    loop {
        let mut mail = Vec::new();
        for speaker in speakers.iter_mut() {
            speaker.handle_timeout(now);
            while let Some((to, bytes)) = speaker.poll_transmit() {
                mail.push((speaker.me.u, to, bytes));
            }
        }
        if mail.is_empty() {
            return;
        }
        for (from, to, bytes) in mail {
            let receiver = speakers.iter_mut().find(|s| s.me.u == to).unwrap();
            receiver.handle_datagram(now, from, &bytes).unwrap();
        }
    }
}

fn started(ports: u16) -> Vec<Speaker> {
    (1..=ports).map(|port| Speaker::new(&config(port, ports), Duration::ZERO).unwrap()).collect()
}

#[test]
fn each_edge_learns_what_leaves_by_the_others() {
    let mut speakers = started(3);
    let now = Duration::ZERO;
    speakers[0].handle_local(now, records(1, 1420, &[("10.1.0.0/16", 10)])).unwrap();
    speakers[1].handle_local(now, records(2, 1400, &[("10.2.0.0/16", 10), ("10.4.0.0/16", 7)])).unwrap();
    speakers[2].handle_local(now, records(3, 1300, &[("10.3.0.0/16", 10), ("10.4.0.0/16", 7)])).unwrap();
    settle(&mut speakers, now);
    let table: Vec<String> = speakers[0]
        .table()
        .iter()
        .map(|(prefix, e)| {
            format!("{prefix} {:?} {}", e.exits.iter().map(|x| x.u).collect::<Vec<_>>(), e.mtu)
        })
        .collect();
    assert_eq!(
        table,
        [
            "10.2.0.0/16 [10.9.0.2] 1400",
            "10.3.0.0/16 [10.9.0.3] 1300",
            "10.4.0.0/16 [10.9.0.2, 10.9.0.3] 1300"
        ]
    );
    assert!(speakers.iter().all(Speaker::is_complete));
}
