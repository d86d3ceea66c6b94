#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
//! Routers that whole VIs play: that nothing of the inner VI shows in the outer one, what becomes of lost ports, and what
//! serves the router ending. Where it stands in a lab, `labs/figure-08-recursion.yaml` and `labs/recursion.yaml` show it.

mod common;

use std::collections::BTreeSet;
use std::io::Read as _;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{Up, can, dataplanes, run, vilab};
use serde_json::Value;

/// Whatever must happen happens within this, however busy the machine is.
const LONG: Duration = Duration::from_secs(60);
/// A router that a VI plays tells within this that an edge of it is lost.
const WITHDRAWN: Duration = Duration::from_secs(3);

/// `outer` with three hosts round a router, and VIs that may play it.
const BASE: &str = "
name: t
base:
  links: [h1 -- r1, h2 -- r2, h3 -- r3, r1 -- r2 -- r3 -- r1]
";
const INNER: &str = "
  inner:
    routing: ROUTING
    nodes:
      v1: {at: r1, role: phantom, port: p1}
      v2: {at: r2, role: phantom, port: p2}
      v3: {at: r3, role: phantom, port: p3}
      m: {at: r1, role: router}
    links: [v1 -- m -- v2 -- v3 -- m, v1 -- v2]
    emulate: {resolve: RESOLVE}
";

fn lab(outer: &str, inner: &str, resolve: &str) -> String {
    let outer = format!(
        "vis:\n  outer:\n    routing: {outer}\n    nodes: {{a: h1, b: h2, c: h3, R: {{role: router, emulate: inner}}}}\n    \
         links: [a -- R.p1, b -- R.p2, c -- R.p3]"
    );
    let inner = INNER.replace("ROUTING", inner).replace("RESOLVE", resolve);
    format!("{BASE}{outer}{inner}")
}

/// The same with a router that is itself.
fn plain() -> String {
    format!(
        "{BASE}vis:\n  outer:\n    nodes: {{a: h1, b: h2, c: h3, R: {{at: r1, role: router}}}}\n    \
         links: [a -- R, b -- R, c -- R]\n"
    )
}

fn exec(lab: &Up, node: &str, argv: &[&str]) -> String {
    run(vilab().args(["exec", "-l", lab.name(), node]).args(argv))
}

fn answers(lab: &Up, from: &str, to: &str) -> bool {
    let mut ping = vilab();
    ping.args(["exec", "-l", lab.name(), from, "ping", "-c1", "-W1", to]);
    ping.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

fn within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "{what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn settled(lab: &Up) {
    run(vilab().args(["wait", "--timeout", "60s", lab.name()]));
}

/// tcpdump in some nodes, until it has been stopped.
struct Taps(Vec<(String, Child)>);

impl Taps {
    fn open(lab: &Up, nodes: &[&str]) -> Self {
        let tap = |node: &&str| {
            let mut tcpdump = vilab();
            tcpdump.args(["exec", "-l", lab.name(), node, "tcpdump", "--immediate-mode", "-lnni", "any"]);
            let mut tap = tcpdump.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            // It says that it listens.
            let (mut said, mut byte) = (Vec::new(), [0]);
            while !String::from_utf8_lossy(&said).contains("listening on") {
                let read = tap.stderr.as_mut().unwrap().read(&mut byte).unwrap();
                assert!(read > 0, "tcpdump on {node}: {}", String::from_utf8_lossy(&said));
                said.push(byte[0]);
            }
            ((*node).to_owned(), tap)
        };
        Self(nodes.iter().map(tap).collect())
    }

    /// What each has seen.
    fn close(self) -> Vec<(String, String)> {
        let close = |(node, mut tap): (String, Child)| {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(tap.id()).unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
            let mut text = String::new();
            tap.stdout.take().unwrap().read_to_string(&mut text).unwrap();
            tap.wait().unwrap();
            (node, text)
        };
        self.0.into_iter().map(close).collect()
    }
}

