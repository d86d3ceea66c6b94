//! Measures a small routed network of namespaces: three base nodes in a row, and two pairs of plain nodes that use
//! the same addresses. Needs root; skips visibly without it unless `VILAB_REQUIRE` names `netns`.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and speak")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use vilab::lab::Namespaces;
use vilab::model::*;
use vilab::observe::{self, Context, TestResult};
use vilab::routing::{Rib, Route};

/// Namespaces under a prefix of their own, removed on drop.
struct Bed {
    prefix: String,
    names: Vec<String>,
}

impl Bed {
    fn new(tag: &str) -> Self {
        Self { prefix: format!("vt{}{tag}-", std::process::id()), names: Vec::new() }
    }

    fn add(&mut self, lab: &Lab, routes: &Rib) {
        for node in lab.nodes() {
            run(&format!("ip netns add {}", node.netns));
            self.names.push(node.netns.clone());
            for command in [
                "ip link set lo up",
                "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.icmp_ratelimit=0",
                "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.icmp_errors_use_inbound_ifaddr=1",
            ] {
                run(&format!("ip netns exec {} {command}", node.netns));
            }
            if let Some(host) = node.host {
                run(&format!("ip -n {} addr add {host}/32 dev lo", node.netns));
            }
        }
        for link in lab.networks.iter().flat_map(|n| &n.links) {
            let [a, b] = link.ends.each_ref().map(|e| (&lab.node(e.node).netns, e));
            // The addresses that the plan gives, by which neighbours are restored.
            let macs = [0, 1].map(|side| {
                let [a, b, c, d] = link.ends[side].addr.octets();
                format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
            });
            run(&format!(
                "ip -n {} link add {} address {} mtu {} type veth peer name {} address {} netns {}",
                a.0, a.1.dev, macs[0], link.mtu, b.1.dev, macs[1], b.0
            ));
            for (ns, end) in [a, b] {
                run(&format!("ip -n {ns} link set {} mtu {} up", end.dev, link.mtu));
                run(&format!("ip -n {ns} addr add {}/31 dev {}", end.addr, end.dev));
            }
        }
        for (node, table) in &routes.tables {
            for route in table {
                let via = lab.peer(route.hops[0]).addr;
                let src = route.src.map(|s| format!("src {s}")).unwrap_or_default();
                run(&format!(
                    "ip -n {} route add {} via {via} {src} proto static",
                    lab.node(*node).netns,
                    route.prefix
                ));
            }
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for name in &self.names {
            drop(Command::new("ip").args(["netns", "del", name]).status());
        }
    }
}

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether the test can run here; panics where it must.
fn able() -> bool {
    let able = nix::unistd::geteuid().is_root();
    let required = std::env::var("VILAB_REQUIRE").is_ok_and(|v| v.split(',').any(|w| w == "netns"));
    assert!(able || !required, "VILAB_REQUIRE=netns, but this is not root");
    if !able {
        eprintln!("SKIPPED: needs root");
    }
    able
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn id(net: usize, index: usize) -> NodeId {
    NodeId { net: NetId(net), index }
}

fn network(
    prefix: &str,
    net: usize,
    name: &str,
    nodes: &[(&str, Option<&str>)],
    links: &[(usize, usize, &str, &str, u32)],
) -> Network {
    let end_ids = |node: usize| {
        let mut ends = Vec::new();
        for (i, link) in links.iter().enumerate() {
            let link_id = LinkId { net: NetId(net), index: i };
            ends.extend(
                [link.0, link.1]
                    .iter()
                    .enumerate()
                    .filter(|(_, n)| **n == node)
                    .map(|(side, _)| EndId { link: link_id, side }),
            );
        }
        ends
    };
    let node = |(index, (node, host)): (usize, &(&str, Option<&str>))| Node {
        id: id(net, index),
        name: (*node).into(),
        role: Role::Both,
        at: (net > 0).then(|| id(0, index)),
        base: id(0, index),
        dataplane: DataplaneChoice::Auto,
        netns: format!("{prefix}{name}.{node}"),
        host: host.map(ip),
        stacked: Vec::new(),
        ends: end_ids(index),
        wires: Vec::new(),
        forwards: true,
        sysctls: BTreeMap::new(),
        location: None,
    };
    let link = |(index, (a, b, left, right, mtu)): (usize, &(usize, usize, &str, &str, u32))| Link {
        id: LinkId { net: NetId(net), index },
        name: format!("{}--{}", nodes[*a].0, nodes[*b].0),
        ends: [
            End {
                node: id(net, *a),
                dev: format!("to-{}", nodes[*b].0),
                addr: ip(left),
                link_addr: None,
                seat: None,
            },
            End {
                node: id(net, *b),
                dev: format!("to-{}", nodes[*a].0),
                addr: ip(right),
                link_addr: None,
                seat: None,
            },
        ],
        cost: 1,
        mtu: *mtu,
        fragments: None,
        carrier: None,
        parallel: None,
        security: None,
        impair: Default::default(),
    };
    Network {
        id: NetId(net),
        name: name.into(),
        over: (net > 0).then_some(BASE),
        besides: Vec::new(),
        depth: usize::from(net > 0),
        pool: "10.0.0.0/8".parse().unwrap(),
        link_pool: None,
        routing: Routing::Static,
        owner: None,
        nodes: nodes.iter().enumerate().map(node).collect(),
        links: links.iter().enumerate().map(link).collect(),
    }
}

/// X - Y - Z with loopbacks, Y - Z narrower; `blue` and `green`, p - q each, with the same addresses.
fn lab(prefix: &str) -> (Lab, Rib) {
    let row = [("X", Some("10.0.0.1")), ("Y", Some("10.0.0.2")), ("Z", Some("10.0.0.3"))];
    let wires = [(0, 1, "10.0.1.0", "10.0.1.1", 1500), (1, 2, "10.0.1.2", "10.0.1.3", 1400)];
    let pair = [("p", Some("10.128.0.1")), ("q", Some("10.128.0.2"))];
    let wire = [(0, 1, "10.128.1.0", "10.128.1.1", 1460)];
    let networks = vec![
        network(prefix, 0, "base", &row, &wires),
        network(prefix, 1, "blue", &pair, &wire),
        network(prefix, 2, "green", &pair, &wire),
    ];
    let lab = Lab {
        name: "bed".into(),
        description: None,
        dataplane: DataplaneChoice::Auto,
        networks,
        gateways: Vec::new(),
        emulated: Vec::new(),
        apps: Vec::new(),
        tests: Vec::new(),
    };
    let end = |net, index, side| EndId { link: LinkId { net: NetId(net), index }, side };
    let route = |prefix: &str, hop, src: &str| Route {
        prefix: prefix.parse().unwrap(),
        hops: vec![hop],
        src: Some(ip(src)),
    };
    let mut tables = BTreeMap::from([
        (
            id(0, 0),
            vec![
                route("10.0.0.2/32", end(0, 0, 0), "10.0.0.1"),
                route("10.0.0.3/32", end(0, 0, 0), "10.0.0.1"),
                route("10.0.1.2/31", end(0, 0, 0), "10.0.0.1"),
            ],
        ),
        (
            id(0, 1),
            vec![
                route("10.0.0.1/32", end(0, 0, 1), "10.0.0.2"),
                route("10.0.0.3/32", end(0, 1, 0), "10.0.0.2"),
            ],
        ),
        (
            id(0, 2),
            vec![
                route("10.0.0.1/32", end(0, 1, 1), "10.0.0.3"),
                route("10.0.0.2/32", end(0, 1, 1), "10.0.0.3"),
                route("10.0.1.0/31", end(0, 1, 1), "10.0.0.3"),
            ],
        ),
    ]);
    for net in [1, 2] {
        tables.insert(id(net, 0), vec![route("10.128.0.2/32", end(net, 0, 0), "10.128.0.1")]);
        tables.insert(id(net, 1), vec![route("10.128.0.1/32", end(net, 0, 1), "10.128.0.2")]);
    }
    (lab, Rib { tables })
}

fn test(kind: TestKind) -> Test {
    Test { name: format!("{kind:?}").chars().take(60).collect(), line: 1, within_ms: None, not: false, kind }
}

fn not(kind: TestKind) -> Test {
    Test { not: true, ..test(kind) }
}

fn ping(from: NodeId, to: NodeId) -> TestKind {
    TestKind::Ping { pairs: vec![(from, to)], count: 1, size: None, df: false }
}

fn row(inward: bool, neighbour: NodeId, src: &str, dst: &str) -> HeaderRow {
    let net = Some((ip(src), ip(dst)));
    HeaderRow { inward, neighbour, base: None, link: None, net, stack: net.map(|pair| vec![pair]) }
}

fn measure(mut lab: Lab, rib: &Rib, tests: Vec<Test>) -> Vec<TestResult> {
    lab.tests = tests;
    let namespaces = Namespaces::at("/run/netns");
    let ctx = context(&lab, rib, &namespaces);
    observe::run_tests(&ctx, &mut |r, _| println!("{} {:?}\n{}", r.name, r.elapsed, r.table().join("\n")))
}

fn context<'a>(lab: &'a Lab, rib: &'a Rib, namespaces: &'a Namespaces) -> Context<'a> {
    Context {
        lab,
        rib,
        namespaces,
        dataplanes: &[Dataplane::Kernel; 3],
        netem: true,
        fastpath_control: None,
        strands_control: None,
    }
}

