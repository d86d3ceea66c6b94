//! Keys and SPIs of protected links, and the kernel's part of them. A lab and one of its links go in; the two security
//! associations of the link and the operations for the ends that the kernel carries come out. It never draws a key:
//! keys are derived from what the file says, so that equal files give equal plans. They are no secret to who has the file.

use std::net::Ipv4Addr;

use hkdf::Hkdf;
use sha2::Sha256;

use super::{Direction, Op};
use crate::fastpath::config::Associations;
use crate::model::{EndId, Lab, Link, Strand};
use crate::packet::esp::{Association, Key};

/// All the secret there is (HKDF's input, RFC 5869): the keys are as known as the file.
const SECRET: &[u8] = b"vilab: keys of protected links, version 1";
/// Set in every SPI, so that none is one of the 256 reserved ones.
const SPI_BIT: u32 = 1 << 31;

/// How `link` is protected, by the side that sends; `None` where it is not.
///
/// A key and its SPI depend on the names of the VI, the link and the sender, and on the suite, and on nothing else in the
/// file. An SPI need only be unique for its destination, and each link address is the destination of one link.
#[must_use]
pub fn associations(lab: &Lab, link: &Link) -> Option<[Association; 2]> {
    derived(lab, link, None)
}

/// The same for one strand of a link: each has keys and sequence numbers of its own, so that the anti-replay window
/// (RFC 4303, section 3.4.3) of one does not close while another is slow. They depend on the name of its underlay, too.
#[must_use]
pub fn strand_associations(lab: &Lab, link: &Link, strand: &Strand) -> Option<[Association; 2]> {
    derived(lab, link, Some(&lab.net(strand.below).name))
}

/// All that protects packets of a link or its strands, with the link addresses they are sent between.
#[must_use]
pub fn protected(lab: &Lab, link: &Link) -> Vec<((Ipv4Addr, Ipv4Addr), Association)> {
    let of = |both: Option<[Association; 2]>, [a, b]: [Option<Ipv4Addr>; 2]| {
        let pairs = a.zip(b).map(|(a, b)| [(a, b), (b, a)]);
        pairs.zip(both).map(|(pairs, both)| pairs.into_iter().zip(both)).into_iter().flatten()
    };
    match &link.parallel {
        None => of(associations(lab, link), link.ends.each_ref().map(|e| e.link_addr)).collect(),
        Some(parallel) => {
            let strands = parallel.strands.iter();
            strands.flat_map(|s| of(strand_associations(lab, link, s), s.link_addrs)).collect()
        }
    }
}

fn derived(lab: &Lab, link: &Link, underlay: Option<&str>) -> Option<[Association; 2]> {
    let suite = link.security?;
    let secret = Hkdf::<Sha256>::new(None, SECRET);
    let derive = |side: usize| {
        let network = &lab.net(link.id.net).name;
        let sender = &lab.node(link.ends[side].node).name;
        let mut info = vec![network, link.name.as_str(), sender, suite.as_str()];
        info.extend(underlay);
        let mut bytes = [0; 4 + Key::LEN];
        // Names hold no zero byte, so no two lists are written alike.
        secret.expand(info.join("\0").as_bytes(), &mut bytes).expect("HKDF gives up to 8,160 bytes");
        let (spi, key) = bytes.split_at(4);
        let spi = SPI_BIT | u32::from_be_bytes([spi[0], spi[1], spi[2], spi[3]]);
        Association { spi, suite, key: Key::new(std::array::from_fn(|i| key[i])) }
    };
    Some([0, 1].map(derive))
}

/// The same as the end on `side` sees them.
pub(super) fn of_end(lab: &Lab, link: &Link, side: usize) -> Option<Associations> {
    associations(lab, link).map(|both| seen_from(both, side))
}

/// Those of a strand as the end on `side` sees them.
pub(super) fn of_strand(lab: &Lab, link: &Link, strand: &Strand, side: usize) -> Option<Associations> {
    strand_associations(lab, link, strand).map(|both| seen_from(both, side))
}

fn seen_from([a, b]: [Association; 2], side: usize) -> Associations {
    let (outward, inward) = if side == 0 { (a, b) } else { (b, a) };
    Associations { outward, inward }
}

/// What is protected by itself: an end of a link, or of one of its strands.
#[derive(Debug)]
pub(super) struct Part {
    /// The namespace in which the tunnel is made.
    pub(super) ns: String,
    local: Ipv4Addr,
    remote: Ipv4Addr,
    both: Associations,
}

/// The parts of the end on `side`; none where the link is not protected.
pub(super) fn parts(lab: &Lab, link: &Link, side: usize) -> Vec<Part> {
    let Some(parallel) = &link.parallel else {
        let (local, remote, ns) = match pair(link, side) {
            Some((local, remote)) => (local, remote, lab.below_netns(&link.ends[side])),
            None => return Vec::new(),
        };
        return of_end(lab, link, side).map(|both| Part { ns, local, remote, both }).into_iter().collect();
    };
    let end = EndId { link: link.id, side };
    let part = |strand: &Strand| {
        Some(Part {
            ns: lab.node(lab.stands_on(end, strand.below)?).netns.clone(),
            local: strand.link_addrs[side]?,
            remote: strand.link_addrs[1 - side]?,
            both: of_strand(lab, link, strand, side)?,
        })
    };
    parallel.strands.iter().filter_map(part).collect()
}

/// What protects a part of the end on `side` in the namespace in which its tunnel is made: both associations, and policies
/// that ask for them for packets of protocol 4 between the link addresses. ICMP between these stays as it is.
pub(super) fn end(lab: &Lab, link: &Link, side: usize, part: &Part) -> Vec<Op> {
    let Part { ns, local, remote, both } = part;
    let (local, remote) = (*local, *remote);
    let policy = |src, dst, direction| Op::AddPolicy { ns: ns.clone(), src, dst, direction };
    let add = |src, dst, association: &Association| Op::AddAssociation {
        ns: ns.clone(),
        src,
        dst,
        association: association.clone(),
    };
    let policies = [policy(local, remote, Direction::Out), policy(remote, local, Direction::In)];
    // Where both ends are in one namespace, what one sends with the other receives with.
    let shared = lab.stays_on_its_node(link) && side == 1;
    let associations = [add(local, remote, &both.outward), add(remote, local, &both.inward)];
    associations.into_iter().filter(|_| !shared).chain(policies).collect()
}

/// The link addresses of the end on `side` and of the other.
pub(super) fn pair(link: &Link, side: usize) -> Option<(Ipv4Addr, Ipv4Addr)> {
    Some((link.ends[side].link_addr?, link.ends[1 - side].link_addr?))
}
