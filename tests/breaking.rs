//! Labs that something is broken in on purpose, behind vilab's back: what observes them names the node, the device, what
//! is expected and what is found, and does not stop at where a packet was last seen.

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use vilab::fastpath::config::Below;
use vilab::fastpath::control::Client;
use vilab::lab::Running;
use vilab::lab::control::Request;

/// A VI on a VI on a base of three.
const STACK: &str = "
name: broken
base:
  links: [X -- Y -- Z]
vis:
  low:
    nodes: {l: X, m: {at: Y, role: router}, r: Z}
    links: [l -- m -- r]
  high: {over: low, nodes: {a: l, b: r}, links: [a -- b]}
";

/// A lab of one test on one dataplane.
struct Bed {
    up: common::Up,
    running: Running,
    dataplane: &'static str,
}

/// Runs a test on a lab of its own on each dataplane of this machine.
fn on_each(name: &str, test: impl Fn(&Bed)) {
    for dataplane in common::dataplanes() {
        let up = common::Up::new(&format!("broken-{name}-{dataplane}"), STACK, dataplane);
        let bed = Bed { running: up.running(), up, dataplane };
        bed.is_well("high/a", "b");
        test(&bed);
    }
}

impl Bed {
    fn vilab(&self, command: &str, arguments: &[&str]) -> (Option<i32>, String) {
        let mut vilab = common::vilab();
        let output = vilab.args([command, "-l", self.up.name()]).args(arguments).output().expect("it runs");
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        (output.status.code(), said.concat())
    }

    fn is_well(&self, from: &str, to: &str) {
        let (status, said) = self.vilab("trace", &[from, to]);
        assert_eq!(status, Some(0), "{}: {said}", self.dataplane);
    }

    /// That a trace names a cause of this kind at this node, in these words, and the text on the terminal too.
    fn names(&self, (from, to): (&str, &str), kind: &str, at: &str, words: &[&str]) {
        let (status, said) = self.vilab("trace", &[from, to, "--json"]);
        let found: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
        assert_eq!(status, Some(1), "{}: {found:#}", self.dataplane);
        let causes = found["causes"].as_array().expect("causes");
        let what = |cause: &Value| cause["what"].as_str().expect("words").to_owned();
        let is = |cause: &&Value| {
            cause["kind"] == kind && cause["at"] == at && words.iter().all(|w| what(cause).contains(w))
        };
        let Some(cause) = causes.iter().find(is) else {
            panic!("{}: no {kind} at {at} with {words:?}: {:#}", self.dataplane, found["causes"])
        };
        let line = format!("  at {at}: {}", what(cause));
        let (_, said) = self.vilab("trace", &[from, to]);
        // What is counted differs from probe to probe.
        assert!(kind == "filter" || said.lines().any(|l| l == line), "{line}\n{said}");
        assert!(!said.contains("nothing that vilab can look at explains it"), "{said}");
    }

    /// That a command fails and its words name it all.
    fn says(&self, command: &str, arguments: &[&str], words: &[&str]) {
        let (status, said) = self.vilab(command, arguments);
        assert_eq!(status, Some(1), "{}: {command}: {said}", self.dataplane);
        for word in words {
            assert!(said.contains(word), "{}: {command} does not say {word:?}:\n{said}", self.dataplane);
        }
    }

    fn waits_in_vain(&self, words: &[&str]) {
        let output =
            common::vilab().args(["wait", "--timeout", "1s", self.up.name()]).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        words.iter().for_each(|word| assert!(said.contains(word), "wait does not say {word:?}:\n{said}"));
    }

    /// Runs a command in a namespace, behind vilab's back.
    fn run(&self, ns: &str, command: &[&str]) {
        let run = || Command::new(command[0]).args(&command[1..]).output();
        let output = self.running.namespaces().run(ns, run).expect("the namespace").expect("it starts");
        assert!(output.status.success(), "{command:?}: {output:?}");
    }

    /// The device of the first end of a link, and the link's MTU.
    fn device(&self, link: &str) -> (String, u32) {
        let lab = &self.running.state().lab;
        let link = lab.links().find(|l| lab.full_link_name(l.id) == link).expect("the link");
        (link.ends[0].dev.clone(), link.mtu)
    }

