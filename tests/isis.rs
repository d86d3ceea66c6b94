//! IS-IS on virtual links: FRR's isisd routes a VI whose links are IP tunnels, on each dataplane this machine has. Needs
//! root and FRR; skips visibly without.

mod common;

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use vilab::lab::Running;
use vilab::model::{Lab, NodeId};
use vilab::packet::{self, ipv4};
use vilab::sys::packet_socket::Capture;

/// ISIS over IPv4 (IANA, protocol numbers).
const ISIS: u8 = 124;
/// How long routes may take to be as they should be.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longer than an adjacency lasts without hellos.
const HOLD_TIME: Duration = Duration::from_secs(6);

/// A ring and two chains: twelve nodes on three base nodes, several on each, with links that stay on one.
const RING_AND_CHAINS: &str = r#"name: t
base: {links: [X -- Y -- Z -- X]}
vis:
  v:
    nodes: {"n[1..6]": X, "m[1..3]": Y, "k[1..3]": Z}
    links:
      - {ring: "n1 n2 m1 m2 k1 k2"}
      - n1 -- n3 -- n4 -- n5
      - k2 -- k3 -- m3 -- n6
    routing: isis
"#;

/// Links of every kind are cut and mended: inside a base node, and between two.
const CUTS: &str = r#"name: t
base: {links: [X -- Y -- Z -- X]}
vis:
  v:
    nodes: {a: X, b: X, c: Y, d: Z}
    links: [{ring: "a b c d"}]
    routing: isis
tests:
  - {trace: {from: a, to: b, hops: [b]}, within: 10s}
  - down: a -- b
  - {trace: {from: a, to: b, hops: [d, c, b]}, within: 20s}
  - up: a -- b
  - {trace: {from: a, to: b, hops: [b]}, within: 20s}
  - down: b -- c
  - {trace: {from: b, to: c, hops: [a, d, c]}, within: 20s}
"#;

/// One way is shorter than the other as long as it is there.
const TRIANGLE: &str = r#"name: t
base: {links: [X -- Y]}
vis:
  v:
    nodes: {a: X, b: X, c: Y}
    links: [a -- b -- c -- a]
    routing: isis
"#;

fn node(lab: &Lab, name: &str) -> NodeId {
    lab.nodes().map(|n| n.id).find(|id| lab.full_name(*id) == name).expect("a node of the lab")
}

fn host(running: &Running, name: &str) -> Ipv4Addr {
    let lab = &running.state().lab;
    lab.address(node(lab, name)).expect("an address")
}

fn exec(running: &Running, at: &str, command: &[&str]) -> String {
    common::run(common::vilab().args(["exec", "-l", running.name(), at, "--"]).args(command))
}

fn answers(running: &Running, from: &str, to: &str) -> bool {
    let to = host(running, to).to_string();
    let mut ping = common::vilab();
    ping.args(["exec", "-l", running.name(), from, "--", "ping", "-c", "1", "-W", "1", &to]);
    ping.output().expect("vilab").status.success()
}

/// Waits until `holds`.
fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        pause();
    }
}

fn pause() {
    let mut timer = Command::new("sleep");
    assert!(timer.arg("0.2").status().expect("sleep").success());
}

/// The device that the kernel of `from` sends to `to` by, if any.
fn way(running: &Running, from: &str, to: &str) -> Option<String> {
    let to = host(running, to).to_string();
    let text = exec(running, from, &["ip", "-json", "route", "show", "proto", "isis"]);
    let routes: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let routes = routes.as_array().expect("routes");
    routes.iter().find(|r| r["dst"] == to).and_then(|r| r["dev"].as_str()).map(str::to_owned)
}

fn converged(running: &Running) -> bool {
    let lab = &running.state().lab;
    let names: Vec<String> = lab.networks[1].nodes.iter().map(|n| lab.full_name(n.id)).collect();
    let others = |from: &String| names.iter().filter(|to| *to != from).collect::<Vec<_>>();
    names.iter().all(|from| {
        let found = exec(running, from, &["ip", "route", "show", "proto", "isis"]);
        others(from).iter().all(|to| found.lines().any(|l| l.starts_with(&format!("{} ", host(running, to)))))
    })
}

/// The protocols in the headers of the packets that pass base node X within two seconds, outermost first, each
/// stack once.
fn on_the_wire(running: &Running) -> Vec<Vec<u8>> {
    let netns = &running.state().lab.node(node(&running.state().lab, "base/X")).netns;
    let capture = running.namespaces().run(netns, Capture::open).expect("the namespace").expect("a capture");
    let end = Instant::now() + Duration::from_secs(2);
    let mut buffer = vec![0; 65536];
    let mut found = Vec::new();
    while Instant::now() < end {
        match capture.recv(&mut buffer).expect("packets") {
            Some(frame) if frame.protocol == 0x0800 => {
                found.push(packet::stack(frame.bytes).iter().map(|h| h.protocol).collect());
            }
            Some(_) => {}
            None => pause(),
        }
    }
    found.sort();
    found.dedup();
    found
}

#[test]
fn twelve_nodes_converge_over_tunnels() {
    for dataplane in common::dataplanes() {
        if !common::can("frr") {
            return;
        }
        let up = common::Up::new(&format!("isis-ring-{dataplane}"), RING_AND_CHAINS, dataplane);
        let running = up.running();
        wait("every node has a route to every other", || converged(&running));
        wait("the ends of both chains answer", || answers(&running, "v/n5", "v/n6"));

        let wire = on_the_wire(&running);
        assert!(wire.contains(&vec![ipv4::IPIP, ipv4::IPIP, ISIS]), "{dataplane}: {wire:?}");
        let strange = wire.iter().find(|s| !s.starts_with(&[ipv4::IPIP, ipv4::IPIP]));
        assert_eq!(strange, None, "{dataplane}: only tunnels are on the wire of the base");

        assert_eq!(way(&running, "v/n2", "v/m1").as_deref(), Some("v-m1"));
        exec(&running, "v/n2", &["ip", "link", "set", "dev", "v-m1", "down"]);
        wait("the ring is taken the other way round", || {
            way(&running, "v/n2", "v/m1").as_deref() == Some("v-n1")
        });
        wait("both directions do", || answers(&running, "v/n2", "v/m1"));
    }
}

#[test]
fn cut_links_are_avoided_and_mended_ones_taken() {
    for dataplane in common::dataplanes() {
        if !common::can("frr") {
            return;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("lab.yaml");
        std::fs::write(&file, CUTS.replace("name: t", &format!("name: isis-cuts-{dataplane}")))
            .expect("a file");
        common::run(common::vilab().args(["test", "--dataplane", dataplane]).arg(&file));
    }
}

#[test]
fn daemons_and_adapter_may_be_killed() {
    for dataplane in common::dataplanes() {
        if !common::can("frr") {
            return;
        }
        let up = common::Up::new(&format!("isis-kill-{dataplane}"), TRIANGLE, dataplane);
        let running = up.running();
        let direct = || way(&running, "v/a", "v/c").as_deref() == Some("v-c");
        wait("a -- c is taken", direct);

        common::run(common::vilab().args(["restart", "-l", running.name(), "isisd@v/c"]));
        let over = Instant::now() + HOLD_TIME;
        wait("the new isisd hears and is heard", || Instant::now() > over && direct());

        let kill = "pid=$(grep -lx vilab-isis /proc/[0-9]*/comm | cut -d/ -f3) && kill -9 $pid";
        exec(&running, "base/X", &["sh", "-c", kill]);
        let over = Instant::now() + HOLD_TIME;
        wait("another adapter carries on", || Instant::now() > over && direct());
    }
}
