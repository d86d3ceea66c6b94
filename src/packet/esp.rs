//! ESP in transport mode (RFC 4303): AES-GCM with a 16-byte ICV (RFC 4106), and AES-CBC (RFC 3602) with
//! HMAC-SHA-256-128 (RFC 4868). A payload with room around it goes in, an ESP packet comes out in its place, and the
//! other way round. It never allocates for a packet, draws no random number, and knows nothing of the header before it.
//!
//! ```text
//!  0-3   4-7              8 or 16                                          16
//!  SPI   sequence number  IV       payload | padding | pad length | next   ICV
//!                                  \___________ encrypted ____________/
//!  \_________________________ authenticated __________________________/
//! ```
//!
//! Padding brings what is encrypted to a multiple of 4 (GCM) or 16 bytes (CBC); its bytes are 1, 2, 3 and so on.

mod cipher;
mod replay;
#[cfg(test)]
mod tests;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::Malformed;
use cipher::Cipher;
pub use cipher::{Key, Suite};
pub use replay::WINDOW;
use replay::Window;

/// SPI and sequence number, bytes.
pub const HEADER_LEN: usize = 8;
/// Pad length and next header, bytes.
pub const TRAILER_LEN: usize = 2;
/// Integrity check value, bytes; the same in all suites.
pub const ICV_LEN: usize = 16;
/// SPIs below are reserved (RFC 4303, section 2.1).
pub const FIRST_SPI: u32 = 256;

/// One direction of a protected link: all that both ends must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Association {
    pub spi: u32,
    pub suite: Suite,
    pub key: Key,
}

/// Bytes known to hold an SPI and a sequence number.
#[derive(Debug, Clone, Copy)]
pub struct EspView<'a> {
    bytes: &'a [u8],
}

impl<'a> EspView<'a> {
    /// # Errors
    /// [`Malformed::Truncated`]. What follows the two fields is not looked at, so a capture may have cut it.
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() < HEADER_LEN { Err(Malformed::Truncated) } else { Ok(Self { bytes }) }
    }

    fn word(&self, at: usize) -> u32 {
        let b = self.bytes;
        u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
    }

    #[must_use]
    pub fn spi(&self) -> u32 {
        self.word(0)
    }

    #[must_use]
    pub fn sequence(&self) -> u32 {
        self.word(4)
    }
}

/// All 2^32 - 1 sequence numbers are used; the packet must not be sent (RFC 4303, section 3.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sequence numbers of the security association are used up")]
pub struct Exhausted;

/// Why a packet was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no security association has this SPI")]
    Spi,
    #[error("shorter than its parts, or with a padding that cannot be")]
    Malformed,
    #[error("a sequence number seen before, or too old to tell")]
    Replay,
    #[error("a wrong integrity check value")]
    Integrity,
}

/// What an opened packet holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Where in the packet the payload lies.
    pub payload: Range<usize>,
    /// Its protocol number.
    pub next_header: u8,
}

/// The sending end of an [`Association`].
#[derive(Debug)]
pub struct Sealer {
    spi: u32,
    cipher: Cipher,
    /// The last sequence number used.
    sequence: u32,
}

impl Sealer {
    #[must_use]
    pub fn new(association: &Association) -> Self {
        let Association { spi, suite, key } = association;
        Self { spi: *spi, cipher: Cipher::new(*suite, key), sequence: 0 }
    }

    #[must_use]
    pub fn suite(&self) -> Suite {
        self.cipher.suite()
    }

    /// Seals in place. `bytes` has [`Suite::sealed_len`] of `payload_len` bytes, and the payload lies behind the first
    /// [`Suite::header_len`] of them.
    ///
    /// # Errors
    /// [`Exhausted`]; `bytes` are then as they were.
    ///
    /// # Panics
    /// If `bytes` has another length.
    pub fn seal(&mut self, bytes: &mut [u8], payload_len: usize, next_header: u8) -> Result<(), Exhausted> {
        let sequence = self.sequence.checked_add(1).ok_or(Exhausted)?;
        let iv = self.cipher.iv(sequence);
        emit(&self.cipher, (self.spi, sequence), &iv, bytes, (payload_len, next_header));
        self.sequence = sequence;
        Ok(())
    }
}

/// Writes all parts around the payload and encrypts; `iv` may be longer than the suite's.
fn emit(
    cipher: &Cipher,
    (spi, sequence): (u32, u32),
    iv: &[u8],
    bytes: &mut [u8],
    (payload_len, next_header): (usize, u8),
) {
    let suite = cipher.suite();
    assert_eq!(bytes.len(), suite.sealed_len(payload_len), "room for exactly one ESP packet");
    let (head, rest) = bytes.split_at_mut(suite.header_len());
    let (body, icv) = rest.split_at_mut(rest.len() - ICV_LEN);
    head[..4].copy_from_slice(&spi.to_be_bytes());
    head[4..HEADER_LEN].copy_from_slice(&sequence.to_be_bytes());
    head[HEADER_LEN..].copy_from_slice(&iv[..suite.iv_len()]);
    let padding = &mut body[payload_len..];
    let pad_len = u8::try_from(padding.len() - TRAILER_LEN).unwrap_or(u8::MAX);
    padding.iter_mut().zip(1..=pad_len).for_each(|(byte, number)| *byte = number);
    padding[usize::from(pad_len)..].copy_from_slice(&[pad_len, next_header]);
    icv.copy_from_slice(&cipher.seal(head, body));
}

/// The receiving end of an [`Association`].
#[derive(Debug)]
pub struct Opener {
    spi: u32,
    cipher: Cipher,
    window: Window,
}

impl Opener {
    #[must_use]
    pub fn new(association: &Association) -> Self {
        let Association { spi, suite, key } = association;
        Self { spi: *spi, cipher: Cipher::new(*suite, key), window: Window::default() }
    }

    /// Opens in place, in the order of RFC 4303, section 3.4: SPI, sequence number, integrity, and only then is the
    /// sequence number used up and the padding looked at.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn open(&mut self, bytes: &mut [u8]) -> Result<Opened, Refusal> {
        let view = EspView::new_checked(bytes).map_err(|_| Refusal::Malformed)?;
        let (spi, sequence) = (view.spi(), view.sequence());
        if spi != self.spi {
            return Err(Refusal::Spi);
        }
        let header_len = self.cipher.suite().header_len();
        if bytes.len() < header_len + ICV_LEN {
            return Err(Refusal::Malformed);
        }
        if !self.window.admits(sequence) {
            return Err(Refusal::Replay);
        }
        let (head, rest) = bytes.split_at_mut(header_len);
        let (body, icv) = rest.split_at_mut(rest.len() - ICV_LEN);
        self.cipher.open(head, body, icv)?;
        self.window.take(sequence);
        let [.., pad_len, next_header] = *body else { return Err(Refusal::Malformed) };
        let without = usize::from(pad_len) + TRAILER_LEN;
        let payload_len = body.len().checked_sub(without).ok_or(Refusal::Malformed)?;
        Ok(Opened { payload: header_len..header_len + payload_len, next_header })
    }
}
