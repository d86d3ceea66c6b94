//! FRR in the partitions of a lab: each protocol finds the routes that vilab computes, keeps to its own network, and
//! outlives its daemons.

mod common;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use common::{Up, can, dataplanes, run, vilab};
use vilab::lab::Running;
use vilab::model::{Lab, Network};

/// Time for what takes seconds here, on a machine a tenth as fast.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at a daemon.
const PAUSE: Duration = Duration::from_millis(100);

/// A ring of six and two chains of three on it, on four base nodes: twelve nodes, hosts and routers.
fn vi(routing: &str) -> String {
    format!(
        r#"  {routing}:
    nodes:
      "r[1..6]": {{at: X, role: router}}
      "a[1..3]": Y
      "b[1..3]": {{at: X, role: both}}
    links:
      - {{ring: "r[1..6]"}}
      - r1 -- a1 -- a2 -- a3
      - {{link: r4 -- b1 -- b2 -- b3, cost: 2}}
    routing: {routing}
"#
    )
}

/// A VI of three nodes for each protocol, all on the same base nodes.
fn three() -> String {
    let small = |routing| {
        format!(
            "  {routing}:\n    nodes: {{a: X, b: Y, c: X}}\n    links: [a -- b -- c -- a]\n    routing: {routing}\n"
        )
    };
    let vis = ["ospf", "rip", "bgp"].map(small).concat();
    format!("name: three\nbase:\n  links: [X -- Y]\nvis:\n{vis}")
}

/// The protocols carry out what `tests` says, on each dataplane.
fn holds(name: &str, lab: &str, tests: &str) {
    if !can("frr") {
        return;
    }
    for dataplane in dataplanes() {
        let text = format!("{lab}tests:\n{tests}").replacen("name: three", &format!("name: {name}"), 1);
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a temporary file");
        std::fs::write(file.path(), text).expect("the lab is written");
        run(vilab().args(["test", "--dataplane", dataplane]).arg(file.path()));
    }
}

fn cut(network: &str) -> String {
    format!(
        "  - converged: true\n  - ping: {network}/a3 -> {network}/b3\n  - down: {network}/r2--r3\n  - converged: true\n  \
         - ping: {network}/a3 -> {network}/b3\n  - up: {network}/r2--r3\n  - converged: true\n"
    )
}

fn lab_of(routing: &str) -> String {
    format!("name: three\nbase:\n  links: [X -- Y]\nvis:\n{}", vi(routing))
}

/// C8: hosts take part in routing.
#[test]
fn c8_ospf_finds_the_computed_routes_and_finds_others_when_a_link_goes() {
    holds("ospf-cut", &lab_of("ospf"), &cut("ospf"));
}

#[test]
fn rip_finds_the_computed_routes_and_finds_others_when_a_link_goes() {
    holds("rip-cut", &lab_of("rip"), &cut("rip"));
}

#[test]
fn bgp_finds_the_computed_routes_and_finds_others_when_a_link_goes() {
    holds("bgp-cut", &lab_of("bgp"), &cut("bgp"));
}

/// The same ring and chains as a base network.
#[test]
fn isis_finds_the_computed_routes_of_a_base_network() {
    let lab = r#"name: three
base:
  links:
    - {ring: "r[1..6]"}
    - r1 -- a1 -- a2 -- a3
    - {link: r4 -- b1 -- b2 -- b3, cost: 2}
  routing: isis
vis:
  above:
    nodes: {a: a3, b: b3}
    links: [a -- b]
"#;
    let tests = "  - converged: true\n  - ping: all in above\n  - down: base/r2--r3\n  - converged: true\n  \
                 - ping: all in above\n  - up: base/r2--r3\n  - converged: true\n";
    holds("isis-cut", lab, tests);
}

/// What a command prints in a node.
fn printed(lab: &str, node: &str, command: &[&str]) -> String {
    run(vilab().args(["exec", "--lab", lab, node, "--"]).args(command))
}

/// Tries until it holds.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in {} s: {what}", PATIENCE.as_secs());
        #[expect(clippy::disallowed_methods, reason = "a deadline loop that waits for a daemon")]
        std::thread::sleep(PAUSE);
    }
}

/// IPv4 addresses and prefixes in a text, without the lengths.
fn addresses(text: &str) -> BTreeSet<Ipv4Addr> {
    let words = text.split(|c: char| !(c.is_ascii_digit() || c == '.'));
    words.filter_map(|word| word.parse().ok()).collect()
}

fn all_addresses(lab: &Lab, network: &Network) -> BTreeSet<Ipv4Addr> {
    network.nodes.iter().flat_map(|n| lab.addresses(n.id)).collect()
}

