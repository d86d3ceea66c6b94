//! The configuration that FRR gets, compared with what stands in `fixtures/frr`. `VILAB_BLESS=1` writes it.

use std::fmt::Write as _;
use std::path::Path;

use vilab::lab;
use vilab::model::{Lab, Routing};
use vilab::routing::frr;

fn written(lab: &Lab) -> String {
    let mut text = String::new();
    for node in lab.nodes() {
        for (name, content) in frr::files(lab, node.id) {
            let _ = write!(text, "==== {} {name}\n{content}\n", lab.full_name(node.id));
        }
    }
    text
}

#[test]
fn each_protocol_gets_its_exact_configuration() {
    let (path, golden) = (Path::new("fixtures/frr/protocols.yaml"), Path::new("fixtures/frr/protocols.txt"));
    let got = written(&lab::load(path).expect("the lab is right"));
    if std::env::var_os("VILAB_BLESS").is_some() {
        std::fs::write(golden, &got).expect("the golden file is writable");
    }
    let expected = std::fs::read_to_string(golden).unwrap_or_default();
    assert!(got == expected, "--- expected\n{expected}\n--- got\n{got}");
}

/// C8: a VH takes part in routing as a VR does, and every node of a VI does.
#[test]
fn c8_every_node_with_a_link_runs_the_protocol_of_its_network_and_no_other() {
    let lab = lab::load(Path::new("fixtures/frr/protocols.yaml")).expect("the lab is right");
    for node in lab.nodes() {
        let daemons = frr::daemons(&lab, node.id);
        let expected: &[&str] = match lab.net(node.id.net).routing {
            Routing::Ospf => &["zebra", "ospfd"],
            Routing::Isis => &["zebra", "isisd"],
            Routing::Rip => &["zebra", "ripd"],
            Routing::Bgp => &["zebra", "bgpd"],
            Routing::Static | Routing::None => &[],
        };
        assert_eq!(daemons, expected, "{}", lab.full_name(node.id));
        let files: Vec<String> = frr::files(&lab, node.id).into_keys().collect();
        let mut wanted: Vec<String> = daemons.iter().chain(&["vtysh"]).map(|d| format!("{d}.conf")).collect();
        wanted.sort();
        assert_eq!(files, if daemons.is_empty() { Vec::new() } else { wanted });
    }
}

/// C10, C17: no configuration of one network names an address of another, but for the prefixes its gateways lead to.
#[test]
fn c10_configuration_names_no_address_of_another_network() {
    let lab = lab::load(Path::new("fixtures/frr/protocols.yaml")).expect("the lab is right");
    for node in lab.nodes() {
        let led: Vec<String> = lab.externals(node.id).iter().map(|e| e.prefix.to_string()).collect();
        let others = lab.networks.iter().filter(|n| n.id != node.id.net).flat_map(|n| &n.nodes);
        let foreign: Vec<String> =
            others.flat_map(|n| lab.addresses(n.id)).map(|addr| addr.to_string()).collect();
        let own: Vec<String> = lab
            .net(node.id.net)
            .nodes
            .iter()
            .flat_map(|n| lab.addresses(n.id))
            .map(|a| a.to_string())
            .collect();
        for (name, text) in frr::files(&lab, node.id) {
            for word in text.split_whitespace().filter(|w| !led.iter().any(|l| l == w)) {
                let address = word.split('/').next().unwrap_or(word).to_owned();
                let named = foreign.contains(&address) && !own.contains(&address);
                assert!(!named, "{} {name}: {word}", lab.full_name(node.id));
            }
        }
    }
}
