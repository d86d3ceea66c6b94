//! Packets that stand for several of one flow (GSO: Generic Segmentation Offload): a TCP segment or a UDP datagram larger than any
//! link, to be cut into pieces later, its transport checksum unfinished. `struct virtio_net_hdr` and bytes go in; what the
//! packet stands for, its pieces with all headers and checksums, and completed checksums come out. It never keeps bytes.

use super::{Ipv4View, Malformed, checksum, ipv4};

/// Bytes of `struct virtio_net_hdr` (linux/virtio_net.h).
pub const VNET_LEN: usize = 10;
/// The checksum covers what begins at `csum_start`, and is yet to be made.
const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// Where the checksum lies in a header, and how long the header is at least.
const TCP_CHECK: usize = 16;
const TCP_LEN: usize = 20;
const UDP_CHECK: usize = 6;
const UDP_LEN: usize = 8;
/// Flags of TCP (RFC 9293, section 3.1).
const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// What the kernel says beside a packet, in the machine's byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vnet {
    flags: u8,
    gso_type: u8,
    header_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

impl Vnet {
    #[must_use]
    pub fn parse(bytes: [u8; VNET_LEN]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            header_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        }
    }

    #[must_use]
    pub fn emit(&self) -> [u8; VNET_LEN] {
        let mut bytes = [0; VNET_LEN];
        (bytes[0], bytes[1]) = (self.flags, self.gso_type);
        let words = [self.header_len, self.gso_size, self.csum_start, self.csum_offset];
        for (to, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// Of `packet`, which stands for what `segments` says, or for itself.
    #[must_use]
    pub fn of(segments: Option<&Segments>, packet_len: usize) -> Self {
        let Some(segments) = segments else { return Self::default() };
        let short = |len: usize| u16::try_from(len).unwrap_or(u16::MAX);
        let start = packet_len.saturating_sub(segments.behind);
        Self {
            flags: NEEDS_CSUM,
            gso_type: match segments.transport {
                Transport::Tcp { ecn: false } => GSO_TCPV4,
                Transport::Tcp { ecn: true } => GSO_TCPV4 | GSO_ECN,
                Transport::Udp => GSO_UDP_L4,
            },
            header_len: short(start + segments.header),
            gso_size: segments.size,
            csum_start: short(start),
            csum_offset: short(segments.transport.check()),
        }
    }

    /// What `packet` stands for; the header counts from `link_len` bytes before it. One that stands for itself has its
    /// checksum completed.
    ///
    /// # Errors
    /// If the header cannot be one of this packet.
    pub fn apply(&self, packet: &mut [u8], link_len: usize) -> Result<Option<Segments>, Malformed> {
        if self.gso_type == GSO_NONE && self.flags & NEEDS_CSUM == 0 {
            return Ok(None);
        }
        let start = usize::from(self.csum_start).checked_sub(link_len).ok_or(Malformed::Length)?;
        let transport = match self.gso_type & !GSO_ECN {
            GSO_NONE => {
                complete(packet, start, usize::from(self.csum_offset))?;
                return Ok(None);
            }
            GSO_TCPV4 => Transport::Tcp { ecn: self.gso_type & GSO_ECN != 0 },
            GSO_UDP_L4 => Transport::Udp,
            _ => return Err(Malformed::Type),
        };
        let behind = packet.len().checked_sub(start).ok_or(Malformed::Length)?;
        let segments = Segments::new(transport, &packet[start..], behind, self.gso_size)?;
        if segments.packets() > 1 {
            return Ok(Some(segments));
        }
        complete(packet, start, transport.check())?;
        Ok(None)
    }
}

/// Makes the checksum of what begins at `start`: the field, `offset` bytes further on, holds the sum of the pseudo header.
///
/// # Errors
/// If these are not in the packet.
fn complete(packet: &mut [u8], start: usize, offset: usize) -> Result<(), Malformed> {
    let message = packet.get_mut(start..).ok_or(Malformed::Length)?;
    let sum = checksum::checksum(0, message);
    let field = message.get_mut(offset..offset + 2).ok_or(Malformed::Length)?;
    // Zero would mean that there is none (RFC 768); in one's complement, all ones are zero too.
    let sum = if sum == 0 { u16::MAX } else { sum };
    field.copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

/// What is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// `ecn`: CWR is set, and is for the first piece alone.
    Tcp {
        ecn: bool,
    },
    Udp,
}

impl Transport {
    fn check(self) -> usize {
        match self {
            Self::Tcp { .. } => TCP_CHECK,
            Self::Udp => UDP_CHECK,
        }
    }
}

/// How a packet is to be cut. It stays true while headers are put in front of the packet and taken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segments {
    transport: Transport,
    /// Bytes from the transport header to the end of the packet.
    behind: usize,
    /// Bytes of the transport header.
    header: usize,
    /// Bytes of payload in each piece; the last may have fewer.
    size: u16,
}

