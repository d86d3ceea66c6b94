#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
//! Impaired links of both dataplanes, by netem and without it. Times are the quickest of several: a busy machine makes
//! packets late, never early.

mod common;

use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Output, Stdio};
use std::time::Duration;

use common::{Up, can, dataplanes, run, vilab};
use serde_json::Value;
use vilab::model::{Lab, NodeId};
use vilab::observe::doctor;

/// What a machine that has more to do adds to a round trip, milliseconds.
const SLACK: f64 = 15.0;

/// Dataplanes, each with netem and without where the kernel has it.
fn ways() -> Vec<(&'static str, &'static str)> {
    let netem = doctor::machine().unwrap_or_default().netem;
    let withouts: &[&str] = if netem { &["", "netem"] } else { &["netem"] };
    dataplanes().into_iter().flat_map(|d| withouts.iter().map(move |w| (d, *w))).collect()
}

fn up(name: &str, text: &str, (dataplane, without): (&str, &str)) -> Up {
    let name = format!("{name}-{dataplane}{}", if without.is_empty() { "" } else { "-bare" });
    Up::with(&name, text, |command| {
        command.args(["--dataplane", dataplane]).env("VILAB_WITHOUT", without);
    })
}

fn ping(lab: &Up, from: &str, to: &str, options: &str) -> String {
    let mut command = vilab();
    command.args(["exec", "-l", lab.name(), from, "ping", "-q"]).args(options.split(' ')).arg(to);
    let Output { stdout, stderr, .. } = command.output().unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned();
    assert!(text.contains("packets transmitted"), "{from} {to}: {text}{}", String::from_utf8_lossy(&stderr));
    text
}

/// The quickest round trip of several with `size` bytes of payload, milliseconds.
fn quickest(lab: &Up, from: &str, to: &str, size: u32) -> f64 {
    let text = ping(lab, from, to, &format!("-c 15 -i 0.05 -W 4 -s {size}"));
    let times = text.lines().find_map(|l| l.strip_prefix("rtt min/avg/max/mdev = "));
    let times = times.unwrap_or_else(|| panic!("{from} {to}: {text}"));
    times.split('/').next().unwrap().parse().unwrap()
}

/// Holds when the quickest of several round trips takes this long.
fn takes(lab: &Up, from: &str, to: &str, expected: f64) {
    takes_with(lab, from, to, 56, expected);
}

fn takes_with(lab: &Up, from: &str, to: &str, size: u32, expected: f64) {
    let mut found = quickest(lab, from, to, size);
    for _ in 0..4 {
        if found < expected + SLACK {
            break;
        }
        found = found.min(quickest(lab, from, to, size));
    }
    assert!(
        (expected - 0.5..expected + SLACK).contains(&found),
        "{from} -> {to}: {found} ms, not {expected}"
    );
}

/// Percent of `count` echo requests that were answered.
fn answered(lab: &Up, from: &str, to: &str, count: u32) -> f64 {
    let text = ping(lab, from, to, &format!("-c {count} -i 0.002 -W 1"));
    let words: Vec<&str> = text.split([' ', '\n']).collect();
    let at = words.iter().position(|w| *w == "received,").unwrap();
    100.0 * words[at - 1].parse::<f64>().unwrap() / f64::from(count)
}

fn impair(lab: &Up, words: &str) -> Value {
    let mut command = vilab();
    command.args(["impair", "-l", lab.name(), "--json"]).args(words.split(' '));
    serde_json::from_str(&run(&mut command)).unwrap()
}

/// What `status` tells of both directions of a link, measured anew.
fn status(lab: &Up, network: &str, link: &str) -> Value {
    let text = run(vilab().args(["status", lab.name(), "--measure", "--json"]));
    let status: Value = serde_json::from_str(&text).unwrap();
    let links = status["links"].as_array().unwrap();
    let found = links.iter().find(|l| l["network"] == network && l["name"] == link);
    found.unwrap()["impaired"].clone()
}

const LAYERS: &str = "
name: layers
base:
  mtu: 9000
  links:
    - {link: X -- Y, delay: 20ms}
    - {link: Y -- Z, forward: {delay: 5ms}, backward: {delay: 40ms}}
vis:
  v:
    nodes: {a: X, b: {at: Y, role: router}, c: Z, d: X}
    links:
      - {link: a -- b, rtt: 60ms}
      - b -- c
      - {link: a -- d, delay: 7ms}
  w:
    over: v
    nodes: {p: a, q: c}
    links: [{link: p -- q, delay: 3ms}]
";