    fn address(&self, node: &str) -> String {
        let lab = &self.running.state().lab;
        let node = lab.nodes().find(|n| lab.full_name(n.id) == node).expect("the node");
        lab.address(node.id).expect("an address").to_string()
    }
}

#[test]
fn a_route_that_is_gone_from_a_partition() {
    on_each("route", |bed| {
        let to = bed.address("low/r");
        bed.run("v.low.m", &["ip", "route", "del", &to]);
        let no_route = format!("no route to {to}; computed: {to}/32 via low/r");
        bed.names(("low/l", "r"), "route", "low/m", &[&no_route]);
        bed.says("resolve", &["low/l", "r"], &["low/m", "no route"]);
        bed.waits_in_vain(&["low/m, to r", "expected via r, found no route"]);
    });
}

#[test]
fn a_route_that_is_gone_from_the_base() {
    on_each("base-route", |bed| {
        let to = bed.address("base/Z");
        bed.run("b.Y", &["ip", "route", "del", &to]);
        let no_route = format!("no route to {to}; computed: {to}/32 via base/Z dev e-Z");
        // Two layers above, the same: the base is where it breaks.
        bed.names(("base/X", "Z"), "route", "base/Y", &[&no_route]);
        bed.names(("low/m", "r"), "route", "base/Y", &[&no_route]);
        bed.says("resolve", &["low/m", "r"], &["base/Y", "no route"]);
        bed.waits_in_vain(&["base/Y, to Z", "expected via Z, found no route"]);
    });
}

#[test]
fn an_entry_of_the_strong_host_rule_that_is_gone_or_another() {
    on_each("strong", |bed| {
        let lab = &bed.running.state().lab;
        let link = lab.links().find(|l| lab.full_link_name(l.id) == "low/l--m").expect("the link");
        let (dev, addr) = (&link.ends[1].dev, link.ends[1].link_addr.expect("a link address").to_string());
        let refuses = format!("its strong-host rule does not accept {addr} from X");
        let place = format!("device {dev} of link low/l--m");
        if bed.dataplane == "kernel" {
            let entry = format!("{{ \"t-X\" . {addr} }}");
            bed.run("l.Y", &["nft", "delete", "element", "inet", "vi_strong", "la", &entry]);
            bed.names(("low/l", "m"), "filter", "base/Y", &[&refuses, &place]);
        } else {
            mislead(&bed.running);
            bed.names(("low/l", "m"), "filter", "base/Y", &[&refuses, "but from Z", &place]);
        }
        bed.names(("low/l", "m"), "filter", "base/Y", &[" counted "]);
        let (status, said) = bed.vilab("rules", &["Y"]);
        assert!(status == Some(1) && said.contains("NO"), "{said}");
    });
}

/// Tells the engine that what comes to low/m from X comes by the tunnel from Z.
fn mislead(running: &Running) {
    let mut config = running.engine_config().expect("readable").expect("an engine");
    let node = |name: &str| config.nodes.iter().find(|n| n.name == name).expect("a base node").addr;
    let (x, z) = (node("X"), node("Z"));
    let m = config.partitions.iter().position(|p| p.name == "low/m").expect("a partition");
    let of_m = config.interfaces.iter_mut().filter(|i| i.partition == m);
    let towards_x = of_m.into_iter().find(|i| i.below == Below::Base { remote: x }).expect("an interface");
    towards_x.below = Below::Base { remote: z };
    let file = running.dir().join("breaking.json");
    std::fs::write(&file, serde_json::to_vec(&config).expect("JSON")).expect("it is written");
    let mut client = Client::connect(&running.fastpath_control().expect("an engine")).expect("it listens");
    client.reload(&file).expect("it reloads");
    std::fs::remove_file(file).expect("it goes");
}