/// C10, C17: what the daemons of `network` know of no other network of the lab.
fn knows_only_its_own(running: &Running, network: &str, commands: &[&str]) {
    let lab = &running.state().lab;
    let [own, others]: [Vec<&Network>; 2] =
        [true, false].map(|own| lab.networks.iter().filter(|n| (n.name == network) == own).collect());
    let [own, others] = [own, others]
        .map(|some| -> BTreeSet<Ipv4Addr> { some.iter().flat_map(|n| all_addresses(lab, n)).collect() });
    for node in ["a", "b"] {
        let full = format!("{network}/{node}");
        for command in commands {
            let known = addresses(&printed(&lab.name, &full, &["vtysh", "-c", command]));
            let foreign: Vec<_> = known.iter().filter(|a| others.contains(a) && !own.contains(a)).collect();
            assert!(foreign.is_empty(), "{full}, {command}: {foreign:?}");
            let found = known.intersection(&own).count();
            // Three hosts, and at least one end of each link.
            assert!(found >= 6, "{full}, {command}: knows only {found} of its own addresses");
        }
    }
}

/// C20: several sets of daemons on one base node; C10, C17, E2: each knows its own network only.
#[test]
fn c20_c10_c17_e2_three_networks_route_on_one_base_node_and_know_nothing_of_each_other() {
    if !can("frr") {
        return;
    }
    for dataplane in dataplanes() {
        let up = Up::new("three-sets", &three(), dataplane);
        let running = up.running();
        knows_only_its_own(&running, "ospf", &["show ip ospf database router", "show ip route"]);
        knows_only_its_own(&running, "rip", &["show ip rip", "show ip route"]);
        knows_only_its_own(&running, "bgp", &["show ip bgp", "show ip route"]);
        let pid = |node: &str| printed("three-sets", node, &["cat", "/run/frr/zebra.pid"]);
        let zebras: BTreeSet<String> = ["ospf/a", "rip/a", "bgp/a"].map(pid).into();
        assert_eq!(zebras.len(), 3, "a zebra for each partition of base node X");
        let base = printed("three-sets", "base/X", &["ip", "-o", "route"]);
        assert!(!base.contains("proto ospf") && !base.contains("10.128"), "C17: {base}");
    }
}

/// B3: links are not routing's; E2: a daemon that dies comes back, and so do its neighbours.
#[test]
fn b3_e2_a_killed_ospfd_is_started_again_and_links_stay() {
    if !can("frr") {
        return;
    }
    for dataplane in dataplanes() {
        let lab = "name: t\nbase:\n  links: [X -- Y -- Z]\nvis:\n  v:\n    nodes: {a: X, b: Y, c: Z}\n    \
                   links: [a -- b -- c]\n    routing: ospf\n";
        let _up = Up::new("daemon-dies", lab, dataplane);
        let at = |command: &[&str]| printed("daemon-dies", "v/b", command);
        let pid = || at(&["sh", "-c", "cat /run/frr/ospfd.pid"]);
        let devices = || at(&["cat", "/proc/net/dev"]).lines().count();
        let full = || {
            let neighbours = vilab()
                .args(["exec", "--lab", "daemon-dies", "v/b", "vtysh", "-c", "show ip ospf neighbor"])
                .output()
                .expect("vilab runs");
            String::from_utf8_lossy(&neighbours.stdout).matches("Full/").count() == 2
        };
        let far = || printed("daemon-dies", "v/a", &["ip", "route"]).contains("proto ospf");
        wait_until("b has two neighbours", full);
        let (before, links) = (pid(), devices());
        at(&["sh", "-c", "kill -KILL $(cat /run/frr/ospfd.pid)"]);
        wait_until("ospfd has been started again", || pid() != before);
        assert_eq!(devices(), links, "B3: the links are there without the daemon");
        wait_until("b has its neighbours again", full);
        wait_until("a has routes", far);
        assert_eq!(devices(), links);
        // Routes of the others come in their own time.
        let mut ping = vilab();
        ping.args(["exec", "--lab", "daemon-dies", "v/a", "--", "ping", "-c1", "-W5", "c"]);
        wait_until("a reaches c", || ping.output().expect("vilab runs").status.success());
    }
}

/// B7: FRR takes every line that vilab writes, and vtysh works as on a router.
#[test]
fn b7_frr_accepts_each_line_of_its_configuration() {
    if !can("frr") {
        return;
    }
    for dataplane in dataplanes() {
        let text = std::fs::read_to_string("fixtures/frr/protocols.yaml").expect("a fixture");
        let _up = Up::new("each-line", &text, dataplane);
        let logs = run(vilab().args(["logs", "--lab", "each-line"]));
        let refused: Vec<&str> =
            logs.lines().filter(|l| l.contains("config line") || l.contains("% ")).collect();
        assert!(refused.is_empty(), "{refused:#?}");
        for (node, daemon) in [("base/X", "isisd"), ("ospf/a", "ospfd"), ("rip/a", "ripd"), ("bgp/a", "bgpd")]
        {
            let shown = printed("each-line", node, &["vtysh", "-c", "show daemons"]);
            assert!(shown.contains("zebra") && shown.contains(daemon), "{node}: {shown}");
        }
    }
}
