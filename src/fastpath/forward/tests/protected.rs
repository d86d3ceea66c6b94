//! Chains whose links are protected by ESP: what is on the wire, what arrives, and what is refused.

use super::*;
use crate::fastpath::config::Associations;
use crate::packet::esp::{Association, EspView, Key, Opener, Sealer, Suite};

fn association(suite: Suite, src: Ipv4Addr, dst: Ipv4Addr) -> Association {
    let mut key = [0; Key::LEN];
    key[..8].copy_from_slice(&[src.octets(), dst.octets()].concat());
    Association { spi: 0x1000 + u32::from(src.octets()[3]), suite, key: Key::new(key) }
}

impl Chain {
    /// Protects the links for which `suite` gives one, by level and left end.
    fn protect(mut self, suite: impl Fn(usize, usize) -> Option<Suite>) -> Self {
        for level in 1..=self.at.len() {
            for left in 0..self.at[level - 1].len() - 1 {
                for (j, to) in [(left, left + 1), (left + 1, left)] {
                    let i = self.interface(level, j, to);
                    let interface = &mut self.config.interfaces[i];
                    let (local, remote) = (interface.local, interface.remote);
                    interface.security = suite(level, left).map(|suite| Associations {
                        outward: association(suite, local, remote),
                        inward: association(suite, remote, local),
                    });
                }
            }
        }
        self.start();
        self
    }
}

fn protected_line(suite: Suite) -> Chain {
    line().protect(|_, _| Some(suite))
}

/// The link from the first node of [`line`] to the second.
fn first_link() -> (Ipv4Addr, Ipv4Addr) {
    (link_addr(1, 0, 0), link_addr(1, 0, 1))
}

/// A base packet with this ESP packet under the link header of [`first_link`].
fn arriving_sealed(esp: &[u8]) -> Vec<u8> {
    let (src, dst) = first_link();
    let link = Ipv4Repr { protocol: ipv4::ESP, ..Ipv4Repr::ipip(src, dst, esp.len(), Ecn::NotEct, 9) };
    packet::nest(&[(base_addr(0), base_addr(1))], &link.with_payload(esp), 9)
}

fn sealed(sealer: &mut Sealer, payload: &[u8], next_header: u8) -> Vec<u8> {
    let suite = sealer.suite();
    let mut bytes = vec![0; suite.sealed_len(payload.len())];
    bytes[suite.header_len()..][..payload.len()].copy_from_slice(payload);
    sealer.seal(&mut bytes, payload.len(), next_header).unwrap();
    bytes
}

/// B10, B11: the link header stays, what is behind it is ESP without a byte in clear, and it arrives as it was.
#[test]
fn b11_nothing_behind_the_link_header_is_in_clear() {
    for suite in Suite::ALL {
        let mut chain = protected_line(suite);
        let net = first_to_last(&chain);
        let (plain, _, _) = line().walk(&net);
        let (sent, outcome, inner) = chain.walk(&net);
        assert_eq!(outcome, Outcome::Deliver(chain.interface(1, 2, 1)));
        assert_eq!(inner, line().walk(&net).2);
        for (sent, plain) in sent.iter().zip(&plain) {
            let (headers, clear) = (packet::stack(sent), packet::stack(plain));
            let pairs = |h: &[Ipv4Repr]| h.iter().map(|h| (h.src, h.dst)).collect::<Vec<_>>();
            assert_eq!(pairs(&headers), pairs(&clear)[..2]);
            assert_eq!((headers[0].protocol, headers[1].protocol), (ipv4::IPIP, ipv4::ESP));
            assert_eq!(headers[1].payload_len, suite.sealed_len(net.len()));
            assert!(headers.iter().all(|h| h.dont_fragment && h.ttl == 64));
            assert!(!sent.windows(8).any(|w| w == b"payload!" || w == &net[12..20]));
        }
        let esp = EspView::new_checked(&sent[0][40..]).unwrap();
        assert_eq!((esp.spi(), esp.sequence()), (0x1000 + u32::from(first_link().0.octets()[3]), 1));
    }
}

/// B10: one protected link changes that link and no other.
#[test]
fn b10_other_links_stay_as_they_are() {
    let mut chain = line().protect(|_, left| (left == 1).then_some(Suite::Aes128Gcm));
    let net = first_to_last(&chain);
    let (sent, _, _) = chain.walk(&net);
    let (plain, _, _) = line().walk(&net);
    assert_eq!(sent[0], plain[0]);
    assert_eq!(packet::stack(&sent[1])[1].protocol, ipv4::ESP);
}

/// The ECN bits of the packet show on the header outside ESP, and those of that header get into it.
#[test]
fn ecn_passes_esp() {
    let mut chain = protected_line(Suite::Aes256Gcm);
    let net = fixed(edited(first_to_last(&chain), 1, 2), 0);
    let (sent, _, _) = chain.walk(&net);
    assert_eq!(packet::stack(&sent[0]).iter().map(|h| h.tos).collect::<Vec<_>>(), [2, 2]);
    let mut chain = protected_line(Suite::Aes256Gcm);
    let mut sealer = Sealer::new(&association(Suite::Aes256Gcm, first_link().0, first_link().1));
    let marked = fixed(edited(arriving_sealed(&sealed(&mut sealer, &net, ipv4::IPIP)), 21, 3), 20);
    let (_, bytes) = chain.give(Input::Base(1), &marked);
    let mut esp = bytes[40..].to_vec();
    let second = (link_addr(1, 1, 1), link_addr(1, 1, 2));
    let opened = Opener::new(&association(Suite::Aes256Gcm, second.0, second.1)).open(&mut esp).unwrap();
    assert_eq!(esp[opened.payload][1], 3);
}

