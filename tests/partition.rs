//! Partitions: each node of each network has interfaces, routes and a default route of its own, and what it cannot
//! forward goes nowhere else.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use vilab::lab::Running;
use vilab::model::Lab;
use vilab::sys::packet_socket::Capture;

/// Three VIs meet on Y. `near` has its default route through a wire to Y itself, `far` through its node on X, `none` has
/// none.
const LAB: &str = "
name: partition
base:
  links:
    - X -- Y -- Z
vis:
  near:
    nodes: {y: Y, z: Z}
    links: [y -- z]
  far:
    nodes: {y: Y, x: X}
    links: [y -- x]
  none:
    nodes: {x: X, y: {at: Y, role: router}, z: Z}
    links: [x -- y -- z]
gateways:
  - {link: near/y -- base/Y, default: true}
  - {link: far/x -- base/X, default: true}
";

/// No address of any lab (RFC 5737, TEST-NET-1).
const NOWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Runs a command in the namespace of a node, by its full name.
fn at(running: &Running, node: &str, command: &str) -> Output {
    let lab = &running.state().lab;
    let found = lab.nodes().find(|n| lab.full_name(n.id) == node).expect("a node");
    in_netns(running, &found.netns, command)
}

fn in_netns(running: &Running, netns: &str, command: &str) -> Output {
    let run = || Command::new("sh").args(["-c", command]).output();
    running.namespaces().run(netns, run).expect("the namespace").expect("a shell")
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// `ip -j addr` of a namespace.
fn devices(running: &Running, netns: &str) -> Vec<Value> {
    serde_json::from_str(&text(&in_netns(running, netns, "ip -j addr"))).expect("JSON")
}

fn addresses(device: &Value) -> Vec<&str> {
    let all = device["addr_info"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter().filter(|a| a["family"] == "inet").filter_map(|a| a["local"].as_str()).collect()
}

#[test]
fn partitions_on_one_node_have_default_routes_of_their_own_or_none() {
    for dataplane in common::dataplanes() {
        let up = common::Up::new(&format!("partition-default-{dataplane}"), LAB, dataplane);
        let running = up.running();
        let default = |node: &str| text(&at(&running, node, "ip route show default"));
        assert!(default("near/y").contains("dev g-base.Y"), "{}", default("near/y"));
        assert!(default("far/y").contains("dev v-x"), "{}", default("far/y"));
        assert_eq!(default("none/y"), "");
        assert_eq!(default("base/Y"), "");
        let said = |node: &str| {
            let output = at(&running, node, &format!("ping -nc1 -W5 {NOWHERE}"));
            assert!(!output.status.success(), "{node}: {output:?}");
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
        };
        let from = |network: usize, node: usize, device: &str| {
            let netns = &running.state().lab.networks[network].nodes[node].netns;
            let found =
                devices(&running, netns).into_iter().find(|d| d["ifname"] == device).expect("a device");
            format!("From {} ", addresses(&found)[0])
        };
        let (by_y, by_x) = (from(0, 1, "g-near.y"), from(0, 0, "g-far.x"));
        assert!(said("near/y").contains(&by_y), "the base node behind near's gateway: {}", said("near/y"));
        assert!(said("far/y").contains(&by_x), "the base node behind far's gateway: {}", said("far/y"));
        assert!(said("none/y").contains("Network is unreachable"), "{}", said("none/y"));
    }
}

#[test]
fn a_partition_without_a_route_answers_itself_and_nothing_leaves() {
    for dataplane in common::dataplanes() {
        let up = common::Up::new(&format!("partition-none-{dataplane}"), LAB, dataplane);
        let running = up.running();
        let lab = &running.state().lab;
        let next = &lab.networks[3].links[0].ends[1];
        text(&at(&running, "none/x", &format!("ip route add default via {}", next.addr)));
        let captures: BTreeMap<String, Capture> = lab
            .nodes()
            .map(|node| {
                let open = running.namespaces().run(&node.netns, Capture::open).expect("the namespace");
                (lab.full_name(node.id), open.expect("a capture"))
            })
            .collect();
        let ping = at(&running, "none/x", &format!("ping -nc1 -W5 {NOWHERE}"));
        let said = String::from_utf8_lossy(&ping.stdout).into_owned();
        let y = devices(&running, "v.none.y").into_iter().find(|d| d["ifname"] == "v-x").expect("a device");
        let expected = format!("From {} icmp_seq=1 Destination Net Unreachable", addresses(&y)[0]);
        assert!(said.contains(&expected), "{dataplane}: {said}");
        let mut seen: BTreeSet<(&str, bool)> = BTreeSet::new();
        for (node, capture) in &captures {
            seen.extend(probes(capture).into_iter().map(|outgoing| (node.as_str(), outgoing)));
        }
        assert_eq!(seen, BTreeSet::from([("none/x", true), ("none/y", false)]), "{dataplane}");
        for node in &lab.base().nodes {
            let routes = text(&in_netns(&running, &node.netns, "ip route show table all"));
            let pool = lab.networks[3].pool.network().octets();
            let prefix = format!("{}.{}.", pool[0], pool[1]);
            assert!(
                !routes.contains(&prefix),
                "{} has a route of an overlay without gateway: {routes}",
                node.name
            );
        }
    }
}

/// For each packet to nowhere that is not in a tunnel, whether it left the namespace.
fn probes(capture: &Capture) -> Vec<bool> {
    let mut buffer = vec![0; 65_536];
    let mut found = Vec::new();
    while let Some(frame) = capture.recv(&mut buffer).expect("the capture works") {
        let bare = frame.protocol == 0x0800 && frame.bytes.get(16..20) == Some(&NOWHERE.octets());
        if bare {
            found.push(frame.outgoing);
        }
    }
    found
}

#[test]
fn no_interface_is_in_two_sets_and_each_has_one_address() {
    for dataplane in common::dataplanes() {
        let name = format!("partition-sets-{dataplane}");
        let up = common::Up::lab(&name, "figure-01-multiple-vis.yaml", dataplane);
        let running = up.running();
        let lab = &running.state().lab;
        for network in &lab.networks {
            let mut used: BTreeSet<String> = BTreeSet::new();
            for node in &network.nodes {
                let ends: BTreeSet<&str> = node.ends.iter().map(|end| lab.end(*end).dev.as_str()).collect();
                let devices = devices(&running, &node.netns);
                let others = devices.iter().filter(|d| d["ifname"] != "lo");
                let names: BTreeSet<&str> = others.clone().filter_map(|d| d["ifname"].as_str()).collect();
                let names: BTreeSet<&str> = names
                    .into_iter()
                    .filter(|n| !["tunl0", "gre0", "gretap0", "erspan0", "sit0"].contains(n))
                    // By it the engine gives large packets to the base; it has no address and is no partition's.
                    .filter(|n| !n.starts_with("fast~"))
                    .collect();
                assert_eq!(names, ends, "{dataplane}: {}", lab.full_name(node.id));
                for device in others.filter(|d| ends.contains(d["ifname"].as_str().unwrap_or(""))) {
                    let addresses = addresses(device);
                    assert_eq!(addresses.len(), 1, "{dataplane}: {}: {device}", lab.full_name(node.id));
                    assert!(
                        used.insert(addresses[0].to_owned()),
                        "{} twice in {}",
                        addresses[0],
                        network.name
                    );
                    if network.id.0 > 0 {
                        no_link_layer(device);
                    }
                }
            }
        }
    }
}

/// A virtual link has no ARP, no broadcast and no Ethernet: what is sent is an IP packet for the other end.
fn no_link_layer(device: &Value) {
    let flags: Vec<&str> =
        device["flags"].as_array().expect("flags").iter().filter_map(Value::as_str).collect();
    assert!(flags.contains(&"NOARP") && flags.contains(&"POINTOPOINT"), "{device}");
    assert!(!flags.contains(&"BROADCAST") && device["link_type"] != "ether", "{device}");
}

#[test]
fn a_route_of_one_virtual_internet_is_in_no_other_and_not_in_the_base() {
    for dataplane in common::dataplanes() {
        let name = format!("partition-routes-{dataplane}");
        let up = common::Up::lab(&name, "figure-01-multiple-vis.yaml", dataplane);
        let running = up.running();
        let lab = &running.state().lab;
        let tables = || -> BTreeMap<String, String> {
            let table = |netns: &String| text(&in_netns(&running, netns, "ip -4 route show table all"));
            lab.nodes().map(|n| (lab.full_name(n.id), table(&n.netns))).collect()
        };
        let before = tables();
        let next = &lab.networks[1].links[0].ends[1];
        text(&at(&running, "star/hub", &format!("ip route add {NOWHERE}/32 via {}", next.addr)));
        let after = tables();
        let changed: Vec<&str> = after
            .iter()
            .filter(|(node, table)| before[*node] != **table)
            .map(|(node, _)| node.as_str())
            .collect();
        assert_eq!(changed, ["star/hub"], "{dataplane}");
    }
}

#[test]
fn under_the_kernel_dataplane_no_process_of_ours_is_in_the_way() {
    if !common::can("netns") || !common::can("kernel") {
        return;
    }
    let up = common::Up::lab("partition-kernel", "figure-07-headers.yaml", "kernel");
    let running = up.running();
    assert_eq!(running.fastpath_control(), None);
    kill(Pid::from_raw(running.state().init), Signal::SIGSTOP).expect("init is ours");
    let lab = &running.state().lab;
    let d = lab.networks[1].nodes[2].host.expect("a host address");
    let ping = at(&running, "vi/A", &format!("ping -nc3 -i0.2 -W5 {d}"));
    kill(Pid::from_raw(running.state().init), Signal::SIGCONT).expect("init is ours");
    assert!(text(&ping).contains(" 0% packet loss"));
}

#[test]
fn all_addresses_are_private_and_each_layer_has_its_pool() {
    let lab: Lab = vilab::lab::load(std::path::Path::new("labs/figure-01-multiple-vis.yaml"))
        .expect("a lab of the project");
    let ends = || lab.networks.iter().flat_map(|n| &n.links).flat_map(|l| &l.ends);
    let network_layer: BTreeSet<Ipv4Addr> = lab.nodes().flat_map(|n| lab.addresses(n.id)).collect();
    let link_layer: BTreeSet<Ipv4Addr> = ends().filter_map(|e| e.link_addr).collect();
    assert!(network_layer.is_disjoint(&link_layer));
    assert!(network_layer.iter().chain(&link_layer).all(|a| vilab::model::address::is_private((*a).into())));
    assert_eq!(link_layer.len(), lab.networks[1..].iter().map(|n| 2 * n.links.len()).sum::<usize>());
}

#[test]
fn a_broken_virtual_internet_is_still_managed_over_the_base() {
    for dataplane in common::dataplanes() {
        let name = format!("partition-broken-{dataplane}");
        let up = common::Up::lab(&name, "figure-07-headers.yaml", dataplane);
        let running = up.running();
        let lab = &running.state().lab;
        for node in &lab.networks[1].nodes {
            for end in &node.ends {
                text(&in_netns(
                    &running,
                    &node.netns,
                    &format!("ip link set dev {} down", lab.end(*end).dev),
                ));
            }
        }
        let exec = |node: &str, command: &[&str]| {
            let arguments = [&["exec", "-l", &name, node][..], command].concat();
            common::vilab().args(arguments).output().expect("vilab")
        };
        assert!(!exec("vi/A", &["ping", "-c1", "-W1", "D"]).status.success());
        for node in ["vi/A", "vi/BC", "vi/D"] {
            assert_eq!(text(&exec(node, &["sh", "-c", "echo $VILAB_NODE"])), node);
        }
        let status = common::run(common::vilab().args(["status", &name]));
        assert!(status.contains("A--BC") || status.contains("QR"), "{status}");
        assert!(exec("base/X", &["ping", "-c1", "-W5", "Z"]).status.success());
    }
}

#[test]
fn a_killed_lab_leaves_others_as_they_were() {
    if !common::can("netns") {
        return;
    }
    let survivor = common::Up::lab("partition-survivor", "figure-09-header.yaml", "fastpath");
    let victim = common::Up::lab("partition-victim", "figure-09-header.yaml", "fastpath");
    let before = common::run(common::vilab().args(["exec", "-l", "partition-survivor", "A", "ip", "route"]));
    let init = victim.running().state().init;
    kill(Pid::from_raw(init), Signal::SIGKILL).expect("init is ours");
    let end = Instant::now() + Duration::from_secs(20);
    while common::vilab().args(["status", "partition-victim"]).output().expect("vilab").status.success() {
        assert!(Instant::now() < end, "the killed lab is still there");
        pause();
    }
    let ping = ["exec", "-l", "partition-survivor", "A", "ping", "-c3", "-i0.01", "-W5", "B"];
    assert!(common::run(common::vilab().args(ping)).contains(" 0% packet loss"));
    let after = common::run(common::vilab().args(["exec", "-l", "partition-survivor", "A", "ip", "route"]));
    assert_eq!(before, after);
    victim.has_ended();
    drop(survivor);
}

/// Lets a moment pass: a pipe that nobody writes to times out.
fn pause() {
    let (reader, _writer) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
    let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(20u8)).expect("poll");
}
