//! The IPv4 header (RFC 791). Bytes go in through a checked view or a [`Ipv4Repr`], headers come out. It never
//! keeps options: a header it emits has 20 bytes.
//!
//! ```text
//!  0      1      2-3           4-5  6-7                  8    9         10-11     12-15  16-19
//!  ver|ihl tos    total length  id   flags(3)|offset(13)  ttl  protocol  checksum  src    dst
//! ```

use std::net::Ipv4Addr;

use super::{Malformed, checksum};

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;
/// Protocol numbers.
pub const ICMP: u8 = 1;
pub const IPIP: u8 = 4;
pub const TCP: u8 = 6;
pub const ESP: u8 = 50;
pub const UDP: u8 = 17;
/// TTL that ipip devices and hosts send with here.
pub const DEFAULT_TTL: u8 = 64;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// The two low bits of the TOS byte (RFC 3168, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ecn {
    NotEct,
    Ect1,
    Ect0,
    Ce,
}

impl Ecn {
    #[must_use]
    pub fn of_tos(tos: u8) -> Self {
        match tos & 3 {
            0 => Self::NotEct,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Self::NotEct => 0,
            Self::Ect1 => 1,
            Self::Ect0 => 2,
            Self::Ce => 3,
        }
    }

    /// Of an outer header put on a packet with this ECN: RFC 3168 section 9.1.1 full functionality, and Linux
    /// `INET_ECN_encapsulate`.
    #[must_use]
    pub fn encapsulate(self) -> Self {
        match self {
            Self::Ce => Self::Ect0,
            Self::NotEct | Self::Ect0 | Self::Ect1 => self,
        }
    }

    /// Of the inner header after a header with ECN `outer` is taken off; `None` where the packet must be dropped.
    /// Linux `__INET_ECN_decapsulate` (RFC 6040, section 4.2).
    #[must_use]
    pub fn decapsulate(self, outer: Self) -> Option<Self> {
        match (outer, self) {
            (Self::Ce, Self::NotEct) => None,
            (Self::Ce, Self::Ect0 | Self::Ect1 | Self::Ce) => Some(Self::Ce),
            (Self::Ect1, Self::Ect0) => Some(Self::Ect1),
            (Self::NotEct | Self::Ect0 | Self::Ect1, inner) => Some(inner),
        }
    }
}

/// A header as plain values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Repr {
    pub tos: u8,
    pub id: u16,
    pub dont_fragment: bool,
    pub more_fragments: bool,
    /// In units of 8 bytes.
    pub fragment_offset: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    /// Bytes after the header, as the total length field says.
    pub payload_len: usize,
}

impl Ipv4Repr {
    /// TTL 64, not a fragment, DF clear.
    #[must_use]
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload_len: usize) -> Self {
        Self {
            tos: 0,
            id: 0,
            dont_fragment: false,
            more_fragments: false,
            fragment_offset: 0,
            ttl: DEFAULT_TTL,
            protocol,
            src,
            dst,
            payload_len,
        }
    }

    /// The header that a Linux ipip device with a fixed TTL of 64 puts in front of `payload_len` bytes.
    #[must_use]
    pub fn ipip(src: Ipv4Addr, dst: Ipv4Addr, payload_len: usize, ecn: Ecn, id: u16) -> Self {
        Self { tos: ecn.bits(), id, dont_fragment: true, ..Self::new(src, dst, IPIP, payload_len) }
    }

    /// # Errors
    /// See [`Ipv4View::new_checked`]; and if the checksum is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let view = Ipv4View::new_checked(bytes)?;
        view.verify_checksum()?;
        Ok(view.repr())
    }

    /// Writes the 20 header bytes, checksum included.
    ///
    /// # Panics
    /// If `buffer` is shorter than [`HEADER_LEN`].
    pub fn emit(&self, buffer: &mut [u8]) {
        let total = u16::try_from(HEADER_LEN + self.payload_len).unwrap_or(u16::MAX);
        let mut flags = self.fragment_offset & OFFSET_MASK;
        if self.dont_fragment {
            flags |= DONT_FRAGMENT;
        }
        if self.more_fragments {
            flags |= MORE_FRAGMENTS;
        }
        let header = &mut buffer[..HEADER_LEN];
        header[0] = 0x45;
        header[1] = self.tos;
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[4..6].copy_from_slice(&self.id.to_be_bytes());
        header[6..8].copy_from_slice(&flags.to_be_bytes());
        header[8] = self.ttl;
        header[9] = self.protocol;
        header[10..12].fill(0);
        header[12..16].copy_from_slice(&self.src.octets());
        header[16..20].copy_from_slice(&self.dst.octets());
        let field = checksum::checksum(0, header);
        header[10..12].copy_from_slice(&field.to_be_bytes());
    }

    /// The header, then `payload`; its length wins over [`Ipv4Repr::payload_len`].
    #[must_use]
    pub fn with_payload(&self, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN];
        Self { payload_len: payload.len(), ..*self }.emit(&mut bytes);
        bytes.extend_from_slice(payload);
        bytes
    }
}

