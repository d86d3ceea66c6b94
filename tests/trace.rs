//! `vilab trace` on running labs: in a lab that is right, what is captured on every wire is what was computed; in one that
//! something was broken in on purpose, the trace says what.

mod common;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::Value;
use vilab::fastpath::config::Below;
use vilab::fastpath::control::Client;
use vilab::lab::Running;

/// The exit status, and what it printed.
fn trace(lab: &str, arguments: &[&str]) -> (Option<i32>, Value) {
    let output =
        common::vilab().args(["trace", "-l", lab, "--json"]).args(arguments).output().expect("it runs");
    let words = String::from_utf8_lossy(&output.stderr);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {words}"));
    assert_eq!(value["schema"], "vilab.trace/1");
    (output.status.code(), value)
}

/// That the way of a probe is as computed, hop by hop and byte by byte.
fn is_as_computed(lab: &str, from: &str, to: &str) -> Value {
    let (status, found) = trace(lab, &[from, to]);
    assert_eq!(status, Some(0), "{lab}: {from} to {to}: {found:#}");
    assert_eq!((&found["arrived"], &found["difference"]), (&Value::Bool(true), &Value::Null));
    for hop in found["hops"].as_array().expect("hops") {
        let (computed, captured) = (&hop["computed"], &hop["captured"]);
        assert_eq!((&computed["link"], &captured["received"]), (&captured["link"], &Value::Bool(true)));
        let headers = |stack: &Value| -> Vec<Value> {
            let all = stack["headers"].as_array().expect("headers").iter().cloned();
            all.map(|mut h| {
                h.as_object_mut().expect("a header").remove("bytes");
                h
            })
            .collect()
        };
        assert_eq!(headers(computed), headers(captured), "{lab}: {from} to {to}: {hop:#}");
    }
    found
}

