//! `vilab events`: one JSON object a line, of everything that happens, from the first until the lab goes down.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// A stream of events.
struct Events {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<Value>,
}

impl Events {
    fn of(lab: &str) -> Self {
        let mut command = common::vilab();
        let mut child = command.args(["events", lab]).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|l| sender.send(l)));
        let mut events = Self { child, lines, seen: Vec::new() };
        let start = events.next("start", |_| true);
        assert!(start["nodes"].as_u64() > Some(0) && start["links"].as_u64() > Some(0), "{start}");
        events
    }

    /// Waits for an event of this type that `is`; those before it are kept in `seen`.
    fn next(&mut self, kind: &str, is: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no {kind}: {:#?}", self.seen);
            };
            let event: Value = serde_json::from_str(&line).expect("a line is an object");
            assert_eq!(event["schema"], "vilab.events/1");
            assert_eq!(event["time"].as_str().map(str::len), Some(30), "{event}");
            let last = self.seen.last().map(|e| e["time"].as_str().unwrap_or("").to_owned());
            assert!(last <= event["time"].as_str().map(str::to_owned), "time goes back: {event}");
            self.seen.push(event.clone());
            if event["type"] == kind && is(&event) {
                return event;
            }
        }
    }

    fn types(&self) -> Vec<&str> {
        self.seen.iter().filter_map(|e| e["type"].as_str()).collect()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn vilab(arguments: &[&str]) {
    common::run(common::vilab().args(arguments));
}

const LAB: &str = "
name: l
base: {links: [X -- Y -- Z]}
vis:
  vi: {nodes: {a: X, b: {at: Y, role: router}, c: Z}, links: [a -- b -- c]}
apps:
  - {name: web, at: vi/a, run: [sleep, infinity], restart: always}
";

#[test]
fn everything_that_is_done_to_a_lab_is_told_until_it_goes_down() {
    if !common::can("netns") {
        return;
    }
    let name = "events-all";
    let up = common::Up::new(name, LAB, "fastpath");
    let mut events = Events::of(name);

    vilab(&["link", "down", "-l", name, "X -- Y"]);
    events.next("link-down", |e| e["link"] == "base/X--Y");
    vilab(&["link", "up", "-l", name, "X -- Y"]);
    events.next("link-up", |e| e["link"] == "base/X--Y");
    for (kind, device) in
        [("device-down", "X:e-Y@base"), ("device-down", "Y:e-X@base"), ("device-up", "Y:e-X@base")]
    {
        let found = events.seen.iter().find(|e| e["type"] == kind && e["device"] == device);
        let found = found.cloned().unwrap_or_else(|| events.next(kind, |e| e["device"] == device));
        assert_eq!(found["link"], "base/X--Y");
    }
    vilab(&["node", "down", "-l", name, "vi/b"]);
    events.next("node-down", |e| e["node"] == "vi/b");
    vilab(&["node", "up", "-l", name, "vi/b"]);
    events.next("node-up", |e| e["node"] == "vi/b");

    vilab(&["impair", "-l", name, "Y -- Z", "--forward", "--delay", "2ms"]);
    let told = events.next("impairment", |e| e["link"] == "base/Y--Z");
    assert_eq!((&told["from"], &told["asked"]["delay_us"]), (&"base/Y".into(), &2000.into()));

    vilab(&["restart", "-l", name, "web"]);
    events.next("service", |e| e["service"] == "web" && e["state"] == "running");
    let states: Vec<&Value> =
        events.seen.iter().filter(|e| e["service"] == "web").map(|e| &e["state"]).collect();
    assert!(states.contains(&&"stopping".into()), "{states:?}");

    vilab(&["down", name]);
    up.has_ended();
    events.next("lab-down", |_| true);
    assert!(events.lines.recv_timeout(PATIENCE).is_err(), "nothing after the end");
    assert!(events.child.wait().unwrap().success());
    assert_eq!(events.types().iter().filter(|t| **t == "start").count(), 1);
}

#[test]
fn what_is_done_behind_the_labs_back_is_told_too() {
    if !common::can("netns") {
        return;
    }
    let name = "events-behind";
    let up = common::Up::new(name, LAB, "fastpath");
    let mut events = Events::of(name);
    let inside = |node: &str, command: &[&str]| {
        common::run(common::vilab().args(["exec", "-l", name, node]).args(command));
    };
    let routes =
        common::run(common::vilab().args(["exec", "-l", name, "base/X", "ip", "route", "show", "10.0.0.3"]));
    inside("base/X", &["ip", "route", "del", "10.0.0.3"]);
    let told = events.next("diverged", |e| e["node"] == "base/X");
    assert!(told["prefix"].as_str().is_some_and(|p| p.starts_with("10.0.0.3")), "{told}");
    events.next("network-diverged", |e| e["network"] == "base");
    let mut words = vec!["ip", "route", "add"];
    words.extend(routes.split_whitespace());
    inside("base/X", &words);
    events.next("converged", |e| e["node"] == "base/X");
    events.next("network-converged", |e| e["network"] == "base");

    inside("base/Z", &["ip", "link", "set", "e-Y", "down"]);
    events.next("device-down", |e| e["device"] == "Y:e-Z@base");
    assert!(!events.types().contains(&"link-down"), "nobody said `vilab link down`");
    inside("base/Z", &["ip", "link", "add", "extra", "type", "veth", "peer", "name", "extra2"]);
    events.next("device-added", |e| e["device"] == "Z:extra@base");
    inside("base/Z", &["ip", "link", "del", "extra"]);
    events.next("device-removed", |e| e["device"] == "Z:extra@base");
    inside("vi/a", &["pkill", "-x", "sleep"]);
    events.next("service", |e| e["service"] == "web" && e["state"] == "pausing");
    let again = events.next("service", |e| e["service"] == "web" && e["state"] == "running");
    assert_eq!(again["restarts"], 1);
    drop(up);
    events.next("lab-down", |_| true);
}

#[test]
fn an_apply_is_told_and_what_it_brought_is_heard() {
    if !common::can("netns") {
        return;
    }
    let name = "events-apply";
    let up = common::Up::new(name, LAB, "fastpath");
    let mut events = Events::of(name);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("l.yaml");
    let more = LAB.replace("name: l", &format!("name: {name}")).replace("-- Z]", "-- Z -- W]");
    std::fs::write(&file, more).unwrap();
    common::run(common::vilab().arg("apply").arg(&file));
    let told = events.next("applied", |_| true);
    assert!(events.types().contains(&"apply-started"));
    assert_eq!(told["nodes_added"], serde_json::json!(["base/W"]));
    assert_eq!(told["links_added"], serde_json::json!(["base/Z--W"]));
    assert_eq!(told["nodes_removed"], serde_json::json!([]));
    let mut command = common::vilab();
    common::run(command.args(["exec", "-l", name, "W", "ip", "link", "set", "e-Z", "down"]));
    events.next("device-down", |e| e["device"] == "W:e-Z@base");
    drop(up);
}

#[test]
fn a_routing_daemon_that_dies_is_told_with_the_routes_that_go() {
    if !common::can("netns") || !common::can("frr") {
        return;
    }
    let name = "events-ospf";
    let _up = common::Up::new(name, &LAB.replace("vi: {", "vi: {routing: ospf, "), "fastpath");
    let mut events = Events::of(name);
    common::run(common::vilab().args(["exec", "-l", name, "vi/b", "pkill", "-x", "ospfd"]));
    events.next("service", |e| e["service"] == "ospfd@vi/b" && e["state"] == "pausing");
    events.next("service", |e| e["service"] == "ospfd@vi/b" && e["state"] == "running");
    // The daemon took its routes with it, or they came back before anybody looked; in the end all is well.
    common::run(common::vilab().args(["wait", name]));
}

#[test]
fn a_reader_that_goes_ends_it() {
    if !common::can("netns") {
        return;
    }
    let up = common::Up::new("events-pipe", LAB, "fastpath");
    let mut command = common::vilab();
    let mut child = command.args(["events", up.name()]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("\"start\""));
    assert!(child.wait().unwrap().success());
    let none = Command::new(env!("CARGO_BIN_EXE_vilab")).args(["events", "no-such-lab"]).output().unwrap();
    assert_eq!(none.status.code(), Some(2));
}