impl Segments {
    pub(super) fn new(
        transport: Transport,
        message: &[u8],
        behind: usize,
        size: u16,
    ) -> Result<Self, Malformed> {
        let least = match transport {
            Transport::Tcp { .. } => TCP_LEN,
            Transport::Udp => UDP_LEN,
        };
        let message = message.get(..least).ok_or(Malformed::Truncated)?;
        let header = match transport {
            Transport::Tcp { .. } => usize::from(message[12] >> 4) * 4,
            Transport::Udp => UDP_LEN,
        };
        if header < least || header >= behind || size == 0 {
            return Err(Malformed::Length);
        }
        Ok(Self { transport, behind, header, size })
    }

    #[must_use]
    pub fn is_tcp(&self) -> bool {
        matches!(self.transport, Transport::Tcp { .. })
    }

    /// How many packets it stands for.
    #[must_use]
    pub fn packets(&self) -> usize {
        (self.behind - self.header).div_ceil(usize::from(self.size))
    }

    /// Where the transport header begins in a packet of `packet_len` bytes; `None` where it does not.
    #[must_use]
    pub fn start(&self, packet_len: usize) -> Option<usize> {
        packet_len.checked_sub(self.behind)
    }

    /// Bytes of the largest of these, where the whole packet has `packet_len`.
    #[must_use]
    pub fn largest(&self, packet_len: usize) -> usize {
        packet_len.saturating_sub(self.payload_len()) + usize::from(self.size).min(self.payload_len())
    }

    fn payload_len(&self) -> usize {
        self.behind - self.header
    }

    /// Writes piece `number`, from 0, of `packet` to `to`, complete in all its headers; gives its length. Identifications count
    /// up from those of the packet, as the kernel's do (`inet_gso_segment`).
    ///
    /// # Errors
    /// If the headers of the packet are no IPv4 headers up to the transport header, or `to` is too small.
    pub fn cut(&self, packet: &[u8], number: usize, to: &mut [u8]) -> Result<usize, Malformed> {
        let start = self.start(packet.len()).ok_or(Malformed::Length)?;
        let headers = start + self.header;
        let payload =
            packet[headers..].chunks(usize::from(self.size)).nth(number).ok_or(Malformed::Length)?;
        let len = headers + payload.len();
        let to = to.get_mut(..len).ok_or(Malformed::Length)?;
        to[..headers].copy_from_slice(&packet[..headers]);
        to[headers..].copy_from_slice(payload);
        let count = u16::try_from(number).map_err(|_| Malformed::Length)?;
        let pair = fix_headers(to, start, count)?;
        let protocol = match self.transport {
            Transport::Tcp { .. } => {
                let message = &mut to[start..];
                let sequence = u32::from_be_bytes([message[4], message[5], message[6], message[7]]);
                let sequence = sequence.wrapping_add(u32::from(count) * u32::from(self.size));
                message[4..8].copy_from_slice(&sequence.to_be_bytes());
                message[13] &= if number + 1 < self.packets() { !FIN_PSH } else { 0xff };
                message[13] &= if number > 0 { !CWR } else { 0xff };
                ipv4::TCP
            }
            Transport::Udp => {
                let udp_len = u16::try_from(len - start).map_err(|_| Malformed::Length)?;
                to[start + 4..start + 6].copy_from_slice(&udp_len.to_be_bytes());
                ipv4::UDP
            }
        };
        let message = &mut to[start..];
        let length = u16::try_from(message.len()).map_err(|_| Malformed::Length)?;
        set_pseudo_sum(message, self.transport, checksum::pseudo_header(pair.0, pair.1, protocol, length));
        complete(message, 0, self.transport.check())?;
        Ok(len)
    }
}