fn failures(results: &[TestResult]) -> Vec<&TestResult> {
    results.iter().filter(|r| !r.passed).collect()
}

const X: NodeId = NodeId { net: BASE, index: 0 };
const Y: NodeId = NodeId { net: BASE, index: 1 };
const Z: NodeId = NodeId { net: BASE, index: 2 };
const Y_Z: Target = Target::Link(LinkId { net: BASE, index: 1 });

#[test]
fn a_routed_row_is_measured_as_it_is() {
    if !able() {
        return;
    }
    let mut bed = Bed::new("r");
    let (lab, rib) = lab(&bed.prefix);
    bed.add(&lab, &rib);
    let all = [X, Y, Z].into_iter().flat_map(|a| [X, Y, Z].map(|b| (a, b))).filter(|(a, b)| a != b).collect();
    let results = measure(
        lab,
        &rib,
        vec![
            test(TestKind::Ping { pairs: all, count: 3, size: Some(1000), df: true }),
            test(TestKind::Trace { from: X, to: Z, hops: vec![Y, Z] }),
            not(TestKind::Trace { from: X, to: Z, hops: vec![Z] }),
            test(TestKind::Ttl { from: X, to: Z, is: 63 }),
            not(TestKind::Ttl { from: X, to: Z, is: 64 }),
            test(TestKind::Mtu { from: X, to: Z, is: 1400 }),
            not(TestKind::Mtu { from: X, to: Z, is: 1399 }),
            not(TestKind::Mtu { from: X, to: Z, is: 1500 }),
            test(TestKind::Mtu { from: X, to: Y, is: 1500 }),
            test(TestKind::Depth { net: BASE, headers: 0, mtu: Some(1400) }),
            test(TestKind::Headers {
                from: X,
                to: Z,
                at: Y,
                is: vec![row(true, X, "10.0.0.1", "10.0.0.3"), row(false, Z, "10.0.0.1", "10.0.0.3")],
            }),
            not(TestKind::Headers { from: X, to: Z, at: Y, is: vec![row(true, Z, "10.0.0.1", "10.0.0.3")] }),
            test(TestKind::Isolated { networks: vec![BASE, NetId(1), NetId(2)] }),
            test(TestKind::Inject {
                at: X,
                stack: vec![(ip("10.9.9.9"), ip("10.0.0.3"))],
                to: Z,
                delivered: true,
                by: None,
                strong_host: true,
            }),
            test(TestKind::Inject {
                at: X,
                stack: vec![(ip("10.0.0.1"), ip("10.0.0.2")), (ip("10.0.0.1"), ip("10.0.0.3"))],
                to: Z,
                delivered: false,
                by: None,
                strong_host: true,
            }),
        ],
    );
    assert_eq!(failures(&results), Vec::<&TestResult>::new());
}

