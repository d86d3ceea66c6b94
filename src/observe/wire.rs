//! What probes need of the wire formats of [`crate::packet`]. Packets go in; echo messages, what an ICMP error is
//! about, and stacks of headers come out. It never checks the checksum of a quoted packet: routers cut it short.

use std::net::Ipv4Addr;

use crate::packet::{self, IcmpRepr, Ipv4Repr, Ipv4View, icmp, ipv4};

/// ICMP types, for socket filters.
pub(crate) const ECHO_REPLY: u8 = 0;
pub(crate) const UNREACHABLE: u8 = 3;
pub(crate) const ECHO: u8 = 8;
pub(crate) const TIME_EXCEEDED: u8 = 11;

/// The parts of an echo request or reply by which a probe is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Echo<'a> {
    pub(crate) ident: u16,
    pub(crate) seq: u16,
    pub(crate) data: &'a [u8],
}

/// What came back for a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    Reply(Echo<'a>),
    /// An ICMP error about the quoted probe; `mtu` with "fragmentation needed".
    Error {
        kind: u8,
        code: u8,
        mtu: u16,
        about: Echo<'a>,
    },
}

/// A received packet as an answer: who sent it, and what it says.
pub(crate) fn parse_answer(bytes: &[u8]) -> Option<(Ipv4Addr, Answer<'_>)> {
    let view = Ipv4View::new_checked(bytes).ok()?;
    let answer = match IcmpRepr::parse(view.payload()).ok()? {
        IcmpRepr::EchoReply { ident, seq, data } => Answer::Reply(Echo { ident, seq, data }),
        IcmpRepr::TimeExceeded { code, original } => {
            Answer::Error { kind: TIME_EXCEEDED, code, mtu: 0, about: parse_quoted(original)? }
        }
        IcmpRepr::DestUnreachable { code, mtu, original } => {
            Answer::Error { kind: UNREACHABLE, code, mtu, about: parse_quoted(original)? }
        }
        IcmpRepr::EchoRequest { .. } => return None,
    };
    Some((view.src(), answer))
}

/// The echo request at the head of a quoted packet: RFC 792 promises 8 bytes of it, RFC 1812 more.
fn parse_quoted(original: &[u8]) -> Option<Echo<'_>> {
    let view = Ipv4View::new_header(original).ok()?;
    let (head, data) = view.payload().split_first_chunk::<{ icmp::HEADER_LEN }>()?;
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    (view.protocol() == ipv4::ICMP && head[0] == ECHO).then(|| Echo { ident: word(4), seq: word(6), data })
}

/// All IPv4 headers of a packet, outermost first, and the echo request under the last; `None` if there is none.
pub(crate) fn parse_request(bytes: &[u8]) -> Option<(Vec<Ipv4Repr>, Echo<'_>)> {
    let headers = packet::stack(bytes);
    let mut payload = bytes;
    for _ in &headers {
        payload = Ipv4View::new_header(payload).ok()?.payload();
    }
    if headers.last()?.protocol != ipv4::ICMP {
        return None;
    }
    match IcmpRepr::parse(payload).ok()? {
        IcmpRepr::EchoRequest { ident, seq, data } => Some((headers, Echo { ident, seq, data })),
        IcmpRepr::EchoReply { .. } | IcmpRepr::TimeExceeded { .. } | IcmpRepr::DestUnreachable { .. } => None,
    }
}

/// An ICMP message under a stack of IPv4 headers, outermost first; `None` if there is no header or too many bytes.
pub(crate) fn emit_stack(stack: &[(Ipv4Addr, Ipv4Addr)], message: &[u8], id: u16) -> Option<Vec<u8>> {
    let ((src, dst), outer) = stack.split_last()?;
    let inner = Ipv4Repr { id, ..Ipv4Repr::new(*src, *dst, ipv4::ICMP, message.len()) };
    let bytes = packet::nest(outer, &inner.with_payload(message), id);
    u16::try_from(bytes.len()).is_ok().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIRS: [(Ipv4Addr, Ipv4Addr); 3] = [
        (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)),
        (Ipv4Addr::new(172, 16, 0, 1), Ipv4Addr::new(172, 16, 0, 2)),
        (Ipv4Addr::new(10, 128, 0, 1), Ipv4Addr::new(10, 128, 0, 2)),
    ];

    #[test]
    fn an_emitted_stack_is_a_request_under_its_headers() {
        let request = IcmpRepr::EchoRequest { ident: 7, seq: 9, data: b"probe" }.emit();
        let bytes = emit_stack(&PAIRS, &request, 1).unwrap();
        let (headers, echo) = parse_request(&bytes).unwrap();
        assert_eq!(headers.iter().map(|h| (h.src, h.dst)).collect::<Vec<_>>(), PAIRS);
        assert_eq!(echo, Echo { ident: 7, seq: 9, data: b"probe" });
        assert_eq!(emit_stack(&[], &request, 1), None);
        assert_eq!(emit_stack(&PAIRS, &[0; 65_500], 1), None);
    }

    #[test]
    fn a_reply_is_no_request() {
        let reply = IcmpRepr::EchoReply { ident: 7, seq: 9, data: b"probe" }.emit();
        assert_eq!(parse_request(&emit_stack(&PAIRS, &reply, 1).unwrap()), None);
    }

    #[test]
    fn an_error_that_quotes_only_part_of_the_probe_is_about_it() {
        let request = IcmpRepr::EchoRequest { ident: 7, seq: 9, data: &[5; 1400] }.emit();
        let quoted = emit_stack(&PAIRS[2..], &request, 1).unwrap();
        for kept in [28, 100, 548] {
            let error = IcmpRepr::DestUnreachable { code: 4, mtu: 1400, original: &quoted[..kept] }.emit();
            let bytes = emit_stack(&PAIRS[2..], &error, 1).unwrap();
            let about = Echo { ident: 7, seq: 9, data: &[5; 1400][..kept - 28] };
            let answer = Answer::Error { kind: UNREACHABLE, code: 4, mtu: 1400, about };
            assert_eq!(parse_answer(&bytes), Some((PAIRS[2].0, answer)));
        }
    }
}
