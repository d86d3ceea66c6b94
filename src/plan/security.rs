//! Keys and SPIs of protected links, and the kernel's part of them. A lab and one of its links go in; the two security
//! associations of the link and the operations for the ends that the kernel carries come out. It never draws a key:
//! keys are derived from what the file says, so that equal files give equal plans. They are no secret to who has the file.

use std::net::Ipv4Addr;

use hkdf::Hkdf;
use sha2::Sha256;

use super::{Direction, Op};
use crate::fastpath::config::Associations;
use crate::model::{Lab, Link};
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
    let suite = link.security?;
    let secret = Hkdf::<Sha256>::new(None, SECRET);
    let derive = |side: usize| {
        let network = &lab.net(link.id.net).name;
        let sender = &lab.node(link.ends[side].node).name;
        let info: [&str; 4] = [network, &link.name, sender, suite.as_str()];
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
    let [a, b] = associations(lab, link)?;
    let (outward, inward) = if side == 0 { (a, b) } else { (b, a) };
    Some(Associations { outward, inward })
}

/// What protects the end on `side` in the namespace `ns` in which its tunnel is made: both associations, and policies
/// that ask for them for packets of protocol 4 between the link addresses. ICMP between these stays as it is.
pub(super) fn end(lab: &Lab, link: &Link, side: usize, ns: &str) -> Vec<Op> {
    let (Some(both), Some(pair)) = (of_end(lab, link, side), pair(link, side)) else { return Vec::new() };
    let (local, remote) = pair;
    let policy = |src, dst, direction| Op::AddPolicy { ns: ns.to_owned(), src, dst, direction };
    let add = |src, dst, association| Op::AddAssociation { ns: ns.to_owned(), src, dst, association };
    let policies = [policy(local, remote, Direction::Out), policy(remote, local, Direction::In)];
    // Where both ends are in one namespace, what one sends with the other receives with.
    let shared = lab.stays_on_its_node(link) && side == 1;
    let associations = [add(local, remote, both.outward), add(remote, local, both.inward)];
    associations.into_iter().filter(|_| !shared).chain(policies).collect()
}

/// The link addresses of the end on `side` and of the other.
pub(super) fn pair(link: &Link, side: usize) -> Option<(Ipv4Addr, Ipv4Addr)> {
    Some((link.ends[side].link_addr?, link.ends[1 - side].link_addr?))
}
