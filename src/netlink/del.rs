//! The requests that take away or change what is there, a constructor each. Indices, names and addresses go in, one
//! message with its flags comes out. It never sends.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use netlink_packet_xfrm::constants::{AF_INET, XFRM_POLICY_IN, XFRM_POLICY_OUT};
use netlink_packet_xfrm::{Address, Selector, UserPolicyId, UserSaId, XfrmMessage, policy, state};
use rtnetlink::packet_core::NLM_F_DUMP;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use rtnetlink::packet_route::route::{RouteProtocol, RouteScope, RouteType};
use rtnetlink::packet_route::tc::{TcHandle, TcMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{AddressMessageBuilder, LinkUnspec, RouteMessageBuilder};

use super::request::Request;
use crate::packet::ipv4;
use crate::plan::Direction;

/// Bits of an IPv4 host prefix.
const HOST: u8 = 32;

impl Request {
    fn del(message: RouteNetlinkMessage) -> Self {
        Self { message, flags: 0 }
    }

    /// A device with all it has, by name.
    #[must_use]
    pub fn del_link(dev: &str) -> Self {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(dev.to_owned()));
        Self::del(RouteNetlinkMessage::DelLink(message))
    }

    /// All devices of the namespace.
    #[must_use]
    pub fn dump_links() -> Self {
        Self { message: RouteNetlinkMessage::GetLink(LinkMessage::default()), flags: NLM_F_DUMP }
    }

    #[must_use]
    pub fn set_mtu(index: u32, mtu: u32) -> Self {
        let link = LinkUnspec::new_with_index(index).mtu(mtu).build();
        Self { message: RouteNetlinkMessage::SetLink(link), flags: 0 }
    }

    #[must_use]
    pub fn del_addr(index: u32, addr: Ipv4Net) -> Self {
        let message = AddressMessageBuilder::<Ipv4Addr>::new()
            .index(index)
            .address(addr.addr(), addr.prefix_len())
            .build();
        Self::del(RouteNetlinkMessage::DelAddress(message))
    }

    #[must_use]
    pub fn del_neighbour(index: u32, addr: Ipv4Addr) -> Self {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = index;
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(addr)));
        Self::del(RouteNetlinkMessage::DelNeighbour(message))
    }

    /// The route of the main table that [`Request::add_route`] or [`Request::add_unreachable`] made.
    #[must_use]
    pub fn del_route(prefix: Ipv4Net) -> Self {
        let route =
            RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(prefix.network(), prefix.prefix_len());
        let mut message = route.protocol(RouteProtocol::Static).scope(RouteScope::NoWhere).build();
        message.header.kind = RouteType::Unspec;
        Self::del(RouteNetlinkMessage::DelRoute(message))
    }

    /// The root qdisc: the device gets its default one.
    #[must_use]
    pub fn del_qdisc(index: u32) -> Self {
        let mut message = TcMessage::with_index(i32::try_from(index).unwrap_or(i32::MAX));
        message.header.parent = TcHandle::ROOT;
        Self::del(RouteNetlinkMessage::DelQueueDiscipline(message))
    }
}

impl Request<XfrmMessage> {
    #[must_use]
    pub fn del_association(dst: Ipv4Addr, spi: u32) -> Self {
        let user_sa_id = UserSaId { daddr: Address::from_ipv4(&dst), spi, family: AF_INET, proto: ipv4::ESP };
        let message = state::DelGetMessage { user_sa_id, nlas: Vec::new() };
        Self { message: XfrmMessage::DeleteSa(message), flags: 0 }
    }

    #[must_use]
    pub fn del_policy(src: Ipv4Addr, dst: Ipv4Addr, direction: Direction) -> Self {
        let selector = Selector {
            daddr: Address::from_ipv4(&dst),
            saddr: Address::from_ipv4(&src),
            family: AF_INET,
            prefixlen_d: HOST,
            prefixlen_s: HOST,
            proto: ipv4::IPIP,
            ..Selector::default()
        };
        let direction = match direction {
            Direction::In => XFRM_POLICY_IN,
            Direction::Out => XFRM_POLICY_OUT,
        };
        let user_policy_id = UserPolicyId { selector, direction, ..UserPolicyId::default() };
        let message = policy::DelGetMessage { user_policy_id, nlas: Vec::new() };
        Self { message: XfrmMessage::DeletePolicy(message), flags: 0 }
    }
}
