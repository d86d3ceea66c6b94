//! ESP on the link header of one interface (RFC 4303, transport mode). A frame goes in: the packet that gets the link
//! header next, or one with its link header in front. The frame, sealed or opened in place, comes out, or the reason to
//! drop it. It never decides whether a packet must be protected: [`super::forward`] does.

use super::config::Associations;
use super::counters::Reason;
use super::frame::{Frame, MAX_PACKET};
use crate::packet::esp::{Exhausted, Opener, Refusal, Sealer};
use crate::packet::{Ipv4View, ipv4};

/// Both directions of one interface.
#[derive(Debug)]
pub(super) struct Protection {
    sealer: Sealer,
    opener: Opener,
}

impl From<&Associations> for Protection {
    fn from(associations: &Associations) -> Self {
        Self { sealer: Sealer::new(&associations.outward), opener: Opener::new(&associations.inward) }
    }
}

impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Spi => Self::EspUnexpected,
            Refusal::Malformed => Self::EspMalformed,
            Refusal::Replay => Self::EspReplay,
            Refusal::Integrity => Self::EspAuth,
        }
    }
}

impl From<Exhausted> for Reason {
    fn from(_: Exhausted) -> Self {
        Self::EspSequence
    }
}

impl Protection {
    /// The packet in `frame` becomes an ESP packet that holds it, for a link header of protocol 50.
    pub(super) fn seal(&mut self, frame: &mut Frame) -> Result<(), Reason> {
        let (suite, payload_len) = (self.sealer.suite(), frame.len());
        let sealed_len = suite.sealed_len(payload_len);
        if sealed_len > MAX_PACKET {
            return Err(Reason::TooBig);
        }
        frame.extend(sealed_len - suite.header_len() - payload_len).ok_or(Reason::TooBig)?;
        frame.push(suite.header_len()).ok_or(Reason::TooBig)?;
        Ok(self.sealer.seal(frame.packet_mut(), payload_len, ipv4::IPIP)?)
    }

    /// A link packet of protocol 50 becomes what it was before it was sealed, of protocol 4: the link header moves to
    /// the front of the payload, as in Linux. The header must be whole and its total length that of the frame.
    pub(super) fn open(&mut self, frame: &mut Frame) -> Result<(), Reason> {
        let link = Ipv4View::new_checked(frame.packet())?;
        if link.is_fragment() {
            return Err(Reason::Fragment);
        }
        let (ip_len, mut header) = (link.header_len(), link.repr());
        let opened = self.opener.open(&mut frame.packet_mut()[ip_len..])?;
        if opened.next_header != ipv4::IPIP {
            return Err(Reason::NotIpip);
        }
        frame.truncate(ip_len + opened.payload.end);
        frame.pull(ip_len + opened.payload.start);
        header.protocol = ipv4::IPIP;
        header.payload_len = frame.len();
        frame.push(ipv4::HEADER_LEN).map(|bytes| header.emit(bytes)).ok_or(Reason::TooBig)
    }
}