#[test]
fn d11_ax3_a_router_that_a_vi_plays_is_like_one_that_is_itself() {
    for dataplane in dataplanes() {
        let seen =
            [plain(), lab("static", "static", "exchange"), lab("static", "static", "computed")].map(|text| {
                let lab = Up::new("recursion-same", &text, dataplane);
                let ways = [("a", "b"), ("b", "c"), ("c", "a")].map(|(from, to)| {
                    let trace = exec(&lab, from, &["traceroute", "-n", "-q1", to]);
                    let hops = trace.lines().skip(1).map(|l| l.split_whitespace().nth(1).unwrap().to_owned());
                    let ttl = exec(&lab, from, &["ping", "-c1", to]);
                    let ttl = ttl.split("ttl=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
                    (hops.collect::<Vec<_>>(), ttl)
                });
                let routes = ["a", "b", "c"].map(|node| exec(&lab, node, &["ip", "route"]));
                (ways, routes)
            });
        assert_eq!(seen[0], seen[1], "{dataplane}: exits found by the protocol");
        assert_eq!(seen[0], seen[2], "{dataplane}: exits computed");
    }
}

#[test]
fn d11_d12_nothing_of_the_inner_vi_is_seen_in_the_outer_one() {
    for dataplane in dataplanes() {
        let lab = Up::new("recursion-hidden", &lab("static", "static", "exchange"), dataplane);
        let state = lab.running().state().lab.clone();
        let pools: Vec<_> =
            state.networks.iter().filter(|n| n.name != "outer" && n.name != "base").map(|n| n.pool).collect();
        let nodes = ["outer/a", "outer/b", "outer/c", "outer/R"];
        let taps = Taps::open(&lab, &nodes);
        for (from, to) in [("a", "b"), ("b", "c"), ("c", "a")] {
            exec(&lab, from, &["traceroute", "-n", "-q1", to]);
            exec(&lab, from, &["ping", "-c2", to]);
            // Larger than what fits, and to nobody: errors come from R.
            let mut bounced = vilab();
            bounced.args(["exec", "-l", lab.name(), from, "ping", "-c1", "-W1", "-Mdo", "-s1440", to]);
            bounced.output().unwrap();
            let mut lost = vilab();
            lost.args(["exec", "-l", lab.name(), from, "ping", "-c1", "-W1", "10.99.0.1"]).output().unwrap();
        }
        exec(&lab, "a", &["ping", "-c1", "R"]);
        for (node, text) in taps.close() {
            let foreign = |word: &&str| {
                let octets: Vec<&str> = word.trim_end_matches(':').split('.').take(4).collect();
                let address = octets.join(".").parse::<std::net::Ipv4Addr>();
                address.is_ok_and(|a| pools.iter().any(|pool| pool.contains(&a)))
            };
            let leaked: BTreeSet<&str> = text.split_whitespace().filter(foreign).collect();
            assert!(leaked.is_empty(), "{dataplane}, {node}: {leaked:?}\n{text}");
            assert!(text.contains("ICMP"), "{dataplane}, {node} has seen nothing: {text}");
        }
        // The phantom VH answers as a tunnel end, and nothing listens there.
        let sockets = exec(&lab, "inner/v1", &["ss", "-Hltn"]);
        assert_eq!(sockets.trim(), "", "{dataplane}: no application listens on a phantom VH");
    }
}

#[test]
fn d11_to_ospf_the_router_is_one_router_and_a_lost_edge_is_one_lost_interface() {
    if !can("frr") {
        return;
    }
    for dataplane in dataplanes() {
        let lab = Up::new("recursion-ospf", &lab("ospf", "ospf", "exchange"), dataplane);
        let links = || -> Vec<(String, u64)> {
            let text = exec(&lab, "a", &["vtysh", "-c", "show ip ospf database router json"]);
            let database: Value = serde_json::from_str(&text).unwrap();
            let areas = database["routerLinkStates"]["areas"].as_object().unwrap().values();
            let lsas = areas.flat_map(|area| area.as_array().unwrap().clone());
            lsas.map(|l| {
                (l["advertisingRouter"].as_str().unwrap().to_owned(), l["numOfLinks"].as_u64().unwrap())
            })
            .collect()
        };
        // Each link is two in the advertisement: the neighbour, and the prefix.
        let of_r = |links: &[(String, u64)]| links.iter().map(|(_, n)| *n).max().unwrap();
        let before = links();
        assert_eq!(before.len(), 4, "{dataplane}: a, b, c and R: {before:?}");
        assert_eq!(of_r(&before), 6, "{dataplane}: {before:?}");
        run(vilab().args(["link", "down", "-l", lab.name(), "inner/v1--v2"]));
        settled(&lab);
        assert_eq!(links(), before, "{dataplane}: a cut inside does not show");
        assert!(answers(&lab, "a", "b"), "{dataplane}");
        run(vilab().args(["node", "down", "-l", lab.name(), "inner/v2"]));
        within(WITHDRAWN, "R withdraws the link of the lost edge", || of_r(&links()) == 4);
        assert!(answers(&lab, "a", "c"), "{dataplane}: the others go on");
        run(vilab().args(["node", "up", "-l", lab.name(), "inner/v2"]));
        within(LONG, "R has all its links again", || of_r(&links()) == 6);
        settled(&lab);
        assert!(answers(&lab, "a", "b"), "{dataplane}");
    }
}

#[test]
fn a_port_that_the_inner_vi_cuts_off_is_lost_and_comes_back() {
    for dataplane in dataplanes() {
        let text = lab("static", "static", "exchange")
            .replace("links: [v1 -- m -- v2 -- v3 -- m, v1 -- v2]", "links: [v1 -- m -- v2, m -- v3]");
        let lab = Up::new("recursion-cut", &text, dataplane);
        run(vilab().args(["link", "down", "-l", lab.name(), "inner/m--v2"]));
        settled(&lab);
        assert!(answers(&lab, "a", "c"), "{dataplane}");
        assert!(!answers(&lab, "a", "b"), "{dataplane}");
        let routes = exec(&lab, "outer.R/p1", &["ip", "route"]);
        let through = routes.lines().filter(|l| l.contains("via") && l.contains("x-p2"));
        assert_eq!(through.count(), 0, "{dataplane}: {routes}");
        run(vilab().args(["link", "up", "-l", lab.name(), "inner/m--v2"]));
        settled(&lab);
        assert!(answers(&lab, "a", "b"), "{dataplane}");
    }
}

#[test]
fn what_serves_the_router_may_end_and_packets_in_transit_go_on() {
    for dataplane in dataplanes() {
        let lab = Up::new("recursion-served", &lab("static", "static", "exchange"), dataplane);
        let status = || -> Value {
            serde_json::from_str(&run(vilab().args(["status", lab.name(), "--json"]))).unwrap()
        };
        let routers = |status: &Value| {
            let services = status["services"].as_array().unwrap();
            services.iter().find(|s| s["name"] == "routers").unwrap().clone()
        };
        let before = routers(&status());
        let pid = i32::try_from(before["pid"].as_i64().unwrap()).unwrap();
        // The id is one inside the lab.
        exec(&lab, "outer/R", &["kill", "-KILL", &pid.to_string()]);
        within(LONG, "it is started again", || {
            assert!(answers(&lab, "a", "b"), "{dataplane}: nobody is needed for packets in transit");
            let now = routers(&status());
            now["state"] == "running" && now["pid"] != before["pid"]
        });
        within(LONG, "the router answers for itself", || {
            assert!(answers(&lab, "a", "b"), "{dataplane}: nor while it learns what it must know");
            answers(&lab, "a", "R")
        });
        settled(&lab);
        assert!(answers(&lab, "a", "b"), "{dataplane}");
    }
}

#[test]
fn ports_come_and_go_while_the_lab_is_up() {
    for dataplane in dataplanes() {
        let text = lab("static", "static", "exchange").replace("name: t", "name: recursion-apply");
        let lab = Up::new("recursion-apply", &text, dataplane);
        let more = text
            .replace("c: h3,", "c: h3, d: r2,")
            .replace("c -- R.p3]", "c -- R.p3, d -- R.p4]")
            .replace(
                "m: {at: r1, role: router}",
                "m: {at: r1, role: router}\n      v4: {at: r2, role: phantom, port: p4}",
            )
            .replace("v1 -- v2]", "v1 -- v2, v4 -- m]");
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        for (text, there) in [(&more, true), (&text, false)] {
            std::fs::write(file.path(), text).unwrap();
            run(vilab().arg("apply").arg(file.path()));
            assert!(answers(&lab, "a", "b"), "{dataplane}");
            if there {
                assert!(answers(&lab, "a", "d") && answers(&lab, "d", "c"), "{dataplane}");
            }
        }
    }
}
