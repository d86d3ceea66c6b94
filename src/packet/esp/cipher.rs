//! The suites of `security:`. Key, header and body go in; the body, encrypted or in clear, and its integrity check
//! value come out. It never looks into the body.

use std::fmt;

use aes::Aes256;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, InnerIvInit};
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::{HEADER_LEN, ICV_LEN, Refusal, TRAILER_LEN};

/// The longest IV, and an AES block.
const BLOCK: usize = 16;
/// The part of a GCM nonce that goes with the key and not with the packet (RFC 4106, section 4).
const SALT: usize = 4;

/// What protects a link, as the lab language names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Suite {
    /// AES-GCM with a 128-bit key, RFC 4106.
    #[serde(rename = "aes128-gcm")]
    Aes128Gcm,
    /// AES-GCM with a 256-bit key, RFC 4106.
    #[serde(rename = "aes256-gcm")]
    Aes256Gcm,
    /// AES-CBC with a 256-bit key, RFC 3602, and HMAC-SHA-256-128, RFC 4868.
    #[serde(rename = "aes256-cbc-sha256")]
    Aes256CbcSha256,
}

impl Suite {
    pub const ALL: [Self; 3] = [Self::Aes128Gcm, Self::Aes256Gcm, Self::Aes256CbcSha256];

    /// As the lab language has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "aes128-gcm",
            Self::Aes256Gcm => "aes256-gcm",
            Self::Aes256CbcSha256 => "aes256-cbc-sha256",
        }
    }

    /// Bytes of the IV in each packet.
    #[must_use]
    pub const fn iv_len(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm => 8,
            Self::Aes256CbcSha256 => BLOCK,
        }
    }

    /// What is encrypted is a multiple of this many bytes.
    #[must_use]
    pub const fn alignment(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm => 4,
            Self::Aes256CbcSha256 => BLOCK,
        }
    }

    /// Bytes in front of the payload.
    #[must_use]
    pub const fn header_len(self) -> usize {
        HEADER_LEN + self.iv_len()
    }

    /// Bytes of the ESP packet around a payload.
    #[must_use]
    pub const fn sealed_len(self, payload_len: usize) -> usize {
        let body = (payload_len + TRAILER_LEN).next_multiple_of(self.alignment());
        self.header_len() + body + ICV_LEN
    }

    /// The largest payload whose ESP packet has at most `room` bytes; as `xfrm_state_mtu` of Linux.
    #[must_use]
    pub const fn largest_payload(self, room: usize) -> usize {
        let body = room.saturating_sub(self.header_len() + ICV_LEN);
        (body - body % self.alignment()).saturating_sub(TRAILER_LEN)
    }

    /// The key of the cipher, without the salt, bytes.
    const fn cipher_key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::Aes256CbcSha256 => 32,
        }
    }
}

/// Key material enough for any suite. Each takes what it needs from the front: the key of its cipher, then the salt
/// (GCM) or the key of the HMAC (CBC).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key([u8; Self::LEN]);

impl Key {
    /// Bytes of all key material.
    pub const LEN: usize = 64;

    #[must_use]
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The key of the cipher, for GCM with the salt behind it: what Linux calls the key of `rfc4106(gcm(aes))` and of
    /// `cbc(aes)`.
    #[must_use]
    pub fn cipher(&self, suite: Suite) -> &[u8] {
        let salt = match suite {
            Suite::Aes128Gcm | Suite::Aes256Gcm => SALT,
            Suite::Aes256CbcSha256 => 0,
        };
        &self.0[..suite.cipher_key_len() + salt]
    }

    /// The key of the HMAC, where the suite has one.
    #[must_use]
    pub fn hmac(&self, suite: Suite) -> Option<&[u8]> {
        match suite {
            Suite::Aes128Gcm | Suite::Aes256Gcm => None,
            Suite::Aes256CbcSha256 => Some(&self.0[32..]),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl TryFrom<String> for Key {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digit = |c: char| c.to_digit(16).and_then(|d| u8::try_from(d).ok());
        let digits: Option<Vec<u8>> = text.chars().map(digit).collect();
        let digits = digits.filter(|d| d.len() == 2 * Self::LEN).ok_or("not 64 bytes in hexadecimal")?;
        let mut bytes = [0; Self::LEN];
        bytes.iter_mut().zip(digits.chunks(2)).for_each(|(byte, pair)| *byte = pair[0] << 4 | pair[1]);
        Ok(Self(bytes))
    }
}

/// A suite with its key, made ready for packets.
pub(super) enum Cipher {
    Aes128Gcm(Box<Aes128Gcm>, [u8; SALT]),
    Aes256Gcm(Box<Aes256Gcm>, [u8; SALT]),
    Aes256CbcSha256(Box<Aes256>, Box<Hmac<Sha256>>),
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cipher({:?})", self.suite())
    }
}

/// `N` bytes of key material from `at` on.
fn part<const N: usize>(key: &Key, at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&key.0[at..at + N]);
    part
}

impl Cipher {
    pub(super) fn new(suite: Suite, key: &Key) -> Self {
        match suite {
            Suite::Aes128Gcm => {
                Self::Aes128Gcm(Box::new(Aes128Gcm::new(&part::<16>(key, 0).into())), part(key, 16))
            }
            Suite::Aes256Gcm => {
                Self::Aes256Gcm(Box::new(Aes256Gcm::new(&part::<32>(key, 0).into())), part(key, 32))
            }
            Suite::Aes256CbcSha256 => Self::Aes256CbcSha256(
                Box::new(Aes256::new(&part::<32>(key, 0).into())),
                Box::new(hmac(&part(key, 32))),
            ),
        }
    }

