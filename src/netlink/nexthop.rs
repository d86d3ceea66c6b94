//! Next hops that are objects of their own (`ip nexthop`). Bytes of a dump go in; the next hops of an object's number
//! come out. It never asks the kernel: [`super::monitor`] does, where a route names an object and nothing else
//! (`net.ipv4.nexthop_compat_mode` 0).

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;

use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NlasIterator};

use super::monitor::Hop;

/// Lengths of `struct nlmsghdr` and `struct nhmsg`, bytes.
const HEADER: usize = 16;
const BODY: usize = 8;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Messages and attributes of linux/rtnetlink.h and linux/nexthop.h.
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_GETNEXTHOP: u16 = 106;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const AF_INET: u8 = 2;
const RTNH_F_DEAD: u32 = 1;
/// `struct nexthop_grp`: u32 id, u8 weight less one, u8, u16; bytes.
const MEMBER: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Object {
    One(Hop),
    /// Numbers and weights.
    Group(Vec<(u32, u32)>),
}

/// The objects of a namespace that lead anywhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Objects {
    by_id: BTreeMap<u32, Object>,
    /// A change made the dump inconsistent.
    pub(super) torn: bool,
}

/// Asks for all objects.
pub(super) fn request(sequence: u32) -> Vec<u8> {
    let length = u32::try_from(HEADER + BODY).unwrap_or_default();
    let mut bytes = Vec::with_capacity(HEADER + BODY);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&RTM_GETNEXTHOP.to_ne_bytes());
    bytes.extend_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&[0; BODY]);
    bytes
}

impl Objects {
    /// Takes one datagram of the answer to request `sequence`; true after the last one.
    pub(super) fn read(&mut self, mut bytes: &[u8], sequence: u32) -> io::Result<bool> {
        while let Ok(header) = NetlinkBuffer::new_checked(bytes) {
            let length = header.length() as usize;
            let ours = header.sequence_number() == sequence;
            let message = bytes.get(HEADER..length).unwrap_or_default();
            self.torn |= ours && header.flags() & NLM_F_DUMP_INTR != 0;
            match header.message_type() {
                NLMSG_DONE if ours => return Ok(true),
                NLMSG_ERROR if ours => return Err(error(message)),
                RTM_NEWNEXTHOP if ours => self.add(message),
                _ => {}
            }
            bytes = bytes.get(length.max(HEADER).next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(false)
    }

    fn add(&mut self, message: &[u8]) {
        let (Some(body), Some(attributes)) = (message.get(..BODY), message.get(BODY..)) else { return };
        let mut id = None;
        let mut hop = Hop { ifindex: 0, via: None, weight: 1 };
        let mut group = None;
        for attribute in NlasIterator::new(attributes).filter_map(Result::ok) {
            let value = attribute.value();
            match attribute.kind() {
                NHA_ID => id = number(value),
                NHA_OIF => hop.ifindex = number(value).unwrap_or_default(),
                NHA_GATEWAY if body[0] == AF_INET => {
                    hop.via = <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
                }
                NHA_GROUP => group = Some(value.chunks_exact(MEMBER).filter_map(member).collect()),
                _ => {}
            }
        }
        let dead = number(&body[4..]).is_some_and(|flags| flags & RTNH_F_DEAD != 0);
        let object = match group {
            Some(members) => Some(Object::Group(members)),
            None => (hop.ifindex != 0 && !dead).then_some(Object::One(hop)),
        };
        if let (Some(id), Some(object)) = (id, object) {
            self.by_id.insert(id, object);
        }
    }

    /// The next hops of an object that are not dead; a group has no groups in it.
    pub(super) fn hops(&self, id: u32) -> Vec<Hop> {
        let one = |id: &u32, weight: u32| match self.by_id.get(id) {
            Some(Object::One(hop)) => Some(Hop { weight, ..*hop }),
            Some(Object::Group(_)) | None => None,
        };
        match self.by_id.get(&id) {
            Some(Object::Group(members)) => members.iter().filter_map(|(id, w)| one(id, *w)).collect(),
            Some(Object::One(_)) | None => one(&id, 1).into_iter().collect(),
        }
    }
}

fn number(value: &[u8]) -> Option<u32> {
    value.get(..4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes)
}

fn member(bytes: &[u8]) -> Option<(u32, u32)> {
    Some((number(bytes)?, u32::from(*bytes.get(4)?) + 1))
}

/// `struct nlmsgerr` begins with minus errno.
fn error(message: &[u8]) -> io::Error {
    let code = number(message).map_or(libc::EPROTO, |code| code.cast_signed().saturating_neg());
    io::Error::from_raw_os_error(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, flags: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![AF_INET, 0, 0, 0];
        body.extend_from_slice(&flags.to_ne_bytes());
        attributes.iter().for_each(|a| body.extend_from_slice(a));
        let length = u32::try_from(HEADER + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&0_u16.to_ne_bytes());
        bytes.extend_from_slice(&7_u32.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&body);
        bytes
    }

    fn one(id: u32, flags: u32, ifindex: u32) -> Vec<u8> {
        let attributes = [
            attribute(NHA_ID, &id.to_ne_bytes()),
            attribute(NHA_GATEWAY, &[10, 0, 0, 1]),
            attribute(NHA_OIF, &ifindex.to_ne_bytes()),
        ];
        message(RTM_NEWNEXTHOP, flags, &attributes)
    }

    fn dump() -> Vec<u8> {
        let members: Vec<u8> = [(1_u32, 0_u8), (2, 2), (3, 0)]
            .iter()
            .flat_map(|(id, weight)| [&id.to_ne_bytes()[..], &[*weight, 0, 0, 0]].concat())
            .collect();
        let group = [attribute(NHA_ID, &9_u32.to_ne_bytes()), attribute(NHA_GROUP, &members)];
        let parts = [one(1, 0, 4), one(2, 0, 5), one(3, RTNH_F_DEAD, 6)];
        [parts.concat(), message(RTM_NEWNEXTHOP, 0, &group), message(NLMSG_DONE, 0, &[])].concat()
    }

    #[test]
    fn objects_and_groups_become_next_hops() {
        let mut objects = Objects::default();
        assert!(objects.read(&dump(), 7).unwrap() && !objects.torn);
        let hop = |ifindex, weight| Hop { ifindex, via: Some([10, 0, 0, 1].into()), weight };
        assert_eq!(objects.hops(1), [hop(4, 1)]);
        assert_eq!(objects.hops(3), [], "dead");
        assert_eq!(objects.hops(9), [hop(4, 1), hop(5, 3)]);
        assert_eq!(objects.hops(8), []);
    }

    #[test]
    fn answers_to_others_and_cut_ones_are_ignored() {
        let bytes = dump();
        for length in 0..bytes.len() {
            let mut objects = Objects::default();
            assert!(!objects.read(&bytes[..length], 7).unwrap(), "{length}");
        }
        let mut objects = Objects::default();
        assert!(!objects.read(&bytes, 8).unwrap());
        assert_eq!(objects, Objects::default());
    }

    #[test]
    fn a_refusal_is_an_error() {
        let mut bytes = message(NLMSG_ERROR, 0, &[]);
        bytes[HEADER..HEADER + 4].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
        assert_eq!(Objects::default().read(&bytes, 7).unwrap_err().raw_os_error(), Some(libc::EPERM));
    }
}