/// Total lengths and identifications of the headers in front of byte `start`; the addresses of the innermost one.
fn fix_headers(
    packet: &mut [u8],
    start: usize,
    count: u16,
) -> Result<(std::net::Ipv4Addr, std::net::Ipv4Addr), Malformed> {
    let mut at = 0;
    loop {
        let header = &mut packet[at..];
        let total_len = u16::try_from(header.len()).map_err(|_| Malformed::Length)?;
        let view = Ipv4View::new_header(header)?;
        let (header_len, protocol, pair) = (view.header_len(), view.protocol(), (view.src(), view.dst()));
        let id = view.id().wrapping_add(count);
        header[2..4].copy_from_slice(&total_len.to_be_bytes());
        header[4..6].copy_from_slice(&id.to_be_bytes());
        seal(&mut header[..header_len]);
        at += header_len;
        if at == start {
            return Ok(pair);
        }
        if at > start || protocol != ipv4::IPIP {
            return Err(Malformed::Type);
        }
    }
}

/// Makes the checksum of an IPv4 header.
pub(super) fn seal(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = checksum::checksum(0, header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Begins a checksum: the field holds the sum of the pseudo header.
pub(super) fn set_pseudo_sum(message: &mut [u8], transport: Transport, sum: u32) {
    let at = transport.check();
    let folded = !checksum::checksum(sum, &[]);
    message[at..at + 2].copy_from_slice(&folded.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::packet::{Ipv4Repr, nest};

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    /// A TCP segment with all flags and options of `words` words, its checksum only begun.
    fn tcp(words: u8, payload: &[u8]) -> Vec<u8> {
        let mut message = vec![0; usize::from(words) * 4];
        message[..4].copy_from_slice(&[0x12, 0x34, 0, 80]);
        message[4..8].copy_from_slice(&0xffff_ff00_u32.to_be_bytes());
        (message[12], message[13]) = (words << 4, 0xff);
        message.extend(payload);
        let sum = checksum::pseudo_header(A, B, ipv4::TCP, u16::try_from(message.len()).unwrap());
        set_pseudo_sum(&mut message, Transport::Tcp { ecn: true }, sum);
        Ipv4Repr { id: 0xfffe, ..Ipv4Repr::new(A, B, ipv4::TCP, message.len()) }.with_payload(&message)
    }

    /// A datagram, its checksum only begun.
    fn udp(payload: &[u8]) -> Vec<u8> {
        let len = u16::try_from(UDP_LEN + payload.len()).unwrap();
        let mut message = vec![0, 1, 0, 2];
        message.extend(len.to_be_bytes());
        message.extend([0, 0]);
        message.extend(payload);
        set_pseudo_sum(&mut message, Transport::Udp, checksum::pseudo_header(A, B, ipv4::UDP, len));
        Ipv4Repr { id: 9, ..Ipv4Repr::new(A, B, ipv4::UDP, message.len()) }.with_payload(&message)
    }

    fn vnet(gso_type: u8, packet: &[u8], start: usize, gso_size: u16) -> Vnet {
        let offset = if gso_type == GSO_UDP_L4 { UDP_CHECK } else { TCP_CHECK };
        let short = |n: usize| u16::try_from(n).unwrap();
        let flags = NEEDS_CSUM;
        let csum_start = short(start);
        Vnet {
            flags,
            gso_type,
            header_len: short(packet.len()),
            gso_size,
            csum_start,
            csum_offset: short(offset),
        }
    }

    fn pieces(packet: &[u8], segments: &Segments) -> Vec<Vec<u8>> {
        let cut = |n| {
            let mut to = vec![0; 70_000];
            let len = segments.cut(packet, n, &mut to).unwrap();
            to[..len].to_vec()
        };
        (0..segments.packets()).map(cut).collect()
    }

    /// The transport message of a packet below `depth` more headers; all checksums and lengths are right.
    fn checked(packet: &[u8], depth: usize) -> &[u8] {
        let view = Ipv4View::new_checked(packet).unwrap();
        assert_eq!(usize::from(view.total_len()), packet.len());
        view.verify_checksum().unwrap();
        if depth > 0 {
            return checked(&packet[view.header_len()..], depth - 1);
        }
        let message = view.payload();
        let length = u16::try_from(message.len()).unwrap();
        let pseudo = checksum::pseudo_header(view.src(), view.dst(), view.protocol(), length);
        assert!(checksum::verify(pseudo, message), "the transport checksum");
        message
    }

    proptest! {
        #[test]
        fn tcp_is_cut_as_the_kernel_does(
            words in 5u8..16, len in 2usize..9000, size in 1u16..3000, depth in 0usize..4,
        ) {
            let payload: Vec<u8> = (0..len).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
            let headers: Vec<_> = (0..depth).map(|_| (A, B)).collect();
            let mut packet = nest(&headers, &tcp(words, &payload), 9);
            let start = 20 * (depth + 1);
            let said = vnet(GSO_TCPV4 | GSO_ECN, &packet, start + 14, size);
            let Some(segments) = said.apply(&mut packet, 14).unwrap() else {
                prop_assert!(len <= usize::from(size));
                prop_assert_eq!(&checked(&packet, depth)[usize::from(words) * 4..], &payload[..]);
                return Ok(());
            };
            let all = pieces(&packet, &segments);
            prop_assert_eq!(all.len(), len.div_ceil(usize::from(size)));
            prop_assert_eq!(segments.largest(packet.len()), all.iter().map(Vec::len).max().unwrap());
            let mut joined: Vec<u8> = Vec::new();
            for (n, piece) in all.iter().enumerate() {
                let message = checked(piece, depth);
                let sequence = u32::from_be_bytes(message[4..8].try_into().unwrap());
                prop_assert_eq!(sequence, 0xffff_ff00_u32.wrapping_add(u32::try_from(joined.len()).unwrap()));
                let last = if n + 1 == all.len() { FIN_PSH } else { 0 };
                let first = if n == 0 { CWR } else { 0 };
                prop_assert_eq!(message[13] & (FIN_PSH | CWR), last | first);
                prop_assert_eq!(message[13] & 0x76, 0x76);
                let inner = Ipv4View::new_header(&piece[20 * depth..]).unwrap();
                prop_assert_eq!(inner.id(), 0xfffe_u16.wrapping_add(u16::try_from(n).unwrap()));
                joined.extend(&message[usize::from(words) * 4..]);
            }
            prop_assert_eq!(joined, payload);
        }

        #[test]
        fn udp_is_cut_into_datagrams(len in 2usize..9000, size in 1u16..3000) {
            let payload: Vec<u8> = (0..len).map(|n| n.to_le_bytes()[0]).collect();
            let mut packet = udp(&payload);
            let said = vnet(GSO_UDP_L4, &packet, 20, size);
            let Some(segments) = said.apply(&mut packet, 0).unwrap() else {
                prop_assert!(len <= usize::from(size));
                prop_assert_eq!(&checked(&packet, 0)[UDP_LEN..], &payload[..]);
                return Ok(());
            };
            prop_assert!(!segments.is_tcp());
            let mut joined: Vec<u8> = Vec::new();
            for piece in pieces(&packet, &segments) {
                let message = checked(&piece, 0);
                prop_assert_eq!(usize::from(u16::from_be_bytes([message[4], message[5]])), message.len());
                joined.extend(&message[UDP_LEN..]);
            }
            prop_assert_eq!(joined, payload);
        }

        #[test]
        fn never_panics(
            header in any::<[u8; VNET_LEN]>(),
            mut packet in proptest::collection::vec(any::<u8>(), 0..200),
            link_len in 0usize..20,
            pulled in 0usize..200,
        ) {
            let vnet = Vnet::parse(header);
            prop_assert_eq!(vnet.emit(), header);
            if let Ok(Some(segments)) = vnet.apply(&mut packet, link_len) {
                let rest = &packet[pulled.min(packet.len())..];
                let mut to = vec![0; 300];
                let _refused = segments.cut(rest, 0, &mut to);
                let _ = (segments.largest(rest.len()), Vnet::of(Some(&segments), rest.len()));
            }
        }
    }
}