    pub(super) fn suite(&self) -> Suite {
        match self {
            Self::Aes128Gcm(..) => Suite::Aes128Gcm,
            Self::Aes256Gcm(..) => Suite::Aes256Gcm,
            Self::Aes256CbcSha256(..) => Suite::Aes256CbcSha256,
        }
    }

    /// The IV of a packet, in the first [`Suite::iv_len`] bytes. GCM asks for one that is never used again (RFC 4106,
    /// section 3.1): the sequence number. CBC asks for one that nobody can tell before (RFC 3602, section 3): the
    /// sequence number, encrypted with the packet's own key (NIST SP 800-38A, appendix C).
    pub(super) fn iv(&self, sequence: u32) -> [u8; BLOCK] {
        let mut iv = [0; BLOCK];
        match self {
            Self::Aes128Gcm(..) | Self::Aes256Gcm(..) => iv[4..8].copy_from_slice(&sequence.to_be_bytes()),
            Self::Aes256CbcSha256(aes, _) => {
                let mut block = u128::from(sequence).to_be_bytes().into();
                aes.encrypt_block(&mut block);
                iv.copy_from_slice(&block);
            }
        }
        iv
    }

    /// Encrypts `body`, whole blocks; gives its ICV. `head` is the ESP header and the IV.
    pub(super) fn seal(&self, head: &[u8], body: &mut [u8]) -> [u8; ICV_LEN] {
        match self {
            Self::Aes128Gcm(gcm, salt) => gcm_seal(gcm.as_ref(), *salt, head, body),
            Self::Aes256Gcm(gcm, salt) => gcm_seal(gcm.as_ref(), *salt, head, body),
            Self::Aes256CbcSha256(aes, hmac) => {
                cbc_encrypt(aes.as_ref(), &head[HEADER_LEN..], body);
                let mac =
                    hmac.as_ref().clone().chain_update(head).chain_update(&*body).finalize().into_bytes();
                let mut icv = [0; ICV_LEN];
                icv.copy_from_slice(&mac[..ICV_LEN]);
                icv
            }
        }
    }

    /// Checks `icv`, then decrypts `body`.
    ///
    /// # Errors
    /// [`Refusal::Integrity`], and [`Refusal::Malformed`] where it is right about what cannot be decrypted.
    pub(super) fn open(&self, head: &[u8], body: &mut [u8], icv: &[u8]) -> Result<(), Refusal> {
        match self {
            Self::Aes128Gcm(gcm, salt) => gcm_open(gcm.as_ref(), *salt, head, body, icv),
            Self::Aes256Gcm(gcm, salt) => gcm_open(gcm.as_ref(), *salt, head, body, icv),
            Self::Aes256CbcSha256(aes, hmac) => {
                let mac = hmac.as_ref().clone().chain_update(head).chain_update(&*body);
                mac.verify_truncated_left(icv).map_err(|_| Refusal::Integrity)?;
                if !body.len().is_multiple_of(BLOCK) {
                    return Err(Refusal::Malformed);
                }
                cbc_decrypt(aes.as_ref(), &head[HEADER_LEN..], body);
                Ok(())
            }
        }
    }
}

pub(super) fn hmac(key: &[u8; 32]) -> Hmac<Sha256> {
    <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes a key of any length")
}

fn nonce(salt: [u8; SALT], head: &[u8]) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..SALT].copy_from_slice(&salt);
    nonce[SALT..].copy_from_slice(&head[HEADER_LEN..HEADER_LEN + 8]);
    nonce
}

fn gcm_seal<G>(gcm: &G, salt: [u8; SALT], head: &[u8], body: &mut [u8]) -> [u8; ICV_LEN]
where
    G: AeadInOut<NonceSize = aes_gcm::aead::consts::U12, TagSize = aes_gcm::aead::consts::U16>,
{
    let nonce = nonce(salt, head).into();
    gcm.encrypt_inout_detached(&nonce, &head[..HEADER_LEN], InOutBuf::from(body))
        .expect("a packet is far below the 64 GiB that GCM takes")
        .into()
}

fn gcm_open<G>(gcm: &G, salt: [u8; SALT], head: &[u8], body: &mut [u8], icv: &[u8]) -> Result<(), Refusal>
where
    G: AeadInOut<NonceSize = aes_gcm::aead::consts::U12, TagSize = aes_gcm::aead::consts::U16>,
{
    let icv = icv.try_into().map_err(|_| Refusal::Malformed)?;
    gcm.decrypt_inout_detached(&nonce(salt, head).into(), &head[..HEADER_LEN], InOutBuf::from(body), icv)
        .map_err(|_| Refusal::Integrity)
}

fn iv_block(iv: &[u8]) -> aes::Block {
    let mut block = [0; BLOCK];
    block.copy_from_slice(iv);
    block.into()
}

pub(super) fn cbc_encrypt<C>(aes: &C, iv: &[u8], body: &mut [u8])
where
    C: BlockCipherEncrypt<BlockSize = aes::cipher::consts::U16>,
{
    let mut cbc = cbc::Encryptor::<&C>::inner_iv_init(aes, &iv_block(iv));
    cbc.encrypt_blocks_inout(InOutBuf::from(body).into_chunks().0);
}

pub(super) fn cbc_decrypt<C>(aes: &C, iv: &[u8], body: &mut [u8])
where
    C: BlockCipherDecrypt<BlockSize = aes::cipher::consts::U16>,
{
    let mut cbc = cbc::Decryptor::<&C>::inner_iv_init(aes, &iv_block(iv));
    cbc.decrypt_blocks_inout(InOutBuf::from(body).into_chunks().0);
}
