//! What passes the wires of one base node while a packet is followed, both directions, in order of time. A node and
//! lengths go in; IPv4 packets come out, each with the end of the wire it passed. It never looks into them, and it says how
//! many it did not get.

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};

use super::Context;
use super::causes::{Cause, CauseKind};
use super::resolve::label;
use crate::error::{Context as _, Kind, Result};
use crate::model::{EndId, Lab, NodeId};
use crate::sys::packet_socket::{Capture, ipv4_on_wires};

/// Bytes that one network puts before a packet at most: its own header, a link header, and ESP with its trailer; twice where a
/// router of it is played by what rides on it.
const HEADERS: usize = 200;
/// More packets than a queue can hold: of one that never becomes empty, this many have been there before, and all else is new.
pub(super) const QUEUED: usize = 32_768;

/// A capture on all wires of a base node.
#[derive(Debug)]
pub(super) struct Tap {
    pub(super) node: NodeId,
    capture: Capture,
    ends: BTreeMap<usize, EndId>,
}

/// A packet, IPv4 header first, on a wire.
#[derive(Debug)]
pub(super) struct Passed<'a> {
    pub(super) end: EndId,
    pub(super) outgoing: bool,
    pub(super) bytes: &'a [u8],
}

impl Tap {
    /// Of packets that have such lengths on the wire, bytes.
    pub(super) fn open(ctx: &Context<'_>, node: NodeId, lengths: &RangeInclusive<u32>) -> Result<Self> {
        let ns = &ctx.lab.node(node).netns;
        let open = || -> io::Result<_> {
            let capture = Capture::of(&ipv4_on_wires(lengths))?;
            let mut ends = BTreeMap::new();
            for end in &ctx.lab.node(node).ends {
                let index = nix::net::if_::if_nametoindex(ctx.lab.end(*end).dev.as_str())?;
                ends.insert(usize::try_from(index).map_err(io::Error::other)?, *end);
            }
            Ok((capture, ends))
        };
        let opened = ctx.namespaces.run(ns, open)?;
        let (capture, ends) = opened.doing(Kind::Kernel, || format!("cannot capture in namespace {ns}"))?;
        Ok(Self { node, capture, ends })
    }

    /// The next one, or `None` if there is none now.
    pub(super) fn next<'a>(&self, buffer: &'a mut [u8]) -> Result<Option<Passed<'a>>> {
        loop {
            let read = self.capture.recv(buffer).doing(Kind::Kernel, || "cannot read a capture".into())?;
            let Some(frame) = read else { return Ok(None) };
            let (device, outgoing, length) = (frame.device, frame.outgoing, frame.bytes.len());
            if let Some(end) = self.ends.get(&device) {
                return Ok(Some(Passed { end: *end, outgoing, bytes: &buffer[..length] }));
            }
        }
    }

    /// Shows `see` what is in the queue, in order; what comes meanwhile only now and then.
    pub(super) fn drain(&self, see: &mut dyn FnMut(Passed<'_>)) -> Result<()> {
        let mut buffer = vec![0; 65_536];
        for _ in 0..QUEUED {
            let Some(passed) = self.next(&mut buffer)? else { break };
            see(passed);
        }
        Ok(())
    }

    /// Packets that found no room since this was asked last, as what may explain that one was not seen.
    pub(super) fn lost(&self, lab: &Lab) -> Result<Option<Cause>> {
        let lost =
            self.capture.dropped().doing(Kind::Kernel, || "cannot read the counters of a capture".into())?;
        let what =
            || format!("more passes than the capture can take: it lost {lost} packets, perhaps this one");
        Ok((lost > 0).then(|| Cause { kind: CauseKind::Capture, at: label(lab, self.node), what: what() }))
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.capture.as_fd()
    }
}

/// What a probe of `length` bytes may have on a wire, whatever headers of the lab are before it.
pub(super) fn lengths_of(lab: &Lab, length: usize) -> RangeInclusive<u32> {
    let bytes = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    bytes(length)..=bytes(length + lab.networks.len() * HEADERS)
}