#[test]
fn what_goes_down_comes_up_with_its_routes() {
    if !able() {
        return;
    }
    let mut bed = Bed::new("d");
    let (lab, rib) = lab(&bed.prefix);
    bed.add(&lab, &rib);
    let results = measure(
        lab.clone(),
        &rib,
        vec![
            test(ping(X, Z)),
            test(TestKind::Down(Y_Z)),
            not(ping(X, Z)),
            test(ping(X, Y)),
            test(TestKind::Up(Y_Z)),
            Test { within_ms: Some(2000), ..test(ping(X, Z)) },
            test(TestKind::Down(Target::Node(Y))),
            test(TestKind::Wait(20)),
            not(ping(X, Y)),
        ],
    );
    assert_eq!(failures(&results), Vec::<&TestResult>::new());
    // The last action was undone without being asked for.
    let results = measure(lab, &rib, vec![test(ping(X, Z)), test(ping(Z, X))]);
    assert_eq!(failures(&results), Vec::<&TestResult>::new());
}

#[test]
fn a_leak_between_networks_is_found_even_under_reused_addresses() {
    if !able() {
        return;
    }
    let mut bed = Bed::new("l");
    let (lab, rib) = lab(&bed.prefix);
    bed.add(&lab, &rib);
    let [blue_p, green_q] = [(1, 0), (2, 1)].map(|(n, i)| lab.node(id(n, i)).netns.clone());
    run(&format!("ip -n {blue_p} link add leak type veth peer name leak netns {green_q}"));
    run(&format!("ip -n {blue_p} link set leak up"));
    run(&format!("ip -n {green_q} link set leak up"));
    run(&format!("ip -n {blue_p} route replace 10.128.0.2/32 dev leak src 10.128.0.1"));
    let results = measure(lab, &rib, vec![test(TestKind::Isolated { networks: vec![NetId(1), NetId(2)] })]);
    assert!(!results[0].passed);
    assert!(
        results[0].measured.iter().any(|r| r == "blue/p reaches green/q (10.128.0.2)"),
        "{:?}",
        results[0].measured
    );
}