#[test]
fn delays_of_all_layers_add_up() {
    for way in ways() {
        let lab = up("impair-layers", LAYERS, way);
        takes(&lab, "X", "Y", 40.0);
        takes(&lab, "Y", "Z", 45.0);
        takes(&lab, "v/a", "b", 100.0);
        takes(&lab, "v/b", "c", 45.0);
        takes(&lab, "v/a", "d", 14.0);
        takes(&lab, "w/p", "q", 151.0);
        // Frames larger than those of Ethernet pass what holds them back.
        takes_with(&lab, "X", "Y", 8900, 40.0);
        takes_with(&lab, "v/a", "b", 8800, 100.0);
    }
}

#[test]
fn directions_are_measured_by_themselves() {
    for way in ways() {
        let lab = up("impair-measured", LAYERS, way);
        let delay = |direction: &Value| direction["measured"]["delay_us"].as_u64().unwrap();
        for (network, link, expected) in [
            ("base", "Y--Z", [5_000, 40_000]),
            ("v", "a--b", [50_000, 50_000]),
            ("w", "p--q", [58_000, 93_000]),
        ] {
            let near = |found: &Value, i: usize| {
                let right = (expected[i] - 500..expected[i] + 15_000).contains(&delay(&found[i]));
                right && found[i]["measured"]["lost"] == 0
            };
            let tries: Vec<Value> = (0..8).map(|_| status(&lab, network, link)).collect();
            for i in 0..2 {
                assert!(tries.iter().any(|t| near(t, i)), "{network}/{link} {way:?}: {tries:?}");
            }
        }
        assert_eq!(status(&lab, "v", "b--c"), Value::Array(Vec::new()), "this link is not impaired itself");
    }
}

const PLAIN: &str = "
name: plain
base: {links: [X -- Y]}
vis:
  v:
    nodes: {a: X, b: Y}
    links: [a -- b]
";

#[test]
fn links_change_while_packets_flow() {
    for way in ways() {
        let lab = up("impair-live", PLAIN, way);
        for (from, to, link) in [("base/X", "Y", "X--Y"), ("v/a", "b", "v/a--b")] {
            if way.1.is_empty() {
                // The kernel drops what is sent while netem comes to a device, and not when it changes there.
                impair(&lab, &format!("{link} --delay 1ms"));
            }
            let mut command = vilab();
            command.args(["exec", "-l", lab.name(), from, "ping"]).args("-q -c 200 -i 0.01 -W 3".split(' '));
            command.arg(to);
            let flow = command.stdout(Stdio::piped()).spawn().unwrap();
            impair(&lab, &format!("{link} --delay 15ms"));
            takes(&lab, from, to, 30.0);
            let found = impair(&lab, &format!("{link} --rate 50mbit --backward"));
            assert_eq!(found["directions"][0]["asked"]["rate_bps"], Value::Null);
            assert_eq!(found["directions"][1]["asked"]["rate_bps"], 50_000_000);
            assert_eq!(found["directions"][1]["asked"]["delay_us"], 15_000, "what is not named stays");
            takes(&lab, from, to, 30.0);
            impair(&lab, &format!("{link} --forward --clear"));
            takes(&lab, from, to, 15.0);
            impair(&lab, &format!("{link} --clear"));
            takes(&lab, from, to, 0.5);
            let output = flow.wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(text.contains(" 0% packet loss"), "{way:?} {link}: {text}");
        }
    }
}

#[test]
fn losses_and_rates_are_as_asked() {
    for way in ways() {
        let lab = up("impair-loss", PLAIN, way);
        for (from, to, link) in [("base/X", "Y", "X--Y"), ("v/a", "b", "v/a--b")] {
            impair(&lab, &format!("{link} --loss 30% --forward"));
            let found = answered(&lab, from, to, 600);
            // Of 600, 30 % lost: seven standard deviations are 13 %.
            assert!((57.0..83.0).contains(&found), "{way:?} {link}: {found} % answered");
            impair(&lab, &format!("{link} --loss 100% --forward"));
            assert!(answered(&lab, from, to, 20) < 0.1, "{way:?} {link}");
            // 1428 bytes of IP at 1 Mbit/s take 11.4 ms, and in the other direction nothing.
            impair(&lab, &format!("{link} --clear --rate 1mbit --forward"));
            impair(&lab, &format!("{link} --clear --backward"));
            takes_with(&lab, from, to, 1400, 11.4);
            impair(&lab, &format!("{link} --clear --rate 2mbit --delay 5ms"));
            let rate = |found: &Value| found["directions"][0]["measured"]["rate_bps"].as_u64().unwrap_or(0);
            let rates: Vec<u64> = (0..5).map(|_| rate(&impair(&lab, link))).collect();
            assert!(rates.iter().any(|r| (1_700_000..2_300_000).contains(r)), "{way:?} {link}: {rates:?}");
            impair(&lab, &format!("{link} --clear"));
        }
    }
}