#[test]
fn b11_drops_have_reasons() {
    let suite = Suite::Aes256CbcSha256;
    let net = first_to_last(&line());
    let (src, dst) = first_link();
    let own = association(suite, src, dst);
    let sealer = || Sealer::new(&own);
    let good = sealed(&mut sealer(), &net, ipv4::IPIP);
    let other_key = Association { key: Key::new([9; Key::LEN]), ..own.clone() };
    let other_spi = Association { spi: own.spi + 1, ..own.clone() };
    let cut = |len: usize| arriving_sealed(&good[..len]);
    let cases = [
        (Reason::EspRequired, arriving(&net)),
        (Reason::EspAuth, arriving_sealed(&edited(good.clone(), 60, 0))),
        (Reason::EspAuth, arriving_sealed(&sealed(&mut Sealer::new(&other_key), &net, ipv4::IPIP))),
        (Reason::EspUnexpected, arriving_sealed(&sealed(&mut Sealer::new(&other_spi), &net, ipv4::IPIP))),
        (Reason::EspReplay, arriving_sealed(&edited(good.clone(), 7, 0))),
        (Reason::EspMalformed, cut(0)),
        (Reason::EspMalformed, cut(7)),
        (Reason::EspMalformed, cut(39)),
        (Reason::EspAuth, cut(good.len() - 1)),
        (Reason::NotIpip, arriving_sealed(&sealed(&mut sealer(), &net, ipv4::UDP))),
        (Reason::NotIpv4, arriving_sealed(&sealed(&mut sealer(), b"no packet", ipv4::IPIP))),
        (Reason::Fragment, fixed(edited(arriving_sealed(&good), 26, 0x20), 20)),
        (Reason::EspUnexpected, fixed(edited(arriving_sealed(&good), 35, 99), 20)),
    ];
    for (number, (reason, bytes)) in cases.into_iter().enumerate() {
        let mut chain = protected_line(suite);
        assert_eq!(chain.give(Input::Base(1), &bytes).0, Outcome::Drop(reason), "case {number}");
        assert_eq!(chain.forwarder.counters(1).drops(reason), 1);
        assert_eq!((chain.forwarder.counters(1).read(), chain.forwarder.counters(1).ended()), (1, 1));
    }
    let mut chain = protected_line(suite);
    assert!(matches!(chain.give(Input::Base(1), &arriving_sealed(&good)).0, Outcome::Send { .. }));
    assert_eq!(chain.give(Input::Base(1), &arriving_sealed(&good)).0, Outcome::Drop(Reason::EspReplay));
    let mut open = line();
    assert_eq!(open.give(Input::Base(1), &arriving_sealed(&good)).0, Outcome::Drop(Reason::EspUnexpected));
}

/// Between link addresses that are network addresses of the VI below: cleartext is refused there too, and ESP for a link
/// that is not protected is the partition's own, as in the kernel.
#[test]
fn stacked_links_are_protected_in_the_partition_below() {
    let stacked = || Chain::new(2, &[&[0, 1], &[0, 1]]);
    let upper = |level, _| (level == 2).then_some(Suite::Aes128Gcm);
    let mut chain = stacked().protect(upper);
    let net = first_to_last(&chain);
    let (sent, outcome, inner) = chain.walk(&net);
    assert_eq!((outcome, &inner), (Outcome::Deliver(chain.interface(2, 1, 0)), &net));
    let protocols: Vec<u8> = packet::stack(&sent[0]).iter().map(|h| h.protocol).collect();
    assert_eq!(protocols, [ipv4::IPIP, ipv4::IPIP, ipv4::ESP]);

    let (clear, _, _) = stacked().walk(&net);
    assert_eq!(chain.give(Input::Base(1), &clear[0]).0, Outcome::Drop(Reason::EspRequired));
    let mut open = stacked();
    let lower = open.interface(1, 1, 0);
    assert_eq!(open.give(Input::Base(1), &sent[0]).0, Outcome::Deliver(lower));
}

proptest! {
    /// Whatever is protected below, with whatever suite: the packet arrives as it would without.
    #[test]
    fn b10_security_changes_nothing_that_arrives((base, levels) in topology(), suites: [u8; 8], tos: u8) {
        let levels: Vec<&[usize]> = levels.iter().map(Vec::as_slice).collect();
        let suite = |level: usize, left: usize| {
            Suite::ALL.get(usize::from(suites[(level * 3 + left) % 8] % 4)).copied()
        };
        let mut chain = Chain::new(base, &levels).protect(suite);
        let packet = fixed(edited(first_to_last(&chain), 1, tos), 0);
        let (_, outcome, received) = chain.walk(&packet);
        let (_, expected, plain) = Chain::new(base, &levels).walk(&packet);
        prop_assert_eq!((outcome, received), (expected, plain));
    }

    #[test]
    fn arbitrary_esp_is_refused(esp in proptest::collection::vec(any::<u8>(), 0..120), ours: bool) {
        let mut esp = esp;
        if ours && esp.len() >= 8 {
            esp[..4].copy_from_slice(&association(Suite::Aes128Gcm, first_link().0, first_link().1).spi.to_be_bytes());
        }
        let mut chain = protected_line(Suite::Aes128Gcm);
        let outcome = chain.give(Input::Base(1), &arriving_sealed(&esp)).0;
        prop_assert!(matches!(outcome, Outcome::Drop(_)));
        prop_assert_eq!(chain.forwarder.counters(1).ended(), 1);
    }
}