/// Bytes known to start with a whole IPv4 header.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4View<'a> {
    bytes: &'a [u8],
}

impl<'a> Ipv4View<'a> {
    /// # Errors
    /// If the bytes are not version 4, or hold less than the header or the total length; bytes beyond the total
    /// length are no error (RFC 894 padding). The checksum is not looked at.
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let view = Self::new_header(bytes)?;
        if usize::from(view.total_len()) > bytes.len() {
            return Err(Malformed::Truncated);
        }
        Ok(view)
    }

    /// As [`Self::new_checked`], but the payload may be cut short: captures, and headers quoted in ICMP errors.
    ///
    /// # Errors
    /// If the bytes do not start with a whole IPv4 header.
    pub fn new_header(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let first = *bytes.first().ok_or(Malformed::Truncated)?;
        if first >> 4 != 4 {
            return Err(Malformed::Version);
        }
        let header_len = usize::from(first & 0xf) * 4;
        if header_len < HEADER_LEN {
            return Err(Malformed::Length);
        }
        if bytes.len() < header_len {
            return Err(Malformed::Truncated);
        }
        let view = Self { bytes };
        if usize::from(view.total_len()) < header_len {
            return Err(Malformed::Length);
        }
        Ok(view)
    }

    /// # Errors
    /// [`Malformed::Checksum`].
    pub fn verify_checksum(&self) -> Result<(), Malformed> {
        let good = checksum::verify(0, &self.bytes[..self.header_len()]);
        if good { Ok(()) } else { Err(Malformed::Checksum) }
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn addr(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::new(self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3])
    }

    /// 20 to 60 bytes.
    #[must_use]
    pub fn header_len(&self) -> usize {
        usize::from(self.bytes[0] & 0xf) * 4
    }

    #[must_use]
    pub fn has_options(&self) -> bool {
        self.header_len() > HEADER_LEN
    }

    #[must_use]
    pub fn tos(&self) -> u8 {
        self.bytes[1]
    }

    #[must_use]
    pub fn ecn(&self) -> Ecn {
        Ecn::of_tos(self.bytes[1])
    }

    /// Header and payload, bytes.
    #[must_use]
    pub fn total_len(&self) -> u16 {
        self.word(2)
    }

    #[must_use]
    pub fn id(&self) -> u16 {
        self.word(4)
    }

    #[must_use]
    pub fn dont_fragment(&self) -> bool {
        self.word(6) & DONT_FRAGMENT != 0
    }

    /// Whether it is a part of a larger packet.
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        self.word(6) & (MORE_FRAGMENTS | OFFSET_MASK) != 0
    }

    #[must_use]
    pub fn ttl(&self) -> u8 {
        self.bytes[8]
    }

    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.bytes[9]
    }

    #[must_use]
    pub fn src(&self) -> Ipv4Addr {
        self.addr(12)
    }

    #[must_use]
    pub fn dst(&self) -> Ipv4Addr {
        self.addr(16)
    }

    /// What follows the header, up to the total length or the end of the bytes.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        let end = usize::from(self.total_len()).min(self.bytes.len());
        &self.bytes[self.header_len()..end]
    }

    /// All header fields; options are left out.
    #[must_use]
    pub fn repr(&self) -> Ipv4Repr {
        let flags = self.word(6);
        Ipv4Repr {
            tos: self.tos(),
            id: self.id(),
            dont_fragment: flags & DONT_FRAGMENT != 0,
            more_fragments: flags & MORE_FRAGMENTS != 0,
            fragment_offset: flags & OFFSET_MASK,
            ttl: self.ttl(),
            protocol: self.protocol(),
            src: self.src(),
            dst: self.dst(),
            payload_len: usize::from(self.total_len()) - self.header_len(),
        }
    }
}

/// A checked header that can be changed in place; the checksum follows each change (RFC 1624).
#[derive(Debug)]
pub struct Ipv4Mut<'a> {
    bytes: &'a mut [u8],
}

impl<'a> Ipv4Mut<'a> {
    /// # Errors
    /// As [`Ipv4View::new_header`].
    pub fn new_header(bytes: &'a mut [u8]) -> Result<Self, Malformed> {
        Ipv4View::new_header(bytes)?;
        Ok(Self { bytes })
    }

