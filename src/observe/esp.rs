//! What ESP hides and what it drops. Captured packets go in and come out as they were before they were sealed, for the
//! keys follow from the lab; namespaces go in and the kernel's drops come out, under the names that the fast path has. It
//! never keeps a sequence number: what it opens was not meant for it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;

use netlink_packet_xfrm::XfrmMessage;

use super::Context;
use crate::error::{Context as _, Kind, Result};
use crate::fastpath::Reason;
use crate::model::{BASE, Lab, Link, NetId, NodeId};
use crate::netlink::{Request, Socket};
use crate::packet::esp::{Association, EspView, Opener};
use crate::packet::{Ipv4View, ipv4, stack};
use crate::plan::security;

type Pair = (Ipv4Addr, Ipv4Addr);

/// A header of a stack, by its place from the outermost, and the SPI behind it.
pub(super) type Sealed = Vec<(usize, u32)>;

fn protected(lab: &Lab) -> impl Iterator<Item = &Link> {
    lab.networks.iter().flat_map(|n| &n.links).filter(|l| l.security.is_some())
}

/// The associations of all protected links, by their addresses and SPI.
#[derive(Debug)]
pub(super) struct Keys(BTreeMap<(Pair, u32), Association>);

impl Keys {
    pub(super) fn of(lab: &Lab) -> Self {
        let all = protected(lab).flat_map(|link| security::protected(lab, link));
        Self(all.map(|(pair, association)| ((pair, association.spi), association)).collect())
    }

    /// A whole packet as it was before its links sealed it, and where they did; what no key opens stays as it is.
    pub(super) fn open(&self, packet: &[u8]) -> (Vec<u8>, Sealed) {
        let (packet, sealed, _) = self.open_keeping(packet);
        (packet, sealed)
    }

    /// The same, with the headers before ESP as they were on the wire, each with its place.
    pub(super) fn open_keeping(&self, packet: &[u8]) -> (Vec<u8>, Sealed, BTreeMap<usize, Vec<u8>>) {
        let (mut packet, mut sealed, mut kept) = (packet.to_vec(), Sealed::new(), BTreeMap::new());
        while let Some((index, spi, opened)) = self.open_one(&packet) {
            let start = outer_len(&packet, index).unwrap_or(0);
            kept.insert(index, packet.get(start..start + ipv4::HEADER_LEN).unwrap_or_default().to_vec());
            packet = opened;
            sealed.push((index, spi));
        }
        (packet, sealed, kept)
    }

    /// Takes off the outermost ESP: the place of the header before it, its SPI, and what remains.
    fn open_one(&self, packet: &[u8]) -> Option<(usize, u32, Vec<u8>)> {
        let headers = stack(packet);
        let index = headers.len().checked_sub(1)?;
        let mut header = headers[index];
        if header.protocol != ipv4::ESP {
            return None;
        }
        let start = outer_len(packet, index)?;
        let mut esp = Ipv4View::new_checked(&packet[start..]).ok()?.payload().to_vec();
        let spi = EspView::new_checked(&esp).ok()?.spi();
        let association = self.0.get(&((header.src, header.dst), spi))?;
        let opened = Opener::new(association).open(&mut esp).ok()?;
        header.protocol = opened.next_header;
        let rest = header.with_payload(&esp[opened.payload]);
        Some((index, spi, [&packet[..start], &rest].concat()))
    }
}

/// Bytes of the first `count` headers.
fn outer_len(packet: &[u8], count: usize) -> Option<usize> {
    (0..count).try_fold(0, |at, _| Some(at + Ipv4View::new_header(&packet[at..]).ok()?.header_len()))
}

/// Where a packet of network `net` with these headers must be sealed: under the header of each protected link.
pub(super) fn expected(lab: &Lab, net: NetId, headers: &[Pair]) -> Sealed {
    let (mut vi, mut sealed) = (Some(net).filter(|n| *n != BASE), Sealed::new());
    for (index, pair) in headers.iter().enumerate().rev().skip(1) {
        let Some(id) = vi.filter(|n| *n != BASE) else { break };
        sealed.extend(spi(lab, id, *pair).map(|spi| (index, spi)));
        vi = lab.underlay(id, *pair);
    }
    sealed.reverse();
    sealed
}

/// The SPI behind the link header with these addresses, where that link of `vi` is protected.
pub(super) fn spi(lab: &Lab, vi: NetId, pair: Pair) -> Option<u32> {
    let all = lab.net(vi).links.iter().filter(|l| l.security.is_some());
    let mut all = all.flat_map(|link| security::protected(lab, link));
    all.find(|(of, _)| *of == pair).map(|(_, association)| association.spi)
}

/// What the kernel dropped because of ESP on a base node, by the fast path's names. What these have no name for keeps the
/// kernel's; nothing at all where no protected link ends there.
pub(super) fn kernel_drops(ctx: &Context<'_>, node: NodeId) -> Result<BTreeMap<String, u64>> {
    let ends = protected(ctx.lab).flat_map(|l| &l.ends);
    let namespaces: BTreeSet<String> =
        ends.filter(|e| ctx.lab.site(e).base == node).map(|e| ctx.lab.below_netns(e)).collect();
    let mut drops = BTreeMap::new();
    for ns in namespaces {
        let read = ctx.namespaces.run(&ns, read)?;
        let (statistics, integrity) =
            read.doing(Kind::Kernel, || format!("cannot read what ESP dropped in namespace {ns}"))?;
        for (name, count) in named(&statistics, integrity) {
            *drops.entry(name).or_insert(0) += count;
        }
    }
    Ok(drops)
}

