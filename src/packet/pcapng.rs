//! Blocks of pcapng files (draft-ietf-opsawg-pcapng), little-endian, nanoseconds. Interfaces, packets and counts go in;
//! bytes come out. It never keeps what it wrote: the caller knows the numbers of its interfaces.

/// Link types of the packets of an interface (draft-ietf-opsawg-pcaplinktype).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkType {
    Ethernet,
    /// No link header: IPv4 or IPv6.
    Raw,
}

impl LinkType {
    fn code(self) -> u16 {
        match self {
            Self::Ethernet => 1,
            Self::Raw => 101,
        }
    }
}

/// Which way a packet went, and how it was received: the lowest bits of `epb_flags`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Received: for this host, for many, for all, for another.
    Unicast,
    Multicast,
    Broadcast,
    Promiscuous,
    Outbound,
}

impl Direction {
    fn flags(self) -> u32 {
        let reception = match self {
            Self::Unicast => 1,
            Self::Multicast => 2,
            Self::Broadcast => 3,
            Self::Promiscuous => 4,
            Self::Outbound => return 2,
        };
        1 | reception << 2
    }
}

/// An interface as its block tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface<'a> {
    pub name: &'a str,
    pub link_type: LinkType,
    /// Bytes of a packet that are kept at most.
    pub snaplen: u32,
    /// In tcpdump's words.
    pub filter: Option<&'a str>,
}

/// A packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Number of its interface: blocks of interfaces count from 0.
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub at: u64,
    pub direction: Direction,
    /// Bytes it had.
    pub length: u32,
    /// Those that were kept.
    pub bytes: &'a [u8],
}

/// What is known of an interface at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    pub interface: u32,
    /// Nanoseconds since 1970: when its capture began, and when these were counted.
    pub since: u64,
    pub at: u64,
    /// Packets that passed the filter.
    pub received: u64,
    /// Of these, packets that are not in the file for want of room.
    pub dropped: u64,
}

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// 10 to the minus 9 seconds.
const NANOSECONDS: u8 = 9;

/// A block under construction.
struct Block(Vec<u8>);

impl Block {
    fn new(kind: u32) -> Self {
        let mut block = Self(Vec::new());
        block.word(kind).word(0);
        block
    }

    fn word(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn half(&mut self, value: u16) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A time: its upper half first, whatever the order of bytes.
    fn time(&mut self, at: u64) -> &mut Self {
        let halves = split(at);
        self.word(halves[0]).word(halves[1])
    }

    fn padded(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// An option; what is too long for one is left out.
    fn option(&mut self, code: u16, value: &[u8]) -> &mut Self {
        match u16::try_from(value.len()) {
            Ok(length) => self.half(code).half(length).padded(value),
            Err(_) => self,
        }
    }

    /// The options end, and so does the block.
    fn end(&mut self) -> Vec<u8> {
        self.word(0);
        let length = u32::try_from(self.0.len() + 4).unwrap_or(u32::MAX);
        self.word(length);
        self.0[4..8].copy_from_slice(&length.to_le_bytes());
        std::mem::take(&mut self.0)
    }
}

fn split(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
    [u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])]
}

/// The beginning of a file that `program` writes.
#[must_use]
pub fn section(program: &str) -> Vec<u8> {
    let mut block = Block::new(SECTION);
    // Version 1.0, of a length that is not known yet.
    block.word(BYTE_ORDER).half(1).half(0).word(u32::MAX).word(u32::MAX);
    block.option(3, b"Linux").option(4, program.as_bytes()).end()
}

#[must_use]
pub fn interface(of: &Interface<'_>) -> Vec<u8> {
    let mut block = Block::new(INTERFACE);
    block.half(of.link_type.code()).half(0).word(of.snaplen);
    block.option(2, of.name.as_bytes()).option(9, &[NANOSECONDS]);
    if let Some(filter) = of.filter {
        // Its first byte says that it is text.
        block.option(11, &[&[0], filter.as_bytes()].concat());
    }
    block.end()
}

#[must_use]
pub fn packet(of: &Packet<'_>) -> Vec<u8> {
    let kept = u32::try_from(of.bytes.len()).unwrap_or(u32::MAX);
    let mut block = Block::new(ENHANCED_PACKET);
    block.word(of.interface).time(of.at).word(kept).word(of.length.max(kept)).padded(of.bytes);
    block.option(2, &of.direction.flags().to_le_bytes()).end()
}

#[must_use]
pub fn statistics(of: &Statistics) -> Vec<u8> {
    let mut block = Block::new(STATISTICS);
    let time = |at: u64| split(at).map(u32::to_le_bytes).concat();
    block.word(of.interface).time(of.at).option(2, &time(of.since)).option(3, &time(of.at));
    // As dumpcap has it: what the socket dropped is what readers show as dropped by the interface.
    block.option(4, &of.received.to_le_bytes()).option(5, &of.dropped.to_le_bytes()).end()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block's parts: type, body. Checks both lengths and the alignment.
    fn parts(block: &[u8]) -> (u32, Vec<u8>) {
        let word = |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().unwrap());
        assert_eq!(block.len() % 4, 0);
        assert_eq!([word(4), word(block.len() - 4)], [u32::try_from(block.len()).unwrap(); 2]);
        (word(0), block[8..block.len() - 4].to_vec())
    }

    #[test]
    fn the_bytes_of_a_section_and_an_interface() {
        let (kind, body) = parts(&section("ab"));
        assert_eq!(kind, 0x0a0d_0d0a);
        assert_eq!(body[..8], [0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0]);
        assert_eq!(body[8..16], [0xff; 8]);
        assert_eq!(body[16..], *b"\x03\0\x05\0Linux\0\0\0\x04\0\x02\0ab\0\0\0\0\0\0");
        let of = Interface { name: "X:e@base", link_type: LinkType::Raw, snaplen: 96, filter: Some("icmp") };
        let (kind, body) = parts(&interface(&of));
        assert_eq!(kind, 1);
        assert_eq!(body[..8], [101, 0, 0, 0, 96, 0, 0, 0]);
        assert_eq!(body[8..], *b"\x02\0\x08\0X:e@base\x09\0\x01\0\x09\0\0\0\x0b\0\x05\0\0icmp\0\0\0\0\0\0\0");
    }

    #[test]
    fn the_bytes_of_a_packet_and_of_statistics() {
        let at = 0x0102_0304_0506_0708;
        let of = Packet { interface: 3, at, direction: Direction::Outbound, length: 9, bytes: b"12345" };
        let (kind, body) = parts(&packet(&of));
        assert_eq!(kind, 6);
        assert_eq!(body[..12], [3, 0, 0, 0, 4, 3, 2, 1, 8, 7, 6, 5]);
        assert_eq!(body[12..], *b"\x05\0\0\0\x09\0\0\x0012345\0\0\0\x02\0\x04\0\x02\0\0\0\0\0\0\0");
        let of = Statistics { interface: 1, since: 1, at: 2, received: 7, dropped: 5 };
        let (kind, body) = parts(&statistics(&of));
        assert_eq!(kind, 5);
        assert_eq!(body[..12], [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(body[body.len() - 16..], *b"\x05\0\x08\0\x05\0\0\0\0\0\0\0\0\0\0\0");
    }

    #[test]
    fn directions_have_the_bits_of_the_draft() {
        use Direction::{Broadcast, Multicast, Outbound, Promiscuous, Unicast};
        let flags = [Unicast, Multicast, Broadcast, Promiscuous, Outbound].map(Direction::flags);
        assert_eq!(flags, [0b00101, 0b01001, 0b01101, 0b10001, 0b10]);
    }
}
