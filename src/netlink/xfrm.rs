//! Security associations and policies for ESP in transport mode: the requests to NETLINK_XFRM. Addresses and
//! [`Association`]s go in, one message with its flags comes out; and what the kernel has counted for each association. It
//! never sends.

use std::net::Ipv4Addr;

use netlink_packet_xfrm::constants::{AF_INET, XFRM_MODE_TRANSPORT, XFRM_POLICY_IN, XFRM_POLICY_OUT};
use netlink_packet_xfrm::{
    Address, Alg, AlgAead, AlgAuth, Id, ReplayEsn, Selector, UserPolicyInfo, UserSaInfo, UserTemplate,
    XfrmAttrs, XfrmMessage, policy, state,
};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};

use super::request::Request;
use crate::packet::esp::{Association, ICV_LEN, Key, Suite, WINDOW};
use crate::packet::ipv4;
use crate::plan::Direction;

/// Bits of an IPv4 host prefix.
const HOST: u8 = 32;
const ICV_BITS: u32 = 128;
const _: () = assert!(ICV_LEN * 8 == 128);

impl Request<XfrmMessage> {
    /// ESP in transport mode from `src` to `dst`, with the anti-replay window that the fast path has.
    #[must_use]
    pub fn add_association(src: Ipv4Addr, dst: Ipv4Addr, association: &Association) -> Self {
        let info = UserSaInfo {
            id: id(dst, association.spi),
            saddr: address(src),
            family: AF_INET,
            mode: XFRM_MODE_TRANSPORT,
            ..UserSaInfo::default()
        };
        let words = WINDOW / u32::BITS;
        let bmp = vec![0; words as usize];
        let replay = ReplayEsn { bmp_len: words, replay_window: WINDOW, bmp, ..ReplayEsn::default() };
        let mut nlas = algorithms(association.suite, &association.key);
        nlas.push(XfrmAttrs::ReplayStateEsn(replay));
        let message = state::ModifyMessage { user_sa_info: info, nlas };
        Self { message: XfrmMessage::AddSa(message), flags: NLM_F_CREATE | NLM_F_EXCL }
    }

    /// Packets of protocol 4 from `src` to `dst` are sealed, or must have been.
    #[must_use]
    pub fn add_policy(src: Ipv4Addr, dst: Ipv4Addr, direction: Direction) -> Self {
        let selector = Selector {
            daddr: address(dst),
            saddr: address(src),
            family: AF_INET,
            prefixlen_d: HOST,
            prefixlen_s: HOST,
            proto: ipv4::IPIP,
            ..Selector::default()
        };
        let direction = match direction {
            Direction::In => XFRM_POLICY_IN,
            Direction::Out => XFRM_POLICY_OUT,
        };
        let info = UserPolicyInfo { selector, direction, ..UserPolicyInfo::default() };
        let template = UserTemplate {
            id: id(dst, 0),
            family: AF_INET,
            saddr: address(src),
            mode: XFRM_MODE_TRANSPORT,
            ..UserTemplate::default()
        };
        let nlas = vec![XfrmAttrs::Template(vec![template])];
        let message = policy::ModifyMessage { user_policy_info: info, nlas };
        Self { message: XfrmMessage::AddPolicy(message), flags: NLM_F_CREATE | NLM_F_EXCL }
    }

    /// All associations of the namespace.
    #[must_use]
    pub fn dump_associations() -> Self {
        Self { message: XfrmMessage::GetDumpSa(state::GetDumpMessage::default()), flags: NLM_F_DUMP }
    }
}

fn id(dst: Ipv4Addr, spi: u32) -> Id {
    Id { daddr: address(dst), spi, proto: ipv4::ESP }
}

fn address(addr: Ipv4Addr) -> Address {
    Address::from_ipv4(&addr)
}

/// As `ip xfrm` writes them: the kernel's names in 64 bytes, key lengths in bits.
fn algorithms(suite: Suite, key: &Key) -> Vec<XfrmAttrs> {
    let (cipher, bits) = (key.cipher(suite).to_vec(), |key: &[u8]| u32::try_from(8 * key.len()).unwrap_or(0));
    let alg_key_len = bits(&cipher);
    match key.hmac(suite) {
        None => vec![XfrmAttrs::EncryptionAlgAead(AlgAead {
            alg_name: name("rfc4106(gcm(aes))"),
            alg_key_len,
            alg_icv_len: ICV_BITS,
            alg_key: cipher,
        })],
        Some(hmac) => vec![
            XfrmAttrs::AuthenticationAlgTrunc(AlgAuth {
                alg_name: name("hmac(sha256)"),
                alg_key_len: bits(hmac),
                alg_trunc_len: ICV_BITS,
                alg_key: hmac.to_vec(),
            }),
            XfrmAttrs::EncryptionAlg(Alg { alg_name: name("cbc(aes)"), alg_key_len, alg_key: cipher }),
        ],
    }
}

fn name(text: &str) -> [u8; 64] {
    let mut name = [0; 64];
    name[..text.len()].copy_from_slice(text.as_bytes());
    name
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::NetlinkSerializable;

    use super::*;

    /// `struct xfrm_usersa_info` and `struct xfrm_userpolicy_info` of linux/xfrm.h, and the attributes behind.
    #[test]
    fn requests_have_the_kernels_sizes() {
        let (src, dst) = ([172, 16, 0, 1].into(), [172, 16, 0, 2].into());
        let replay = 4 + 24 + 128;
        for (suite, algorithms) in [
            (Suite::Aes128Gcm, 4 + 72 + 20),
            (Suite::Aes256Gcm, 4 + 72 + 36),
            (Suite::Aes256CbcSha256, 4 + 72 + 32 + 4 + 68 + 32),
        ] {
            let association = Association { spi: 0x8000_0001, suite, key: Key::new([7; Key::LEN]) };
            let request = Request::add_association(src, dst, &association);
            assert_eq!(request.message.buffer_len(), 224 + algorithms + replay, "{suite:?}");
            let mut bytes = vec![0; request.message.buffer_len()];
            request.message.serialize(&mut bytes);
            // The SPI is in network order, behind the selector and the destination.
            assert_eq!(bytes[56 + 16..56 + 20], [0x80, 0, 0, 1]);
            assert_eq!(bytes[56..60], [172, 16, 0, 2]);
        }
        let policy = Request::add_policy(src, dst, Direction::In);
        assert_eq!(policy.message.buffer_len(), 168 + 4 + 64);
    }
}