fn ip(running: &Running, ns: &str, arguments: &[&str]) -> String {
    let run = || Command::new("ip").args(arguments).output();
    let output = running.namespaces().run(ns, run).expect("the namespace").expect("ip");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The causes of one kind: where, and what.
fn causes(found: &Value, kind: &str) -> Vec<(String, String)> {
    let all = found["causes"].as_array().expect("causes").iter().filter(|c| c["kind"] == kind);
    let text = |c: &Value, key: &str| c[key].as_str().expect("text").to_owned();
    all.map(|c| (text(c, "at"), text(c, "what"))).collect()
}

#[test]
fn what_is_captured_on_every_wire_is_what_was_computed() {
    for dataplane in common::dataplanes() {
        let up = common::Up::new(&format!("trace-{dataplane}"), common::STACK_AND_ROUTER, dataplane);
        let (name, running) = (up.name(), up.running());
        for (from, to) in [
            ("base/X", "Z"),
            ("low/l", "r"),
            ("low/r", "l"),
            ("high/a", "b"),
            ("outer/c", "d"),
            ("outer/d", "R"),
        ] {
            is_as_computed(name, from, to);
        }
        headers(name);
        lost_route(name, &running);
        lowered_mtu(name, &running);
        if dataplane == "fastpath" {
            refused_link(name, &running);
            stopped_engine(name, &running);
        }
        refusals(name);
    }
}

/// The figures of the paper: the lab, and between which nodes. One way leads from each to the other, so that no choice among
/// ways of equal cost, which is a kernel's own, shows.
const FIGURES: [(&str, &str, &str, &str); 11] = [
    ("figure-01", "figure-01-multiple-vis", "star/s1", "star/s5"),
    ("figure-02", "figure-02-users-view", "pair/here", "pair/there"),
    ("figure-03", "figure-03-04-mapping", "star/s1", "star/s3"),
    ("figure-04", "figure-03-04-mapping", "ring/a", "ring/b"),
    ("figure-05", "figure-05-internal-host", "home/H", "home/B1"),
    ("figure-06", "figure-06-strong-weak", "vi/A", "vi/C"),
    ("figure-07", "figure-07-headers", "vi/A", "vi/D"),
    ("figure-08", "figure-08-recursion", "upper/a", "upper/b"),
    ("figure-09", "figure-09-header", "vi/A", "vi/B"),
    ("figure-10", "figure-10-stacked", "upper/U1", "upper/U2"),
    ("figure-11", "figure-11-revisitation", "line/A", "line/F"),
];

/// What stands in `fixtures/trace`; `VILAB_BLESS=1` writes it. What differs from run to run (identifications, ports, times)
/// no trace shows, unless it is asked for bytes.
#[test]
fn the_figures_are_traced_as_before() {
    let mut wrong = Vec::new();
    for dataplane in common::dataplanes() {
        for lab in FIGURES.iter().map(|(_, lab, ..)| *lab).collect::<BTreeSet<&str>>() {
            let text = common::text(&format!("{lab}.yaml"));
            if text.contains("routing: ospf") && !common::can("frr") {
                continue;
            }
            let up = common::Up::new(&format!("traced-{}-{dataplane}", &lab[7..9]), &text, dataplane);
            for (figure, _, from, to) in FIGURES.iter().filter(|(_, of, ..)| *of == lab) {
                let got = common::run(common::vilab().args(["trace", "-l", up.name(), from, to]));
                let golden = format!("fixtures/trace/{figure}.txt");
                if std::env::var_os("VILAB_BLESS").is_some() {
                    std::fs::write(&golden, &got).expect("the golden file is writable");
                }
                if std::fs::read_to_string(&golden).unwrap_or_default() != got {
                    wrong.push(format!("{golden} on {dataplane}:\n{got}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "not as before: {}", wrong.join("\n"));
}

/// Figure 11's rows, with TTLs and what is done between them.
#[test]
fn f11_each_visit_is_told_apart_and_each_change_has_its_device() {
    for dataplane in common::dataplanes() {
        let up = common::Up::lab(&format!("trace-11-{dataplane}"), "figure-11-revisitation.yaml", dataplane);
        let found = is_as_computed(up.name(), "A", "F");
        let hops = found["hops"].as_array().expect("hops");
        let rows: Vec<(&str, &str, u64)> = hops
            .iter()
            .map(|h| {
                let headers = &h["captured"]["headers"];
                let words = |i: usize| headers[i]["words"].as_str().expect("words");
                (words(0), words(1), headers[2]["ttl"].as_u64().expect("a TTL"))
            })
            .collect();
        assert_eq!(
            rows,
            [
                ("base X -> Y", "link A -> B", 64),
                ("base Y -> Z", "link B -> C", 63),
                ("base Z -> Y", "link C -> D", 62),
                ("base Y -> Z", "link D -> E", 61),
                ("base Z -> Y", "link E -> F", 60),
            ]
        );
        let before = hops[1]["before"].as_array().expect("acts");
        let acts: Vec<&str> = before.iter().map(|a| a.as_str().expect("words")).collect();
        assert_eq!(acts.len(), 5, "{acts:?}");
        assert!(acts[1].starts_with("line/B ") && acts[1].contains("- link(line) A -> B"), "{acts:?}");
        assert_eq!(acts[2], "line/B: TTL 63");
        assert_eq!((found["mtu"].as_u64(), found["ttl"][1].as_u64()), (Some(1460), Some(60)));
    }
}

#[test]
fn labs_of_all_kinds_are_as_computed() {
    for dataplane in common::dataplanes() {
        for (file, from, to) in [
            ("recursion-in-recursion.yaml", "outer/a", "outer/b"),
            ("security.yaml", "", ""),
            ("figure-05-internal-host.yaml", "home/H", "home/K"),
            ("gateway.yaml", "red/a", "green/c"),
        ] {
            let up = common::Up::lab(&format!("trace-{}-{dataplane}", &file[..5]), file, dataplane);
            let running = up.running();
            let lab = &running.state().lab;
            let ends = || {
                let nodes = &lab.networks[1].nodes;
                [nodes.first(), nodes.last()].map(|n| lab.full_name(n.expect("a node").id))
            };
            let [first, last] = if from.is_empty() { ends() } else { [from.to_owned(), to.to_owned()] };
            is_as_computed(up.name(), &first, &last);
        }
    }
}

/// D13, D14: outermost the base's header, then one for each layer; as bytes too.
fn headers(name: &str) {
    let (_, found) = trace(name, &["high/a", "b"]);
    let hops = found["hops"].as_array().expect("hops");
    assert_eq!(hops.len(), 2);
    let headers = hops[0]["captured"]["headers"].as_array().expect("headers");
    assert_eq!(headers.len(), 4);
    for header in headers {
        let bytes = header["bytes"].as_str().expect("bytes");
        assert!(bytes.len() == 40 && bytes.starts_with("45"), "{bytes}");
        assert_eq!(u64::from_str_radix(&bytes[4..8], 16).ok(), header["length"].as_u64());
        assert_eq!(u64::from_str_radix(&bytes[16..18], 16).ok(), header["ttl"].as_u64());
    }
    let words = common::run(common::vilab().args(["trace", "-l", name, "high/a", "b"]));
    for part in ["X => Y", "base X -> Y ttl 64", "low/m: TTL 63", "all is as computed", "MTU 1440"] {
        assert!(words.contains(part), "no {part}:\n{words}");
    }
}

/// A route is taken away behind the lab's back, two layers below: the probe is lost after the first wire.
fn lost_route(name: &str, running: &Running) {
    let lab = &running.state().lab;
    let link = lab.links().find(|l| lab.full_link_name(l.id) == "high/a--b").expect("the link");
    let to = link.ends[1].link_addr.expect("a link address").to_string();
    let route = ip(running, "v.low.m", &["route", "show", &to]);
    ip(running, "v.low.m", &["route", "del", &to]);
    let (status, found) = trace(name, &["high/a", "b"]);
    assert_eq!(
        (status, &found["arrived"], &found["difference"]),
        (Some(1), &Value::Bool(false), &Value::from(2))
    );
    let [(at, what)] = &causes(&found, "route")[..] else { panic!("{found:#}") };
    assert_eq!(at, "low/m");
    assert!(what.starts_with(&format!("no route to {to}; computed: ")), "{what}");
    let back: Vec<&str> = ["route", "add"].into_iter().chain(route.split_whitespace()).collect();
    ip(running, "v.low.m", &back);
    is_as_computed(name, "high/a", "b");
}

/// An MTU is lowered behind the lab's back: a small probe passes and the trace says so, a large one is lost there.
fn lowered_mtu(name: &str, running: &Running) {
    let lab = &running.state().lab;
    let link = lab.links().find(|l| lab.full_link_name(l.id) == "low/m--r").expect("the link");
    let (dev, mtu) = (link.ends[0].dev.as_str(), link.mtu.to_string());
    let set = |mtu: &str| ip(running, "v.low.m", &["link", "set", "dev", dev, "mtu", mtu]);
    assert_eq!(trace(name, &["--size", &mtu, "low/l", "r"]).0, Some(0));
    set("1000");
    let (status, found) = trace(name, &["low/l", "r"]);
    assert_eq!(
        (status, &found["arrived"], &found["difference"]),
        (Some(1), &Value::Bool(true), &Value::Null)
    );
    assert_eq!(
        causes(&found, "mtu"),
        [("low/m".to_owned(), format!("device {dev} has MTU 1000, not {mtu}"))]
    );
    let (status, found) = trace(name, &["--size", &mtu, "low/l", "r"]);
    assert_eq!(
        (status, &found["arrived"], &found["difference"]),
        (Some(1), &Value::Bool(false), &Value::from(2))
    );
    let [(at, what)] = &causes(&found, "mtu")[..] else { panic!("{found:#}") };
    assert!(at == "low/m" && what.ends_with(&format!("too small for the {mtu} bytes")), "{at}: {what}");
    set(&mtu);
    is_as_computed(name, "low/l", "r");
}

/// The engine is told that a link comes by another tunnel: the strong-host rule refuses it, and is named.
fn refused_link(name: &str, running: &Running) {
    let right = running.engine_config().expect("readable").expect("an engine");
    let reload = |config: &vilab::fastpath::Config| {
        let file = running.dir().join("trace-test.json");
        std::fs::write(&file, serde_json::to_vec(config).expect("JSON")).expect("it is written");
        let mut client =
            Client::connect(&running.fastpath_control().expect("an engine")).expect("it listens");
        client.reload(&file).expect("it reloads");
        std::fs::remove_file(file).expect("it goes");
    };
    let mut wrong = right.clone();
    let node = |name: &str| right.nodes.iter().find(|n| n.name == name).expect("a base node").addr;
    let (x, z) = (node("X"), node("Z"));
    let m = right.partitions.iter().position(|p| p.name == "low/m").expect("a partition");
    let of_m = wrong.interfaces.iter_mut().filter(|i| i.partition == m);
    let towards_x = of_m.into_iter().find(|i| i.below == Below::Base { remote: x }).expect("an interface");
    towards_x.below = Below::Base { remote: z };
    reload(&wrong);
    let (status, found) = trace(name, &["low/l", "m"]);
    assert_eq!((status, &found["arrived"]), (Some(1), &Value::Bool(false)), "{found:#}");
    let filters = causes(&found, "filter");
    assert!(
        filters.iter().any(|(at, what)| at == "base/Y" && what.starts_with("strong-host counted")),
        "{found:#}"
    );
    reload(&right);
    is_as_computed(name, "low/l", "m");
}

/// What carries all virtual links does not run.
fn stopped_engine(name: &str, running: &Running) {
    let services = running.init().expect("init").services().expect("a list");
    let engine =
        services.iter().find(|s| s.node.is_none() && s.name.contains("fastpath")).expect("the engine");
    let mut init = running.init().expect("init");
    init.tell(&vilab::lab::control::Request::Stop { service: engine.name.clone() }).expect("it stops");
    let (status, found) = trace(name, &["low/l", "r"]);
    assert_eq!((status, &found["arrived"]), (Some(1), &Value::Bool(false)), "{found:#}");
    let services = causes(&found, "service");
    assert!(services.iter().any(|(_, what)| what.starts_with(&engine.name)), "{found:#}");
    is_as_computed(name, "base/X", "Z");
    init.tell(&vilab::lab::control::Request::Start { service: engine.name.clone() }).expect("it starts");
}

/// A routing daemon ends, its routes go, and the trace names both.
#[test]
fn a_daemon_that_does_not_run_is_named() {
    if !common::can("frr") || !common::can("netns") {
        return;
    }
    let text = "
name: daemon
base: {links: [X -- Y -- Z]}
vis:
  vi:
    routing: ospf
    nodes: {a: X, m: {at: Y, role: router}, b: Z}
    links: [a -- m -- b]
";
    let up = common::Up::new("trace-daemon", text, "fastpath");
    let running = up.running();
    is_as_computed(up.name(), "vi/a", "b");
    let mut init = running.init().expect("init");
    let services = init.services().expect("a list");
    let ospfd = services.iter().find(|s| s.node.as_deref() == Some("vi/a") && s.name.contains("ospfd"));
    let ospfd = ospfd.expect("ospfd of vi/a").name.clone();
    init.tell(&vilab::lab::control::Request::Stop { service: ospfd.clone() }).expect("it stops");
    let lost = || trace(up.name(), &["vi/a", "b"]).1["arrived"] == Value::Bool(false);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !lost() {
        assert!(std::time::Instant::now() < deadline, "the routes of a daemon that has ended stay");
    }
    let (status, found) = trace(up.name(), &["vi/a", "b"]);
    assert_eq!(status, Some(1));
    assert_eq!(causes(&found, "route").first().map(|(at, _)| at.as_str()), Some("vi/a"), "{found:#}");
    let services = causes(&found, "service");
    assert!(services.iter().any(|(at, what)| at == "vi/a" && what.starts_with(&ospfd)), "{found:#}");
}

/// A packet that an application sends is followed like a probe.
#[test]
fn traffic_of_the_nodes_own_is_followed_live() {
    for dataplane in common::dataplanes() {
        let up = common::Up::new(&format!("trace-live-{dataplane}"), common::STACK_AND_ROUTER, dataplane);
        let mut ping = common::vilab();
        ping.args(["exec", "-l", up.name(), "high/a", "--", "ping", "-i", "0.2", "-s", "333", "b"]);
        let mut ping = ping.stdout(std::process::Stdio::null()).spawn().expect("ping starts");
        let (status, found) = trace(up.name(), &["--live", "--for", "20s", "high/a", "b"]);
        let filtered = |expression: &str, time: &str| {
            let live =
                ["trace", "-l", up.name(), "--live", "--for", time, "--filter", expression, "high/a", "b"];
            let output = common::vilab().args(live).output().expect("it runs");
            (
                output.status.code(),
                String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
            )
        };
        // What passes the filter is the packet of the nodes themselves, not what it is in.
        let (passed, words) = filtered("icmp[icmptype] == icmp-echo and greater 361", "20s");
        assert_eq!(passed, Some(0), "{words}");
        assert!(words.contains("361 bytes arrived at high/b with TTL 64"), "{words}");
        let (failed, words) = filtered("udp", "600ms");
        assert_eq!(failed, Some(1), "{words}");
        assert!(words.contains("nothing that high/a sent to high/b, of `udp`, was seen in 0.6 s"), "{words}");
        let (refused, words) = filtered("host and", "1s");
        assert!(refused == Some(2) && words.contains("does not understand the filter"), "{words}");
        ping.kill().expect("it ends");
        ping.wait().expect("it has ended");
        assert_eq!(status, Some(0), "{found:#}");
        assert_eq!((found["length"].as_u64(), found["arrived"].as_bool()), (Some(361), Some(true)));
        let hops = found["hops"].as_array().expect("hops");
        assert!(hops.len() == 2 && hops.iter().all(|h| h["captured"]["received"] == true), "{found:#}");
        let silent = ["trace", "-l", up.name(), "--live", "--for", "100ms", "low/l", "low/r"];
        let silent = common::vilab().args(silent).output().expect("it runs");
        let words = String::from_utf8_lossy(&silent.stderr);
        assert_eq!(silent.status.code(), Some(1), "{words}");
        assert!(words.contains("nothing that low/l sent to low/r was seen"), "{words}");
    }
}

/// Where a base node is visited several times, a packet that has come there for another node is not at its end; and one that was
/// under way when the captures were opened is not followed.
#[test]
fn a_live_packet_is_followed_through_all_visits() {
    for dataplane in common::dataplanes() {
        let name = format!("trace-visits-{dataplane}");
        let up = common::Up::lab(&name, "figure-11-revisitation.yaml", dataplane);
        let mut ping = common::vilab();
        ping.args(["exec", "-l", up.name(), "A", "--", "ping", "-i", "0.01", "F"]);
        let mut ping = ping.stdout(std::process::Stdio::null()).spawn().expect("ping starts");
        let found: Vec<_> = (0..5).map(|_| trace(up.name(), &["--live", "--for", "20s", "A", "F"])).collect();
        ping.kill().expect("it ends");
        ping.wait().expect("it has ended");
        for (status, found) in found {
            assert_eq!((status, found["hops"].as_array().map(Vec::len)), (Some(0), Some(5)), "{found:#}");
        }
    }
}

/// Beside a TCP stream that fills all wires, captures cannot take all that passes; a probe is followed nevertheless, and of a packet
/// of the stream itself it is never said without more that it was lost.
#[test]
fn a_probe_is_followed_through_a_loaded_lab() {
    for dataplane in common::dataplanes() {
        let up =
            common::Up::lab(&format!("trace-load-{dataplane}"), "figure-11-revisitation.yaml", dataplane);
        let running = up.running();
        let lab = &running.state().lab;
        let place = |name: &str| {
            let node = lab.networks.iter().flat_map(|n| &n.nodes).find(|n| n.name == name);
            let node = node.expect("a node");
            (node.netns.clone(), node.host.expect("a host address"))
        };
        let ((a, _), (f, address)) = (place("A"), place("F"));
        let listener = running.namespaces().run(&f, || TcpListener::bind((address, 5001)));
        let listener = listener.expect("the namespace").expect("a listener");
        let sink = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let (mut buffer, mut count) = (vec![0; 1 << 16], 0);
            loop {
                match stream.read(&mut buffer).expect("the bytes") {
                    0 => return count,
                    length => count += length,
                }
            }
        });
        let stream = running.namespaces().run(&a, || TcpStream::connect((address, 5001)));
        let mut stream = stream.expect("the namespace").expect("a connection");
        let (done, began) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let flag = Arc::clone(&done);
        let source = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                stream.write_all(&[7; 1 << 16]).expect("the bytes are taken");
            }
        });
        let probes: Vec<_> = (0..5).map(|_| trace(up.name(), &["A", "F"])).collect();
        let live = trace(up.name(), &["--live", "--for", "20s", "A", "F"]);
        done.store(true, Ordering::Relaxed);
        source.join().expect("the source");
        let count = sink.join().expect("the sink");
        assert!(count > 1 << 20, "{count} bytes in {:?}", began.elapsed());
        for (status, found) in probes {
            assert_eq!((status, found["arrived"].as_bool()), (Some(0), Some(true)), "{found:#}");
        }
        let (status, found) = live;
        assert!(status == Some(0) || !causes(&found, "capture").is_empty(), "{found:#}");
    }
}

fn refusals(name: &str) {
    for (arguments, what) in [
        (vec!["high/a", "low/m"], "high/a and low/m are in different networks"),
        (vec!["high/z", "b"], "has no node high/z"),
        (vec!["high/a", "b", "--size", "20"], "a probe has"),
    ] {
        let refused = common::vilab().args(["trace", "-l", name]).args(&arguments).output().expect("it runs");
        let words = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{words}");
        assert!(words.contains(what), "{words}");
    }
}