#[test]
fn an_mtu_that_was_lowered() {
    on_each("mtu", |bed| {
        let (dev, mtu) = bed.device("base/X--Y");
        // 84 bytes, and two headers more in the VI: what is lost is what no longer fits.
        bed.run("b.X", &["ip", "link", "set", "dev", &dev, "mtu", "110"]);
        let lowered = format!("device {dev} has MTU 110, not {mtu}");
        bed.names(("base/X", "Z"), "mtu", "base/X", &[&lowered]);
        let small = format!("{lowered}: too small for the 124 bytes");
        bed.names(("low/l", "r"), "mtu", "base/X", &[&small]);
        let (_, said) = bed.vilab("trace", &["base/X", "Z"]);
        assert!(said.contains("arrived at base/Z") && !said.contains("too small"), "{said}");
    });
}

#[test]
fn a_link_that_was_set_down_behind_vilabs_back() {
    on_each("link", |bed| {
        let (dev, _) = bed.device("low/m--r");
        bed.run("v.low.m", &["ip", "link", "set", "dev", &dev, "down"]);
        let down = format!("device {dev} is down");
        bed.names(("low/l", "r"), "device", "low/m", &[&down]);
        bed.waits_in_vain(&["low/m", &format!("at low/m: {down}")]);
    });
    on_each("wire", |bed| {
        let (dev, _) = bed.device("base/Y--Z");
        bed.run("b.Y", &["ip", "link", "set", "dev", &dev, "down"]);
        let down = format!("device {dev} is down");
        bed.names(("high/a", "b"), "device", "base/Y", &[&down]);
        bed.says("resolve", &["low/m", "r"], &["base/Y"]);
        bed.waits_in_vain(&[&format!("at base/Y: {down}")]);
    });
}

#[test]
fn an_address_that_was_removed() {
    on_each("address", |bed| {
        let lab = &bed.running.state().lab;
        let r = lab.nodes().find(|n| lab.full_name(n.id) == "low/r").expect("the node");
        let host = r.host.expect("a host address").to_string();
        bed.run("v.low.r", &["ip", "addr", "del", &format!("{host}/32"), "dev", "lo"]);
        let lacks = format!("device lo lacks its address {host}; it has ");
        bed.names(("low/l", "r"), "address", "low/r", &[&lacks]);
    });
    on_each("base-address", |bed| {
        let z = bed.address("base/Z");
        bed.run("b.Z", &["ip", "addr", "del", &format!("{z}/32"), "dev", "lo"]);
        let lacks = format!("device lo lacks its address {z}; it has none");
        bed.names(("base/X", "Z"), "address", "base/Z", &[&lacks]);
        bed.says("resolve", &["base/X", "Z"], &["base/Z"]);
    });
}

#[test]
fn a_router_that_was_told_not_to_forward() {
    on_each("forward", |bed| {
        bed.run("b.Y", &["sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"]);
        let off = "net.ipv4.ip_forward is 0, not 1";
        bed.names(("base/X", "Z"), "sysctl", "base/Y", &[off]);
        bed.says("resolve", &["base/X", "Z"], &["base/Y", "it does not forward: net.ipv4.ip_forward is 0"]);
    });
    on_each("forward-vi", |bed| {
        bed.run("v.low.m", &["sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"]);
        // The fast path forwards by itself, but what it leaves to the kernel would be lost.
        bed.names(("low/l", "r"), "sysctl", "low/m", &["net.ipv4.ip_forward is 0, not 1"]);
    });
}

#[test]
fn a_rule_of_somebody_elses_that_drops() {
    if !Command::new("nft").arg("-v").output().is_ok_and(|o| o.status.success()) {
        return;
    }
    on_each("rule", |bed| {
        let chain = "{ type filter hook forward priority 0; policy accept; }";
        bed.run("b.Y", &["nft", "add table inet foe"]);
        bed.run("b.Y", &["nft", &format!("add chain inet foe mid {chain}")]);
        bed.is_well("base/X", "Z");
        bed.run("b.Y", &["nft", "add rule inet foe mid ip protocol icmp drop"]);
        let rule = "table inet foe, chain mid: ip protocol icmp drop";
        bed.names(("base/X", "Z"), "filter", "base/Y", &[rule]);
        let (_, said) = bed.vilab("trace", &["base/X", "Z"]);
        assert!(said.contains("not sent from Y to Z"), "{said}");
    });
    on_each("input", |bed| {
        bed.run("v.low.r", &["nft", "add table ip foe"]);
        let chain = "{ type filter hook input priority 0; policy drop; }";
        bed.run("v.low.r", &["nft", &format!("add chain ip foe in {chain}")]);
        bed.names(("low/l", "r"), "filter", "low/r", &["table ip foe, chain in:", "policy drop"]);
    });
}

