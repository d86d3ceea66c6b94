//! What IS-IS needs beside each virtual link: a TUN device and two filters. A lab goes in; operations and the table of
//! the adapter come out. It never looks at dataplanes: both carry no ISO PDUs.

use std::collections::BTreeSet;

use super::{Hook, Machine, Op, Taken};
use crate::error::{Error, Result};
use crate::isis::{self, config};
use crate::model::{BASE, EndId, Lab, Link, NodeId, Routing, names};

/// What the adapter carries; `None` where no VI has IS-IS.
///
/// # Errors
/// If the machine cannot lead PDUs to the adapter.
pub(super) fn config(lab: &Lab, machine: &Machine) -> Result<Option<isis::Config>> {
    let ends: Vec<config::End> =
        lab.nodes().flat_map(|node| devices(lab, node.id)).map(|(id, pdus)| end(lab, id, pdus)).collect();
    if ends.is_empty() {
        return Ok(None);
    }
    if !(machine.redirect && machine.tun) {
        return Err(Error::environment("this machine cannot carry `routing: isis` in a Virtual Internet")
            .because("it lacks TUN devices, or what redirects packets to them (clsact, cls_bpf, mirred)")
            .hint("`vilab doctor` says what to load; the other routing protocols need neither"));
    }
    Ok(Some(isis::Config { ends }))
}

fn end(lab: &Lab, id: EndId, pdus: String) -> config::End {
    let near = lab.end(id);
    config::End {
        netns: lab.node(near.node).netns.clone(),
        dev: near.dev.clone(),
        pdus,
        local: near.addr,
        peer: lab.peer(id).addr,
    }
}

/// After the devices of the node's virtual links.
pub(super) fn ops(lab: &Lab, node: NodeId) -> Vec<Op> {
    let ns = &lab.node(node).netns;
    devices(lab, node)
        .into_iter()
        .flat_map(|(id, pdus)| beside(ns, lab.link(id.link), &lab.end(id).dev, &pdus))
        .collect()
}

fn beside(ns: &str, link: &Link, dev: &str, pdus: &str) -> [Op; 6] {
    let hooks = |dev: &str| Op::AddHooks { ns: ns.to_owned(), dev: dev.to_owned() };
    let redirect = |from: &str, to: &str, hook| Op::AddRedirect {
        ns: ns.to_owned(),
        dev: from.to_owned(),
        to: to.to_owned(),
        hook,
        takes: Taken::Protocol(isis::PROTOCOL),
        into: hook,
    };
    [
        Op::AddTun { ns: ns.to_owned(), dev: pdus.to_owned(), info: true },
        Op::SetUp { ns: ns.to_owned(), dev: pdus.to_owned(), mtu: link.mtu },
        hooks(dev),
        hooks(pdus),
        redirect(dev, pdus, Hook::Egress),
        redirect(pdus, dev, Hook::Ingress),
    ]
}

/// The ends of a node that need a TUN device, and its name.
fn devices(lab: &Lab, node: NodeId) -> Vec<(EndId, String)> {
    if node.net == BASE || lab.net(node.net).routing != Routing::Isis {
        return Vec::new();
    }
    let ends = &lab.node(node).ends;
    let mut taken: BTreeSet<String> = ends.iter().map(|id| lab.end(*id).dev.clone()).collect();
    ends.iter().map(|id| (*id, names::device("iso-", &lab.end(*id).dev, &mut taken))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn lab(routing: &str) -> Lab {
        let text = format!(
            "name: t\nbase: {{links: [X -- Y]}}\nvis:\n  v:\n    nodes: {{a: X, b: Y, c: Y}}\n    \
             links: [a -- b, a -- b, a -- c]\n    routing: {routing}\n"
        );
        crate::model::parse(std::path::Path::new("t.yaml"), &text).unwrap()
    }

    #[test]
    fn each_end_of_a_link_has_a_device_of_its_own() {
        let machine = Machine { redirect: true, tun: true, ..Machine::default() };
        let config = config(&lab("isis"), &machine).unwrap().unwrap();
        assert_eq!(config.ends.len(), 6);
        let of_a: Vec<_> =
            config.ends.iter().filter(|e| e.netns == "v.v.a").map(|e| (&*e.dev, &*e.pdus)).collect();
        assert_eq!(of_a, [("v-b", "iso-v-b"), ("v-b.2", "iso-v-b.2"), ("v-c", "iso-v-c")]);
        for end in &config.ends {
            let other = config.ends.iter().find(|e| e.local == end.peer).unwrap();
            assert_eq!(other.peer, end.local);
        }
    }

    #[test]
    fn a_machine_that_cannot_is_told_so() {
        let error = config(&lab("isis"), &Machine::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::Environment);
    }

    #[test]
    fn without_is_is_there_is_nothing() {
        let lab = lab("static");
        assert_eq!(config(&lab, &Machine::default()).unwrap(), None);
        assert!(lab.nodes().all(|n| ops(&lab, n.id).is_empty()));
    }
}