    #[must_use]
    pub fn view(&self) -> Ipv4View<'_> {
        Ipv4View { bytes: self.bytes }
    }

    fn set_word(&mut self, at: usize, new: u16) {
        let old = u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]]);
        let field = u16::from_be_bytes([self.bytes[10], self.bytes[11]]);
        self.bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
        self.bytes[10..12].copy_from_slice(&checksum::update(field, old, new).to_be_bytes());
    }

    /// One less, not below zero.
    pub fn decrement_ttl(&mut self) {
        let ttl = self.bytes[8].saturating_sub(1);
        self.set_word(8, u16::from_be_bytes([ttl, self.bytes[9]]));
    }

    /// One more, not above 255: for a kernel that will take it off again.
    pub fn increment_ttl(&mut self) {
        let ttl = self.bytes[8].saturating_add(1);
        self.set_word(8, u16::from_be_bytes([ttl, self.bytes[9]]));
    }

    pub fn set_ecn(&mut self, ecn: Ecn) {
        let tos = self.bytes[1] & !3 | ecn.bits();
        self.set_word(0, u16::from_be_bytes([self.bytes[0], tos]));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn repr() -> impl Strategy<Value = Ipv4Repr> {
        let flags = (any::<bool>(), any::<bool>(), 0u16..0x2000);
        (any::<(u8, u16, u8, u8, u32, u32)>(), flags, 0usize..1500).prop_map(|(f, flags, payload_len)| {
            Ipv4Repr {
                tos: f.0,
                id: f.1,
                dont_fragment: flags.0,
                more_fragments: flags.1,
                fragment_offset: flags.2,
                ttl: f.2,
                protocol: f.3,
                src: f.4.into(),
                dst: f.5.into(),
                payload_len,
            }
        })
    }

    #[test]
    fn malformed_headers() {
        let good = Ipv4Repr::new([1, 2, 3, 4].into(), [5, 6, 7, 8].into(), 17, 4).with_payload(b"abcd");
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            Ipv4Repr::parse(&bytes)
        };
        assert_eq!(Ipv4Repr::parse(&[]), Err(Malformed::Truncated));
        assert_eq!(Ipv4Repr::parse(&good[..19]), Err(Malformed::Truncated));
        assert_eq!(Ipv4Repr::parse(&good[..23]), Err(Malformed::Truncated));
        assert_eq!(with(0, 0x65), Err(Malformed::Version));
        assert_eq!(with(0, 0x44), Err(Malformed::Length));
        assert_eq!(with(3, 19), Err(Malformed::Length));
        assert_eq!(with(8, 63), Err(Malformed::Checksum));
    }

    /// RFC 3168 section 9.1 and the kernel's `inet_ecn.h`.
    #[test]
    fn ecn_table() {
        use Ecn::{Ce, Ect0, Ect1, NotEct};
        assert_eq!([NotEct, Ect1, Ect0, Ce].map(Ecn::encapsulate), [NotEct, Ect1, Ect0, Ect0]);
        for outer in [NotEct, Ect1, Ect0] {
            for inner in [NotEct, Ect1, Ect0, Ce] {
                let raised = outer == Ect1 && inner == Ect0;
                assert_eq!(inner.decapsulate(outer), Some(if raised { Ect1 } else { inner }));
            }
        }
        assert_eq!(NotEct.decapsulate(Ce), None);
        assert_eq!([Ect1, Ect0, Ce].map(|i| i.decapsulate(Ce)), [Some(Ce); 3]);
    }

    proptest! {
        #[test]
        fn parse_of_emit(repr in repr()) {
            let bytes = repr.with_payload(&vec![0; repr.payload_len]);
            prop_assert_eq!(Ipv4Repr::parse(&bytes), Ok(repr));
        }

        #[test]
        fn etherparse_agrees(repr in repr()) {
            let bytes = repr.with_payload(&vec![0; repr.payload_len]);
            let (theirs, _) = etherparse::Ipv4Header::from_slice(&bytes).unwrap();
            prop_assert_eq!(theirs.header_checksum, theirs.calc_header_checksum());
            prop_assert_eq!(theirs.source, repr.src.octets());
            prop_assert_eq!(theirs.identification, repr.id);
            prop_assert_eq!(theirs.fragment_offset.value(), repr.fragment_offset);
        }

        #[test]
        fn changes_keep_the_checksum(repr in repr(), ecn in 0u8..4) {
            let mut bytes = repr.with_payload(&vec![0; repr.payload_len]);
            let mut header = Ipv4Mut::new_header(&mut bytes).unwrap();
            header.decrement_ttl();
            header.set_ecn(Ecn::of_tos(ecn));
            let tos = repr.tos & !3 | ecn;
            let expected = Ipv4Repr { ttl: repr.ttl.saturating_sub(1), tos, ..repr };
            prop_assert_eq!(Ipv4Repr::parse(&bytes), Ok(expected));
            let mut full = [0; HEADER_LEN];
            expected.emit(&mut full);
            prop_assert_eq!(&bytes[..HEADER_LEN], &full[..]);
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(view) = Ipv4View::new_checked(&bytes) {
                let _ = (view.repr(), view.payload(), view.verify_checksum());
            }
            let _ = Ipv4Repr::parse(&bytes);
        }
    }
}
