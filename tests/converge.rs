//! Routing that is waited for, and links and nodes that go down: what differs from the computed routes is named, what
//! goes down is known to every command, and one VI's fault is no other's.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Output;
use std::time::{Duration, Instant};

use vilab::model::{Lab, NodeId, Routing};
use vilab::observe::{self, Context};
use vilab::routing::{Faults, Rib};

use common::{Up, dataplanes, routings, run, vilab};

const TWO_RINGS: &str = "name: x
base: {links: [X -- Y -- Z -- X]}
vis:
  blue: {nodes: {a: X, b: Y, c: Z}, links: [a -- b -- c -- a]}
  red: {nodes: {a: X, b: Y, c: Z}, links: [a -- b -- c -- a]}
";

fn on(lab: &str, arguments: &[&str]) -> Output {
    let (verb, rest) = arguments.split_first().unwrap();
    match *verb {
        "link" | "node" => vilab().args([verb, rest[0], "-l", lab]).args(&rest[1..]).output().unwrap(),
        _ => vilab().arg(verb).arg(lab).args(rest).output().unwrap(),
    }
}

fn ok(lab: &str, arguments: &[&str]) {
    let output = on(lab, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What the command says on standard error when it ends with status 1.
fn failed(lab: &str, arguments: &[&str]) -> String {
    let output = on(lab, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
    said
}

fn in_node(lab: &str, node: &str, command: &str) -> String {
    run(vilab().args(["exec", "-l", lab, node]).args(command.split(' ')))
}

fn node(lab: &Lab, name: &str) -> NodeId {
    lab.nodes().map(|n| n.id).find(|id| lab.full_name(*id) == name).unwrap()
}

fn host(up: &Up, name: &str) -> Ipv4Addr {
    let running = up.running();
    let lab = &running.state().lab;
    lab.node(node(lab, name)).host.unwrap()
}

#[test]
fn what_is_not_as_computed_is_named() {
    for dataplane in dataplanes() {
        let name = &format!("converge-named-{dataplane}");
        let up = Up::new(name, TWO_RINGS, dataplane);
        ok(name, &["wait"]);
        let b = host(&up, "blue/b");
        let route = in_node(name, "blue/a", &format!("ip route show {b}"));
        in_node(name, "blue/a", &format!("ip route del {b}"));
        let said = failed(name, &["wait"]);
        let first = format!("blue/a, to b ({b}/32): expected via b, found no route");
        assert!(said.contains(&first), "{said}");
        assert!(said.contains("in blue, 1 route at 1 of 3 nodes not as computed"), "{said}");
        in_node(name, "blue/a", &format!("ip route add {}", route.trim()));
        ok(name, &["wait"]);
        // A next hop that is an object of its own, with and without what is in it in the route.
        let words: Vec<&str> = route.split_whitespace().collect();
        let after = |word: &str| words[words.iter().position(|w| *w == word).unwrap() + 1];
        let (via, device, src) = (after("via"), after("dev"), after("src"));
        in_node(name, "blue/a", &format!("ip nexthop add id 77 via {via} dev {device}"));
        in_node(name, "blue/a", &format!("ip route replace {b} nhid 77 src {src}"));
        ok(name, &["wait"]);
        in_node(name, "blue/a", "sysctl -qw net.ipv4.nexthop_compat_mode=0");
        assert!(!in_node(name, "blue/a", &format!("ip -d route show {b}")).is_empty());
        ok(name, &["wait"]);
        in_node(name, "red/c", "ip route add 9.9.9.0/24 dev lo");
        let said = failed(name, &["wait"]);
        assert!(said.contains("red/c, to 9.9.9.0/24: expected no route, found via device lo"), "{said}");
        in_node(name, "red/c", "ip route del 9.9.9.0/24");
        let via = in_node(name, "blue/a", "ip route show scope link");
        let connected = via.lines().next().unwrap().trim();
        in_node(name, "blue/a", &format!("ip route del {connected}"));
        let said = failed(name, &["wait"]);
        assert!(said.contains("blue/a, to link "), "{said}");
        in_node(name, "blue/a", &format!("ip route add {connected}"));
        let base = in_node(name, "base/X", "ip route show proto static");
        let learnt = base.lines().find(|l| l.contains("via")).unwrap().trim();
        in_node(name, "base/X", &format!("ip route del {learnt}"));
        in_node(name, "red/c", "ip route add 9.9.9.0/24 dev lo");
        let said = failed(name, &["wait"]);
        assert!(said.starts_with("error: the routes of base are not the computed ones"), "{said}");
        assert!(said.contains("in red, 1 route at 1 of 3 nodes"), "{said}");
    }
}

#[test]
fn a_late_route_ends_the_wait_at_once() {
    for dataplane in dataplanes() {
        let name = &format!("converge-late-{dataplane}");
        let up = Up::new(name, TWO_RINGS, dataplane);
        let running = up.running();
        // As if a routing daemon were to write the routes: else nothing is waited for.
        let mut lab = running.state().lab.clone();
        lab.networks[1].routing = Routing::Ospf;
        let rib = Rib::compute(&lab);
        let ctx = Context {
            lab: &lab,
            rib: &rib,
            namespaces: &running.namespaces(),
            dataplanes: &running.state().dataplanes,
            netem: running.state().netem,
            fastpath_control: running.fastpath_control(),
            strands_control: None,
        };
        let wait = |patience| observe::converge(&ctx, &Faults::default(), patience, &mut |_, _| ());
        wait(Duration::ZERO).unwrap();
        let b = host(&up, "blue/b");
        let route = in_node(name, "blue/a", &format!("ip route show {b}"));
        in_node(name, "blue/a", &format!("ip route del {b}"));
        let start = Instant::now();
        let error = wait(Duration::from_millis(300)).unwrap_err().to_string();
        assert!(error.contains("the routes of blue are not the computed ones after"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        std::thread::scope(|scope| {
            let (arrived, arrives) = std::sync::mpsc::channel();
            let ctx = &ctx;
            let waiter = scope.spawn(move || {
                let mut first = true;
                observe::converge(ctx, &Faults::default(), Duration::from_secs(60), &mut |_, _| {
                    // The second call: it has looked, and waits.
                    if !std::mem::take(&mut first) {
                        let _heard = arrived.send(());
                    }
                })
                .map(|_| Instant::now())
            });
            arrives.recv().unwrap();
            in_node(name, "blue/a", &format!("ip route add {}", route.trim()));
            let there = Instant::now();
            let ended = waiter.join().unwrap().unwrap();
            assert!(ended.saturating_duration_since(there) < Duration::from_secs(5));
        });
    }
}

#[test]
fn what_is_down_is_known_to_every_command() {
    for dataplane in dataplanes() {
        let name = &format!("converge-down-{dataplane}");
        let up = Up::new(name, TWO_RINGS, dataplane);
        let reaches = |from: &str, to: &str| {
            let to = host(&up, to).to_string();
            let ping = ["exec", "-l", name, from, "ping", "-c", "1", "-W", "2", &to];
            vilab().args(ping).output().unwrap().status.success()
        };
        // Concurrent commands take turns, and none forgets what another has done.
        let links = ["base/X--Y", "blue/a--b", "blue/b--c", "red/a--b"];
        std::thread::scope(|scope| {
            for link in links {
                scope.spawn(move || ok(name, &["link", "down", link]));
            }
        });
        ok(name, &["wait"]);
        let status: serde_json::Value =
            serde_json::from_slice(&on(name, &["status", "--json"]).stdout).unwrap();
        assert_eq!(status["down"], serde_json::json!(links.map(|l| format!("link {l}"))));
        let state = |link: &str| {
            let links = status["links"].as_array().unwrap();
            let is = |l: &&serde_json::Value| {
                format!("{}/{}", l["network"].as_str().unwrap(), l["name"].as_str().unwrap()) == link
            };
            links.iter().find(is).unwrap()["state"].as_str().unwrap().to_owned()
        };
        assert_eq!(["blue/a--b", "red/b--c"].map(state), ["down", "up"]);
        assert!(!reaches("blue/a", "blue/b") && !reaches("base/X", "base/Y"));
        assert!(reaches("blue/c", "blue/a"));
        ok(name, &["link", "up", "X -- Y"]);
        for link in ["blue/a -- b", "blue/b -- c", "red/a--b"] {
            ok(name, &["link", "up", link]);
        }
        ok(name, &["wait"]);
        assert!(reaches("blue/a", "blue/b") && reaches("red/a", "red/b"));
        // A node takes with it what is placed on it; what else is down stays down when it comes back.
        ok(name, &["link", "down", "red/a--b"]);
        ok(name, &["node", "down", "base/X"]);
        ok(name, &["wait"]);
        assert!(!reaches("blue/b", "blue/a") && !reaches("base/Y", "base/X"));
        assert!(in_node(name, "blue/a", "ip -br link show up").lines().all(|l| l.starts_with("lo")));
        ok(name, &["node", "up", "X"]);
        ok(name, &["wait"]);
        assert!(reaches("blue/b", "blue/a") && reaches("base/Y", "base/X") && !reaches("red/a", "red/b"));
        // A device that somebody else set down is a difference, and no fault that vilab knows of.
        let running = up.running();
        let lab = &running.state().lab;
        let device = &lab.end(lab.node(node(lab, "red/c")).ends[0]).dev;
        in_node(name, "red/c", &format!("ip link set {device} down"));
        assert!(failed(name, &["wait"]).contains("red/c, to "));
        let wrong = on(name, &["link", "down", "blue/a--x"]);
        assert_eq!(wrong.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&wrong.stderr).contains("did you mean blue/a--b"));
    }
}

/// Routes and devices of each node of a network.
fn kernel_state(name: &str, up: &Up, network: &str) -> BTreeMap<String, (String, usize)> {
    let running = up.running();
    let lab = &running.state().lab;
    let nodes = lab.networks.iter().find(|n| n.name == network).unwrap().nodes.iter();
    nodes
        .map(|n| {
            let full = lab.full_name(n.id);
            let routes = in_node(name, &full, "ip route");
            let devices = in_node(name, &full, "ip -br link").lines().count();
            (full, (routes, devices))
        })
        .collect()
}

/// Dataplanes and kinds of routing, each with each, and a word for lab names.
fn both() -> Vec<(&'static str, &'static str, String)> {
    let pairs = dataplanes().into_iter().flat_map(|d| routings().into_iter().map(move |r| (d, r)));
    pairs.map(|(dataplane, routing)| (dataplane, routing, format!("{dataplane}-{routing}"))).collect()
}

/// Criteria B2, B3, C10: routing reacts in the VI whose link is down, no other VI and not the base see anything of it,
/// and no device comes or goes.
#[test]
fn a_fault_in_one_vi_is_no_other_vis() {
    for (dataplane, routing, kind) in both() {
        let name = &format!("apart-{kind}");
        let routed = TWO_RINGS.replace("{nodes: {a: X", &format!("{{routing: {routing}, nodes: {{a: X"));
        let up = Up::new(name, &routed, dataplane);
        let all = |up: &Up| ["base", "blue", "red"].map(|network| kernel_state(name, up, network));
        let before = all(&up);
        ok(name, &["link", "down", "blue/a--b"]);
        ok(name, &["wait"]);
        let after = all(&up);
        assert_eq!(before[0], after[0], "the base");
        assert_eq!(before[2], after[2], "the other VI");
        assert_ne!(before[1]["blue/a"].0, after[1]["blue/a"].0, "the routes of the VI itself");
        let reaction = before[1]["blue/c"].0 != after[1]["blue/c"].0;
        assert_eq!(reaction, routing != "static", "who sees the link and who hears of it");
        let devices = |states: &BTreeMap<String, (String, usize)>| -> Vec<usize> {
            states.values().map(|s| s.1).collect()
        };
        assert_eq!(devices(&before[1]), devices(&after[1]), "no device comes or goes");
        ok(name, &["link", "up", "blue/a--b"]);
        ok(name, &["wait"]);
        let again = all(&up);
        assert_eq!((&again[0], &again[2]), (&before[0], &before[2]));
        assert_eq!(devices(&before[1]), devices(&again[1]));
    }
}

/// Criterion C7: a TCP session of a host with two links survives the loss of one. Routes that are written once save it
/// where both ends of the link have another next hop; routing saves it wherever there is another way.
#[test]
fn a_session_survives_the_loss_of_a_link() {
    for (dataplane, routing, kind) in both() {
        let name = &format!("session-{kind}");
        let text = common::text("figure-05-internal-host.yaml");
        let up =
            Up::new(name, &text.replace("  home:", &format!("  home:\n    routing: {routing}")), dataplane);
        let running = up.running();
        let lab = &running.state().lab;
        let [h, k] = ["home/H", "home/K"].map(|name| lab.node(node(lab, name)));
        let namespaces = running.namespaces();
        let listener = namespaces.run(&k.netns, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 5005)));
        let listener = listener.unwrap().unwrap();
        let echo = std::thread::spawn(move || {
            let (mut stream, peer) = listener.accept().unwrap();
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                stream.write_all(&buffer[..n]).unwrap();
            }
            peer.ip()
        });
        let connect = || TcpStream::connect((k.host.unwrap(), 5005));
        let mut stream = namespaces.run(&h.netns, connect).unwrap().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut exchange = |round: u8| {
            let sent = [round; 3000];
            let mut heard = [0; 3000];
            stream.write_all(&sent).unwrap();
            stream.read_exact(&mut heard).unwrap_or_else(|e| panic!("round {round} of {kind}: {e}"));
            assert_eq!(sent, heard);
        };
        exchange(1);
        let links: &[&str] = if routing == "static" { &["H -- B2"] } else { &["H -- B2", "H -- B1"] };
        for link in links {
            ok(name, &["link", "down", link]);
            ok(name, &["wait"]);
            (2..6).for_each(&mut exchange);
            ok(name, &["link", "up", link]);
            ok(name, &["wait"]);
            (6..9).for_each(&mut exchange);
        }
        drop(stream);
        assert_eq!(echo.join().unwrap(), std::net::IpAddr::V4(h.host.unwrap()));
    }
}

/// A protocol's routes are the computed ones while each link and each node of a network is down in turn.
#[test]
fn routing_reacts_as_computed() {
    if !common::can("frr") {
        return;
    }
    let text = "name: x
base: {routing: ospf, links: [X -- Y -- Z -- X]}
vis:
  v: {routing: bgp, nodes: {a: X, b: Y, c: Z, d: {at: Y, role: router}}, links: [a -- b -- c -- a, c -- d]}
  w: {over: v, routing: ospf, nodes: {p: a, q: b, r: d}, links: [p -- q -- r -- p]}
";
    for dataplane in dataplanes() {
        let name = &format!("converge-react-{dataplane}");
        let _up = Up::new(name, text, dataplane);
        let faults = [
            ["link", "base/X--Y"],
            ["link", "v/a--b"],
            ["link", "v/c--d"],
            ["node", "base/Z"],
            ["node", "v/c"],
        ];
        for [kind, target] in faults {
            ok(name, &[kind, "down", target]);
            ok(name, &["wait"]);
            ok(name, &[kind, "up", target]);
            ok(name, &["wait"]);
        }
    }
}
