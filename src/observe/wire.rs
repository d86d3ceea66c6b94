//! The bytes of probes. IPv4 packets and ICMP messages go in or come out as plain fields. It never touches a
//! socket.

use std::net::Ipv4Addr;

pub(crate) const ECHO_REPLY: u8 = 0;
pub(crate) const UNREACHABLE: u8 = 3;
pub(crate) const ECHO: u8 = 8;
pub(crate) const TIME_EXCEEDED: u8 = 11;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_IPIP: u8 = 4;
const HEADER: usize = 20;
/// ICMP header: type, code, checksum, identifier, sequence number.
pub(crate) const ICMP_HEADER: usize = 8;

/// What of an IPv4 header is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) src: Ipv4Addr,
    pub(crate) dst: Ipv4Addr,
    pub(crate) ttl: u8,
    protocol: u8,
}

/// An ICMP message: `rest` is the second word of the header, `body` what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Icmp<'a> {
    pub(crate) kind: u8,
    pub(crate) code: u8,
    rest: [u8; 4],
    pub(crate) body: &'a [u8],
}

impl Icmp<'_> {
    pub(crate) fn id(&self) -> u16 {
        u16::from_be_bytes([self.rest[0], self.rest[1]])
    }

    pub(crate) fn seq(&self) -> u16 {
        u16::from_be_bytes([self.rest[2], self.rest[3]])
    }

    /// Of "fragmentation needed" (RFC 1191): the MTU of the next hop.
    pub(crate) fn next_mtu(&self) -> u16 {
        self.seq()
    }
}

/// The first header of a packet and what it carries, as far as that is there.
pub(crate) fn parse_header(packet: &[u8]) -> Option<(Header, &[u8])> {
    let first = *packet.first()?;
    let length = usize::from(first & 15) * 4;
    if first >> 4 != 4 || length < HEADER || packet.len() < length {
        return None;
    }
    let word = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let header = Header { src: word(12), dst: word(16), ttl: packet[8], protocol: packet[9] };
    Some((header, packet.get(length..total).unwrap_or(&packet[length..])))
}

/// All IPv4 headers of a packet, outermost first, and the ICMP message under the last; `None` if there is none.
pub(crate) fn parse_stack(packet: &[u8]) -> Option<(Vec<Header>, Icmp<'_>)> {
    let mut headers = Vec::new();
    let mut rest = packet;
    loop {
        let (header, payload) = parse_header(rest)?;
        headers.push(header);
        match header.protocol {
            PROTOCOL_IPIP => rest = payload,
            PROTOCOL_ICMP => return Some((headers, parse_icmp(payload)?)),
            _ => return None,
        }
    }
}

pub(crate) fn parse_icmp(message: &[u8]) -> Option<Icmp<'_>> {
    let (head, body) = message.split_at_checked(ICMP_HEADER)?;
    Some(Icmp { kind: head[0], code: head[1], rest: [head[4], head[5], head[6], head[7]], body })
}

/// An echo request (RFC 792).
pub(crate) fn emit_echo(id: u16, seq: u16, body: &[u8]) -> Vec<u8> {
    let mut message = vec![ECHO, 0, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend(seq.to_be_bytes());
    message.extend(body);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// `message` under a stack of IPv4 headers, outermost first, each with TTL 64 and its checksum.
pub(crate) fn emit_stack(stack: &[(Ipv4Addr, Ipv4Addr)], message: &[u8]) -> Option<Vec<u8>> {
    let mut packet = message.to_vec();
    for (depth, (src, dst)) in stack.iter().rev().enumerate() {
        let protocol = if depth == 0 { PROTOCOL_ICMP } else { PROTOCOL_IPIP };
        let total = u16::try_from(packet.len() + HEADER).ok()?.to_be_bytes();
        let mut header = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, protocol, 0, 0];
        header.extend(src.octets());
        header.extend(dst.octets());
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header.append(&mut packet);
        packet = header;
    }
    Some(packet)
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(c.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}
