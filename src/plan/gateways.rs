//! Gateways as operations. A [`Lab`] goes in; its wires between partitions, with addresses and neighbours, come out.
//! It never plans the routes over them: those are in the table of each node.

use ipnet::Ipv4Net;

use super::{Mac, Op};
use crate::model::{EndId, Gateway, Lab};

/// All wires, in the order of the file.
pub(super) fn gateways(lab: &Lab) -> Vec<Op> {
    lab.gateways.iter().flat_map(|gateway| one(lab, gateway)).collect()
}

fn one(lab: &Lab, gateway: &Gateway) -> Vec<Op> {
    let link = &gateway.link;
    let ends = [0, 1].map(|side| EndId { link: link.id, side });
    let place = |end: EndId| (lab.node(lab.end(end).node).netns.clone(), lab.end(end).dev.clone());
    let [a, b] = ends.map(place);
    let mut ops = vec![Op::AddVeth { a, b, macs: ends.map(|end| mac(lab, end)), mtu: link.mtu }];
    for (end, far) in [(ends[0], ends[1]), (ends[1], ends[0])] {
        let (ns, dev) = place(end);
        let node = lab.node(lab.end(end).node);
        let addr = Ipv4Net::new_assert(lab.end(end).addr, 31);
        ops.push(Op::AddAddr { ns: ns.clone(), dev: dev.clone(), addr, prefix_route: node.host.is_none() });
        ops.push(Op::AddNeighbour { ns, dev, addr: lab.end(far).addr, mac: mac(lab, far) });
    }
    if gateway.default {
        // Else a packet for an address of the network that no node has would follow the default route out and the
        // other side's route back, until its TTL ends.
        let first = lab.node(link.ends[0].node);
        let prefix = lab.net(first.id.net).pool;
        let earlier = first.wires.iter().take_while(|w| **w != ends[0]);
        if !earlier.clone().any(|w| w.side == 0 && lab.gateways[w.link.index].default) {
            ops.push(Op::AddUnreachable { ns: first.netns.clone(), prefix });
        }
    }
    ops
}

/// The Ethernet address of an end of a gateway: locally administered, and none of the base network's.
fn mac(lab: &Lab, end: EndId) -> Mac {
    let [a, b, c, d] = lab.end(end).addr.octets();
    Mac([0x02, 0x01, a, b, c, d])
}