#[test]
fn reach_is_quick_when_all_answer_and_says_why_when_not() {
    if !able() {
        return;
    }
    let mut bed = Bed::new("q");
    let (lab, rib) = lab(&bed.prefix);
    bed.add(&lab, &rib);
    let namespaces = Namespaces::at("/run/netns");
    let ctx = context(&lab, &rib, &namespaces);
    let start = Instant::now();
    let reached =
        observe::reach(&ctx, &[(X, Z), (Z, X), (id(1, 0), id(1, 1))], Duration::from_secs(5)).unwrap();
    assert!(reached.iter().all(|r| r.answer.is_ok()), "{reached:?}");
    assert!(start.elapsed() < Duration::from_secs(2));
    let reached = observe::reach(&ctx, &[(X, id(1, 0)), (X, Y)], Duration::from_millis(300)).unwrap();
    assert_eq!(reached[0].answer, Err("not sent: Network is unreachable".into()));
    assert!(reached[1].answer.is_ok());
    let verified = observe::verify(&ctx, &mut |v| println!("{v:?}")).unwrap();
    assert_eq!(verified.len(), 3);
    let stats = observe::links(&ctx, BASE).unwrap();
    assert!(stats[0].ends[0].is_some_and(|e| e.up && e.rx_packets > 0), "{stats:?}");
    assert_eq!(observe::counters(&ctx).unwrap()["X"], BTreeMap::new());
}

#[test]
fn verify_names_the_pair_the_path_and_what_lies_below() {
    if !able() {
        return;
    }
    let mut bed = Bed::new("v");
    let (lab, rib) = lab(&bed.prefix);
    bed.add(&lab, &rib);
    let namespaces = Namespaces::at("/run/netns");
    let ctx = context(&lab, &rib, &namespaces);
    let verified = observe::verify(&ctx, &mut |_| ()).unwrap();
    assert_eq!(verified.iter().map(|v| v.pairs).collect::<Vec<_>>(), [6, 2, 2]);
    run(&format!("ip -n {} link set to-p down", lab.node(id(1, 1)).netns));
    let error =
        observe::verify_within(&ctx, Duration::from_millis(500), &mut |_| ()).unwrap_err().to_string();
    assert!(error.starts_with("blue/p does not reach blue/q: "), "{error}");
    assert!(error.contains("predicted path: p -> q"), "{error}");
    assert!(error.contains("below the first link, p--q, base/X -> base/Y works"), "{error}");
}

#[test]
fn the_kernels_strong_host_rule_is_off_for_one_probe_and_then_as_before() {
    if !able() {
        return;
    }
    let mut bed = Bed::new("s");
    let (mut lab, rib) = lab(&bed.prefix);
    bed.add(&lab, &rib);
    // Namespaces of link layers have no prefix but the node's name.
    lab.networks[0].nodes[2].name = format!("{}Z", bed.prefix);
    let layer = lab.link_netns(Z);
    run(&format!("ip netns add {layer}"));
    bed.names.push(layer.clone());
    for rule in [
        "add table inet vi_strong",
        "add counter inet vi_strong strong-host",
        "add chain inet vi_strong pre { type filter hook prerouting priority raw ; policy drop ; }",
        "add rule inet vi_strong pre counter name strong-host drop",
    ] {
        run(&format!("ip netns exec {layer} nft {rule}"));
    }
    let rules = || {
        let list =
            Command::new("ip").args(["netns", "exec", &layer, "nft", "list", "ruleset"]).output().unwrap();
        String::from_utf8(list.stdout).unwrap()
    };
    let before = rules();
    let inject = TestKind::Inject {
        at: X,
        stack: vec![(ip("10.9.9.9"), ip("10.0.0.3"))],
        to: Z,
        delivered: true,
        by: None,
        strong_host: false,
    };
    let results = measure(lab.clone(), &rib, vec![test(inject)]);
    assert_eq!(failures(&results), Vec::<&TestResult>::new());
    assert_eq!(rules(), before);
    let namespaces = Namespaces::at("/run/netns");
    let counters = observe::counters(&context(&lab, &rib, &namespaces)).unwrap();
    let quiet = ["bad-header", "strong-host"].map(|name| (name.to_owned(), 0));
    assert_eq!(counters[&lab.node(Z).name], BTreeMap::from(quiet));
}
