//! The requests a lab needs, a constructor each. Names, indices, addresses and namespace descriptors go in, one
//! message with its flags comes out. It never sends.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};

use ipnet::Ipv4Net;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteNextHop, RouteScope, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{
    AddressMessageBuilder, LinkIpIp, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    RouteNextHopBuilder,
};

use crate::plan::Mac;

/// The outer TTL of every tunnel: fixed, so that what happens below never shows in what rides above. A fixed TTL
/// also forces DF (`ip_tunnel_update` in Linux).
const TUNNEL_TTL: u8 = 64;

/// A message and its flags, without NLM_F_REQUEST and NLM_F_ACK.
#[derive(Debug, Clone)]
pub struct Request<M = RouteNetlinkMessage> {
    pub(super) message: M,
    pub(super) flags: u16,
}

/// One end of a veth pair.
#[derive(Debug)]
pub struct VethEnd<'a, N> {
    pub netns: N,
    pub dev: &'a str,
    pub index: u32,
    /// Its Ethernet address.
    pub mac: Mac,
}

/// One next hop of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    pub via: Option<Ipv4Addr>,
    pub index: u32,
}

impl Request {
    fn create(message: RouteNetlinkMessage) -> Self {
        Self { message, flags: NLM_F_CREATE | NLM_F_EXCL }
    }

    /// The same, in place of what is there already.
    #[must_use]
    pub fn replacing(self) -> Self {
        Self { flags: NLM_F_CREATE | NLM_F_REPLACE, ..self }
    }

    fn set_link(message: LinkMessage) -> Self {
        Self { message: RouteNetlinkMessage::SetLink(message), flags: 0 }
    }

    /// A veth pair, each end made in its own namespace, end `a` up. The peer cannot be set up by the same
    /// request (ENOTCONN): see [`Request::up`].
    #[must_use]
    pub fn add_veth<N: AsFd>(a: &VethEnd<'_, N>, b: &VethEnd<'_, N>, mtu: u32) -> Self {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(b.dev)
            .index(b.index)
            .mtu(mtu)
            .address(b.mac.0.to_vec());
        let peer = one_queue(peer).setns_by_fd(b.netns.as_fd().as_raw_fd()).build();
        let link = LinkMessageBuilder::<LinkVeth>::new(a.dev, b.dev)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .index(a.index)
            .mtu(mtu)
            .address(a.mac.0.to_vec());
        let link = one_queue(link).setns_by_fd(a.netns.as_fd().as_raw_fd()).up().build();
        Self::create(RouteNetlinkMessage::NewLink(link))
    }

    #[must_use]
    pub fn add_ipip(dev: &str, index: u32, local: Ipv4Addr, remote: Ipv4Addr) -> Self {
        let link = LinkIpIp::new(dev).index(index).local(local).remote(remote).ttl(TUNNEL_TTL);
        Self::create(RouteNetlinkMessage::NewLink(link.build()))
    }