fn node(lab: &Lab, name: &str) -> NodeId {
    lab.nodes().find(|n| lab.full_name(n.id) == name).unwrap().id
}

fn socket(lab: &Up, at: &str) -> (UdpSocket, Ipv4Addr) {
    let running = lab.running();
    let model = &running.state().lab;
    let id = node(model, at);
    let address = model.address(id).unwrap();
    let open = || UdpSocket::bind((address, 0)).unwrap();
    (running.namespaces().run(&model.node(id).netns, open).unwrap(), address)
}

#[test]
fn jitter_keeps_the_order_of_packets() {
    for way in ways() {
        let lab = up("impair-order", PLAIN, way);
        for (from, to, link) in [("base/X", "base/Y", "X--Y"), ("v/a", "v/b", "v/a--b")] {
            impair(&lab, &format!("{link} --delay 20ms --jitter 20ms"));
            let ((sender, _), (receiver, _)) = (socket(&lab, from), socket(&lab, to));
            receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            sender.connect(receiver.local_addr().unwrap()).unwrap();
            let (count, mut buffer) = (150u32, [0; 4]);
            for i in 0..count {
                sender.send(&i.to_be_bytes()).unwrap();
            }
            for expected in 0..count {
                receiver.recv(&mut buffer).unwrap();
                assert_eq!(u32::from_be_bytes(buffer), expected, "{way:?} {link}");
            }
            impair(&lab, &format!("{link} --clear"));
        }
    }
}

#[test]
fn an_engine_that_starts_anew_impairs_as_before() {
    for way in ways() {
        let lab = up("impair-anew", PLAIN, way);
        impair(&lab, "X--Y --delay 10ms");
        impair(&lab, "v/a--b --delay 5ms");
        if way != ("kernel", "") {
            run(vilab().args(["restart", "-l", lab.name(), "fastpath"]));
        }
        takes(&lab, "X", "Y", 20.0);
        takes(&lab, "v/a", "b", 30.0);
    }
}

#[test]
fn a_lab_without_any_vi_is_impaired_later() {
    if !can("netns") {
        return;
    }
    let lab = up("impair-base", "name: b\nbase: {links: [A -- B -- C]}\n", ("fastpath", "netem"));
    takes(&lab, "A", "C", 0.5);
    impair(&lab, "B--C --delay 12ms --backward");
    takes(&lab, "A", "C", 12.0);
    // The link is written the other way round, and so are its directions.
    impair(&lab, "C--B --delay 30ms --backward");
    takes(&lab, "A", "C", 42.0);
    impair(&lab, "B--C --clear");
    takes(&lab, "A", "C", 0.5);
}

#[test]
fn deep_stacks_keep_their_breaks() {
    let mut text = "name: deep\nbase: {links: [X -- Y]}\nvis:\n".to_owned();
    for depth in 1..=6 {
        let over = if depth == 1 { "base".to_owned() } else { format!("v{}", depth - 1) };
        let (a, b) = if depth == 1 { ("X", "Y") } else { ("a", "b") };
        text += &format!("  v{depth}: {{over: {over}, nodes: {{a: {a}, b: {b}}}, links: [a -- b]}}\n");
    }
    for dataplane in dataplanes() {
        let lab = up("impair-deep", &text, (dataplane, ""));
        for depth in [1, 2, 5] {
            impair(&lab, &format!("v{depth}/a--b --delay 10ms --forward"));
        }
        takes(&lab, "v6/a", "b", 30.0);
        for depth in [1, 2, 5] {
            impair(&lab, &format!("v{depth}/a--b --clear"));
        }
        takes(&lab, "v6/a", "b", 0.5);
    }
}

#[test]
fn what_cannot_be_is_refused() {
    if !can("netns") {
        return;
    }
    let lab = up("impair-wrong", PLAIN, ("fastpath", ""));
    let refused = |words: &str| {
        let output = vilab().args(["impair", "-l", lab.name()]).args(words.split(' ')).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{words}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(refused("X--Y --jitter 1ms").contains("jitter cannot be greater than delay"));
    assert!(refused("X--Z --delay 1ms").contains("no link X--Z"));
    assert!(refused("X--Y --delay 61s").contains("a minute at most"));
    assert!(refused("X--Y --loss 101%").contains("a share from 0% to 100%"));
    assert!(refused("X--Y --rate 1").contains("a rate such as 100mbit"));
}
