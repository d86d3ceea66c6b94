//! Routing daemons of several overlays on one base node: each set is its own, gateways join what they route, and what
//! they do to themselves leaves the links alone.

mod common;

use std::collections::BTreeMap;

use common::{Up, can, dataplanes, run, vilab};
use vilab::lab::Running;

/// Three VIs with three protocols on the same three base nodes; two of them meet on Y.
const LAB: &str = "
name: daemons
base:
  links:
    - X -- Y -- Z
vis:
  one:
    routing: ospf
    nodes: {a: X, b: Y, c: Z}
    links: [a -- b -- c]
  two:
    routing: rip
    nodes: {a: X, b: Y, c: Z}
    links: [a -- b -- c]
  three:
    routing: bgp
    nodes: {a: X, b: Y, c: Z}
    links: [a -- b -- c]
gateways:
  - one/b -- two/b
";

fn exec(lab: &str, node: &str, command: &[&str]) -> String {
    run(vilab().args(["exec", "-l", lab, node]).args(command))
}

/// Devices of every node: name, index and kind of link.
fn devices(running: &Running) -> BTreeMap<String, String> {
    let lab = &running.state().lab;
    let list = |name: &str| exec(running.name(), name, &["ip", "-o", "-d", "link", "show"]);
    let of = |name: String| {
        let text = list(&name);
        let device = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        (name, text.lines().map(device).collect::<Vec<_>>().join("\n"))
    };
    lab.nodes().map(|n| of(lab.full_name(n.id))).collect()
}

#[test]
fn three_overlays_with_daemons_of_their_own_stand_on_one_node() {
    if !can("netns") || !can("frr") {
        return;
    }
    for dataplane in dataplanes() {
        let name = format!("daemons-three-{dataplane}");
        let up = Up::new(&name, LAB, dataplane);
        run(vilab().args(["wait", &name]));
        let running = up.running();
        let lab = &running.state().lab;
        for (vi, protocol) in [("one", "ospf"), ("two", "rip"), ("three", "bgp")] {
            let node = format!("{vi}/b");
            let network = lab.networks.iter().find(|n| n.name == vi).expect("the VI");
            let host = |index: usize| network.nodes[index].host.expect("a host address").to_string();
            let routes = exec(&name, &node, &["vtysh", "-c", &format!("show ip route {protocol}")]);
            for far in [0, 2] {
                assert!(routes.contains(&format!("{}/32", host(far))), "{node}: {routes}");
            }
            let all = exec(&name, &node, &["vtysh", "-c", "show ip route"]);
            let others = lab.networks[1..]
                .iter()
                .filter(|n| n.id != network.id && !lab.joined(n.id).contains(&network.id));
            for other in others {
                let pool = other.pool.network().to_string();
                let stem = pool.trim_end_matches(".0.0");
                assert!(!all.contains(&format!(" {stem}.")), "{node} knows of {}: {all}", other.name);
            }
        }
        let far = lab.networks[2].nodes[2].host.expect("a host address").to_string();
        let ping = exec(&name, "one/a", &["ping", "-nc2", "-i0.2", "-W5", &far]);
        assert!(ping.contains(" 0% packet loss"), "{ping}");
    }
}

#[test]
fn daemons_that_start_anew_leave_the_links_as_they_are() {
    if !can("netns") || !can("frr") {
        return;
    }
    for dataplane in dataplanes() {
        let name = format!("daemons-anew-{dataplane}");
        let up = Up::new(&name, LAB, dataplane);
        let before = devices(&up.running());
        assert!(before["one/b"].contains("v-a") && before["one/b"].contains("v-c"));
        for service in ["ospfd@one/b", "zebra@one/b", "ripd@two/b", "bgpd@three/b"] {
            run(vilab().args(["restart", "-l", &name, service]));
        }
        assert_eq!(before, devices(&up.running()), "{dataplane}: at once");
        run(vilab().args(["wait", &name, "--timeout", "120s"]));
        assert_eq!(before, devices(&up.running()), "{dataplane}: when all routes are back");
    }
}