#[test]
fn an_impairment_that_loses_all() {
    on_each("loss", |bed| {
        let link = ["impair", "-l", bed.up.name(), "base/X--Y", "--loss", "100%"];
        let output = common::vilab().args(link).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let loses = "device e-Y loses 100 % of what it sends, for link base/X--Y is impaired so";
        bed.names(("base/X", "Z"), "impairment", "base/X", &[loses]);
        bed.names(("high/a", "b"), "impairment", "base/X", &[loses]);
    });
}

/// Its daemon stays stopped, its routes go, and whoever looks names it.
#[test]
fn a_daemon_that_does_not_come_back() {
    if !common::can("frr") || !common::can("netns") {
        return;
    }
    let text = STACK.replace("  low:\n", "  low:\n    routing: ospf\n");
    let up = common::Up::new("broken-daemon", &text, "fastpath");
    let bed = Bed { running: up.running(), up, dataplane: "fastpath" };
    let mut init = bed.running.init().expect("init");
    let services = init.services().expect("a list");
    let ospfd = services.iter().find(|s| s.node.as_deref() == Some("low/l") && s.name.contains("ospfd"));
    let ospfd = ospfd.expect("ospfd of low/l").name.clone();
    init.tell(&Request::Stop { service: ospfd.clone() }).expect("it stops");
    let deadline = Instant::now() + Duration::from_secs(60);
    while bed.vilab("resolve", &["low/l", "r"]).0 == Some(0) {
        assert!(Instant::now() < deadline, "the routes of a daemon that has ended stay");
    }
    let stopped = format!("{ospfd} does not run");
    bed.names(("low/l", "r"), "service", "low/l", &[&stopped]);
    bed.names(("low/l", "r"), "route", "low/l", &["no route"]);
    bed.waits_in_vain(&["low/l", &format!("at low/l: {stopped}")]);
}

/// `vilab test` says of a test that failed what a trace would.
#[test]
fn a_failed_test_names_the_cause() {
    if !common::can("netns") {
        return;
    }
    let tests = "
tests:
  - ping: low/l -> low/r
  - exec: {at: base/Y, run: [sh, -c, 'echo 0 > /proc/sys/net/ipv4/ip_forward']}
  - name: the way is shut
    ping: base/X -> base/Z
  - exec: {at: base/Y, run: [sh, -c, 'echo 1 > /proc/sys/net/ipv4/ip_forward']}
  - exec: {at: low/m, run: [ip, link, set, v-l, down]}
  - name: and the other one
    ping: low/r -> low/l
  - name: which is not asked to be open
    not: true
    ping: low/r -> low/l
";
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (file, bundles) = (dir.path().join("shut.yaml"), dir.path().join("failed"));
    std::fs::write(&file, format!("{STACK}{tests}")).expect("the lab is written");
    let mut test = common::vilab();
    let output = test.arg("test").arg("--bundle").arg(&bundles).arg(&file).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let report = std::fs::read(bundles.join("shut/report.json")).expect("a bundle");
    let found: Value = serde_json::from_slice(&report).expect("JSON");
    let tests = found["labs"][0]["tests"].as_array().expect("tests");
    let causes = |index: usize| tests[index]["causes"].to_string();
    for (index, words) in [
        (2, ["a probe from base/X to base/Z:", "at base/Y: net.ipv4.ip_forward is 0, not 1"]),
        (5, ["a probe from low/r to low/l:", "at low/m: device v-l is down"]),
    ] {
        assert_eq!(tests[index]["passed"], false, "{found:#}");
        for word in words {
            assert!(causes(index).contains(word) && said.contains(word), "{word}: {found:#}\n{said}");
        }
    }
    for index in [0, 1, 3, 4, 6] {
        assert!(tests[index]["passed"] == true && tests[index].get("causes").is_none(), "{found:#}");
    }
}