/// `xfrm_stat` of the calling thread's namespace, and the packets that failed the integrity check.
fn read() -> io::Result<(String, u64)> {
    let statistics = std::fs::read_to_string("/proc/thread-self/net/xfrm_stat")?;
    let associations = Socket::open_xfrm()?.dump(&Request::dump_associations())?;
    Ok((statistics, associations.iter().map(integrity_failures).sum()))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a dump of associations holds nothing else")]
fn integrity_failures(message: &XfrmMessage) -> u64 {
    match message {
        XfrmMessage::AddSa(a) => u64::from(a.user_sa_info.stats.integrity_failed),
        _ => 0,
    }
}

/// Counters of `xfrm_stat` (linux/Documentation/networking/xfrm_proc.rst) by our names. The kernel counts a wrong ICV and
/// a packet that is cut or badly padded alike, and the former once more with the association.
fn named(statistics: &str, integrity: u64) -> BTreeMap<String, u64> {
    let ours = [Reason::EspAuth, Reason::EspMalformed, Reason::EspReplay, Reason::EspRequired];
    let ours = ours.into_iter().chain([Reason::EspUnexpected, Reason::EspSequence]);
    let mut named: BTreeMap<String, u64> = ours.map(|r| (r.as_str().to_owned(), 0)).collect();
    for line in statistics.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(count)) = (words.next(), words.next().and_then(|c| c.parse::<u64>().ok()))
        else {
            continue;
        };
        let reason = match name {
            "XfrmInStateProtoError" | "XfrmInHdrError" | "XfrmInBufferError" => Reason::EspMalformed.as_str(),
            "XfrmInStateSeqError" => Reason::EspReplay.as_str(),
            "XfrmInTmplMismatch" => Reason::EspRequired.as_str(),
            "XfrmInNoStates" => Reason::EspUnexpected.as_str(),
            "XfrmOutStateSeqError" => Reason::EspSequence.as_str(),
            other if count > 0 => other,
            _ => continue,
        };
        *named.entry(reason.to_owned()).or_insert(0) += count;
    }
    let failed = named.get(Reason::EspMalformed.as_str()).map_or(0, |all| integrity.min(*all));
    named.entry(Reason::EspMalformed.as_str().to_owned()).and_modify(|all| *all -= failed);
    named.insert(Reason::EspAuth.as_str().to_owned(), failed);
    named
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model;
    use crate::packet::esp::Sealer;
    use crate::packet::{Ecn, Ipv4Repr, nest};

    fn lab() -> Lab {
        let text = include_str!("../../labs/security.yaml");
        model::parse(Path::new("lab.yaml"), text).unwrap()
    }

    /// A packet under the header of a link, sealed as its first end sends it.
    fn sealed(lab: &Lab, link: &Link, packet: &[u8]) -> Vec<u8> {
        let association = &security::associations(lab, link).unwrap()[0];
        let (suite, (src, dst)) = (association.suite, link.pairs(0).next().unwrap());
        let mut esp = vec![0; suite.sealed_len(packet.len())];
        esp[suite.header_len()..][..packet.len()].copy_from_slice(packet);
        Sealer::new(association).seal(&mut esp, packet.len(), ipv4::IPIP).unwrap();
        Ipv4Repr { protocol: ipv4::ESP, ..Ipv4Repr::ipip(src, dst, esp.len(), Ecn::NotEct, 1) }
            .with_payload(&esp)
    }

    #[test]
    fn what_links_sealed_is_opened_and_said() {
        let lab = lab();
        let link = protected(&lab).next().unwrap();
        let base = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let ends = link.ends.each_ref().map(|e| lab.address(e.node).unwrap());
        let inner = Ipv4Repr::new(ends[0], ends[1], 17, 0).with_payload(b"probe");
        let packet = nest(&[base], &sealed(&lab, link, &inner), 1);
        let (clear, found) = Keys::of(&lab).open(&packet);
        let headers: Vec<Pair> = stack(&clear).iter().map(|h| (h.src, h.dst)).collect();
        assert_eq!(headers, [base, link.pairs(0).next().unwrap(), (ends[0], ends[1])]);
        assert!(clear.ends_with(&inner));
        assert_eq!(found, expected(&lab, link.id.net, &headers));
        assert_eq!(found.len(), 1);
        let mut changed = packet.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(Keys::of(&lab).open(&changed), (changed, Vec::new()));
        for cut in 0..packet.len() {
            let _ = Keys::of(&lab).open(&packet[..cut]);
        }
    }

    #[test]
    fn the_kernels_counters_get_our_names() {
        let statistics = "XfrmInError 0\nXfrmInNoStates 1\nXfrmInStateProtoError 5\nXfrmInStateSeqError 2\n\
                          XfrmInTmplMismatch 3\nXfrmOutStateSeqError 4\nXfrmOutNoStates 7\nodd\n";
        let named = named(statistics, 4);
        let of = |reason: Reason| named[reason.as_str()];
        assert_eq!((of(Reason::EspAuth), of(Reason::EspMalformed), of(Reason::EspReplay)), (4, 1, 2));
        assert_eq!((of(Reason::EspRequired), of(Reason::EspUnexpected), of(Reason::EspSequence)), (3, 1, 4));
        assert_eq!((named["XfrmOutNoStates"], named.len()), (7, 7));
    }
}