    #[must_use]
    pub fn add_ifb(dev: &str, index: u32) -> Self {
        let link = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Ifb).name(dev.to_owned());
        Self::create(RouteNetlinkMessage::NewLink(link.index(index).build()))
    }

    /// Moves a device to another namespace and gives it another name, at once.
    #[must_use]
    pub fn move_link(index: u32, netns: impl AsFd, name: &str) -> Self {
        let link = LinkUnspec::new_with_index(index).name(name).setns_by_fd(netns.as_fd().as_raw_fd());
        Self::set_link(link.build())
    }

    #[must_use]
    pub fn up(index: u32) -> Self {
        Self::set_link(LinkUnspec::new_with_index(index).up().build())
    }

    /// Up, with room for this many packets that wait to be sent.
    #[must_use]
    pub fn up_with_queue(index: u32, packets: u32) -> Self {
        let link = LinkUnspec::new_with_index(index).up();
        Self::set_link(link.append_extra_attribute(LinkAttribute::TxQueueLen(packets)).build())
    }

    /// Room for this many packets that wait to be sent, and the most bytes of one that stands for several (`gso_max_size`).
    #[must_use]
    pub fn set_queue(index: u32, packets: u32, bytes: u32) -> Self {
        let link =
            LinkUnspec::new_with_index(index).append_extra_attribute(LinkAttribute::TxQueueLen(packets));
        Self::set_link(link.append_extra_attribute(LinkAttribute::GsoMaxSize(bytes)).build())
    }

    #[must_use]
    pub fn down(index: u32) -> Self {
        Self::set_link(LinkUnspec::new_with_index(index).down().build())
    }

    /// MTU, MULTICAST flag and up: ipip devices lack the flag, and routing protocols need it.
    #[must_use]
    pub fn configure(index: u32, mtu: u32) -> Self {
        Self::set_link(LinkUnspec::new_with_index(index).mtu(mtu).multicast(true).up().build())
    }

    /// An address; with `prefix_route` its prefix becomes a connected route.
    #[must_use]
    pub fn add_addr(index: u32, addr: Ipv4Net, prefix_route: bool) -> Self {
        let mut message = AddressMessageBuilder::<Ipv4Addr>::new()
            .index(index)
            .address(addr.addr(), addr.prefix_len())
            .build();
        if !prefix_route {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Noprefixroute));
        }
        Self::create(RouteNetlinkMessage::NewAddress(message))
    }

    /// A permanent neighbour: it is never asked for, and it does not count against `gc_thresh3`, the bound on the
    /// neighbours of all namespaces of the machine together.
    #[must_use]
    pub fn add_neighbour(index: u32, addr: Ipv4Addr, mac: Mac) -> Self {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.header.kind = RouteType::Unicast;
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(addr)));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        Self::create(RouteNetlinkMessage::NewNeighbour(message))
    }

    /// A route of the main table; several next hops are one multipath route.
    #[must_use]
    pub fn add_route(prefix: Ipv4Net, hops: &[NextHop], src: Option<Ipv4Addr>) -> Self {
        let mut route =
            RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(prefix.network(), prefix.prefix_len());
        if let Some(src) = src {
            route = route.pref_source(src);
        }
        if hops.iter().all(|h| h.via.is_none()) {
            route = route.scope(RouteScope::Link);
        }
        let route = match hops {
            [hop] => single(route, hop),
            hops => route.multipath(hops.iter().map(next_hop).collect()),
        };
        Self::create(RouteNetlinkMessage::NewRoute(route.build()))
    }

    /// A route of the main table that refuses its packets.
    #[must_use]
    pub fn add_unreachable(prefix: Ipv4Net) -> Self {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(prefix.network(), prefix.prefix_len())
            .kind(RouteType::Unreachable);
        Self::create(RouteNetlinkMessage::NewRoute(route.build()))
    }
}

/// The default is a queue pair for each possible CPU, which costs memory and time and gains a lab nothing.
fn one_queue<T>(link: LinkMessageBuilder<T>) -> LinkMessageBuilder<T> {
    link.append_extra_attribute(LinkAttribute::NumTxQueues(1))
        .append_extra_attribute(LinkAttribute::NumRxQueues(1))
}

fn single(route: RouteMessageBuilder<Ipv4Addr>, hop: &NextHop) -> RouteMessageBuilder<Ipv4Addr> {
    let route = route.output_interface(hop.index);
    match hop.via {
        Some(via) => route.gateway(via),
        None => route,
    }
}

fn next_hop(hop: &NextHop) -> RouteNextHop {
    let builder = RouteNextHopBuilder::new_ipv4().interface(hop.index);
    match hop.via {
        Some(via) => match builder.via(IpAddr::V4(via)) {
            Ok(builder) => builder.build(),
            Err(_) => RouteNextHopBuilder::new_ipv4().interface(hop.index).build(),
        },
        None => builder.build(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_without_gateway_has_link_scope() {
        let hop = NextHop { via: None, index: 3 };
        let request = Request::add_route("10.0.0.0/31".parse().unwrap(), &[hop], None);
        let RouteNetlinkMessage::NewRoute(route) = request.message else { panic!("a route") };
        assert_eq!(route.header.scope, RouteScope::Link);
    }
}
