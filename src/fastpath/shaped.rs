//! Devices of the kernel that are impaired from outside, where the kernel has no netem. Frames that leave such a device
//! come in; they go out of it later, or not at all. It never changes a frame, and it never touches a device that nobody
//! impairs.
//!
//! ```text
//! node -- device --(filter at egress: all without our mark)--> TAP --> held here --> packet socket, marked -- device --> wire
//! ```
//!
//! Nothing is put in the device's place, so this begins and ends while packets flow. The TAP takes packets that stand for
//! several, for the kernel cannot cut those of the fast path; they are cut before they are counted here.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::config::ShapedDevice;
use super::counters::{Count, Counters, Reason};
use super::frame::ETHERNET;
use super::injector::execute;
use crate::error::{Context, Kind, Result};
use crate::lab::Namespaces;
use crate::model::Impairment;
use crate::netlink::Request;
use crate::shape::{Chance, Nanos, Shaper, Verdict};
use crate::sys::packet_socket::Injector;
use crate::sys::tun;

/// Marks frames that have been held already: "vila".
const MARK: u32 = 0x7669_6c61;
/// Frames that wait to be read: bursts of a sender that nothing slows down.
const QUEUE: u32 = 10_000;
const SEED: u64 = 0x7669_6c61_6220_7368;

/// One impaired device.
#[derive(Debug)]
struct Device {
    what: ShapedDevice,
    index: u32,
    /// Where its frames come from; none when it is impaired no more.
    tap: Option<OwnedFd>,
    /// Still there when it is impaired no more, for frames that are held.
    injector: Injector,
    shaper: Shaper,
    counters: Counters,
}

/// What has been put beside a device of this index.
#[derive(Debug)]
pub(super) struct Attachment {
    index: u32,
    tap: OwnedFd,
    injector: Injector,
}

/// What is left over of an attachment. To close it may take the kernel long, so that is not for the thread that carries
/// packets.
#[derive(Debug)]
pub(super) enum LeftOver {
    Tap(OwnedFd),
    Injector(Injector),
}

impl LeftOver {
    /// Closes it, and has its device go.
    pub(super) fn remove(self) {
        match self {
            // With its namespace it goes anyway.
            Self::Tap(tap) => drop(tun::set_persistent(tap.as_fd(), false)),
            Self::Injector(injector) => drop(injector),
        }
    }
}

/// All impaired devices. Indices stay: a device that is impaired no more keeps its place.
#[derive(Debug)]
pub(super) struct Devices {
    namespaces: Namespaces,
    all: Vec<Device>,
    chance: Chance,
}

/// What an impairment needs of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Nothing,
    Attach,
    Detach,
}

/// What becomes of a frame that has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Hold(Nanos),
    /// Sent or dropped; counted.
    Ended,
}

impl Devices {
    pub(super) fn new(namespaces: Namespaces) -> Self {
        Self { namespaces, all: Vec::new(), chance: Chance::new(SEED) }
    }

    /// What is to be done in the kernel before what leaves a device is impaired as `what` says.
    pub(super) fn need(&self, what: &ShapedDevice) -> Need {
        let attached = self.position(what).is_some_and(|i| self.all[i].tap.is_some());
        match (what.impair.is_none(), attached) {
            (true, true) => Need::Detach,
            (false, false) => Need::Attach,
            (true, false) | (false, true) => Need::Nothing,
        }
    }

    /// Impairs as `what` says what leaves a device that needs nothing of the kernel.
    pub(super) fn change(&mut self, what: &ShapedDevice) {
        if let Some(i) = self.position(what) {
            self.all[i].shaper.change(what.impair);
        }
    }

    /// Impairs what leaves a device that has been attached to; gives its place, as its TAP is new and must be watched, and
    /// what is left over.
    pub(super) fn attached(&mut self, what: ShapedDevice, new: Attachment) -> (usize, Option<LeftOver>) {
        let Attachment { index, tap, injector } = new;
        if let Some(i) = self.position(&what) {
            let device = &mut self.all[i];
            device.shaper.change(what.impair);
            (device.index, device.tap) = (index, Some(tap));
            let old = std::mem::replace(&mut device.injector, injector);
            return (i, Some(LeftOver::Injector(old)));
        }
        let (shaper, counters) = (Shaper::new(what.impair), Counters::default());
        self.all.push(Device { what, index, tap: Some(tap), injector, shaper, counters });
        (self.all.len() - 1, None)
    }

    /// Device `i` has been detached from, or is gone: it is impaired no more. What it holds it sends in time.
    pub(super) fn detached(&mut self, i: usize) -> Option<LeftOver> {
        let device = self.all.get_mut(i)?;
        device.shaper.change(Impairment::default());
        device.tap.take().map(LeftOver::Tap)
    }

    /// All descriptors: those that keep devices, and those of packet sockets.
    pub(super) fn into_descriptors(self) -> (Vec<OwnedFd>, Vec<OwnedFd>) {
        let (taps, sockets): (Vec<_>, Vec<_>) =
            self.all.into_iter().map(|device| (device.tap, OwnedFd::from(device.injector))).unzip();
        (taps.into_iter().flatten().collect(), sockets)
    }

    pub(super) fn tap(&self, i: usize) -> Option<BorrowedFd<'_>> {
        self.all.get(i)?.tap.as_ref().map(AsFd::as_fd)
    }

    /// Bytes of the header in front of the packets of device `i`.
    pub(super) fn link_len(&self, i: usize) -> usize {
        self.all.get(i).map_or(0, |device| if device.what.ethernet { ETHERNET } else { 0 })
    }

    /// A frame of device `i` was not what its virtio header says.
    pub(super) fn refuse(&mut self, i: usize) {
        self.all[i].counters.drop(Reason::TxError);
    }

    /// Decides about a frame that was read from the TAP of device `i`.
    pub(super) fn admit(&mut self, i: usize, frame: &[u8], now: Nanos) -> Fate {
        let Some(device) = self.all.get_mut(i) else { return Fate::Ended };
        match device.shaper.admit(device.len(frame), now, &mut self.chance) {
            Verdict::Pass => device.send(frame),
            Verdict::Hold(until) => {
                device.counters.count(Count::Shaped);
                return Fate::Hold(until);
            }
            Verdict::Lost => device.counters.drop(Reason::ImpairedLoss),
            Verdict::Overflow => device.counters.drop(Reason::ShapedOverflow),
        }
        Fate::Ended
    }

    /// The time of a frame that was held has come.
    pub(super) fn release(&mut self, i: usize, frame: &[u8]) {
        let Some(device) = self.all.get_mut(i) else { return };
        device.shaper.released(device.len(frame));
        device.send(frame);
    }

    /// What was done to the frames of each base node's devices, by name.
    pub(super) fn counters(&self) -> impl Iterator<Item = (&str, &'static str, u64)> {
        let reasons = [
            Reason::ImpairedLoss,
            Reason::ShapedOverflow,
            Reason::TxOverrun,
            Reason::TooBig,
            Reason::BaseUnreachable,
            Reason::TxError,
        ];
        self.all.iter().flat_map(move |d| {
            let drops = reasons.map(|r| (d.what.node.as_str(), r.as_str(), d.counters.drops(r)));
            let shaped = d.counters.counts(Count::Shaped);
            drops.into_iter().chain([(d.what.node.as_str(), Count::Shaped.as_str(), shaped)])
        })
    }

    /// Those that are impaired and not among `wanted`.
    pub(super) fn all_but(&self, wanted: &[ShapedDevice]) -> Vec<ShapedDevice> {
        let place = |d: &ShapedDevice| (d.netns.clone(), d.dev.clone());
        let gone = |d: &&Device| d.tap.is_some() && !wanted.iter().any(|w| place(w) == place(&d.what));
        self.all.iter().filter(gone).map(|d| d.what.clone()).collect()
    }

    /// Whether the device does what is wanted.
    pub(super) fn does(&self, wanted: &ShapedDevice) -> bool {
        let known = self.position(wanted).map(|i| &self.all[i]);
        known.is_some_and(|d| d.tap.is_some() && d.shaper.impairment() == wanted.impair)
    }

    /// Whether the device has been made anew since it was impaired.
    pub(super) fn is_stale(&self, what: &ShapedDevice) -> bool {
        let Some(known) = self.position(what).map(|i| &self.all[i]) else { return false };
        let index = self.namespaces.run(&what.netns, || nix::net::if_::if_nametoindex(what.dev.as_str()));
        known.tap.is_some() && !matches!(index, Ok(Ok(index)) if index == known.index)
    }

    pub(super) fn position(&self, what: &ShapedDevice) -> Option<usize> {
        self.all.iter().position(|d| d.what.netns == what.netns && d.what.dev == what.dev)
    }
}

/// Attaches to a device, so that its frames come to a TAP.
///
/// # Errors
/// If the device is not there, or the kernel refuses anything.
pub(super) fn attach(namespaces: &Namespaces, what: &ShapedDevice) -> Result<Attachment> {
    let cannot = || format!("cannot shape {} in namespace {}", what.dev, what.netns);
    namespaces.run(&what.netns, || attach_here(what))?.doing(Kind::Kernel, cannot)
}

/// Frames leave the device by themselves again.
///
/// # Errors
/// If the device is not there: with it its filter has gone.
pub(super) fn detach(namespaces: &Namespaces, what: &ShapedDevice) -> Result<()> {
    let cannot = || format!("cannot end shaping {} in namespace {}", what.dev, what.netns);
    namespaces
        .run(&what.netns, || {
            let index = nix::net::if_::if_nametoindex(what.dev.as_str())?;
            execute([Request::del_redirect(index)])
        })?
        .doing(Kind::Kernel, cannot)
}

impl Device {
    /// Bytes that count: those of the IP packet.
    fn len(&self, frame: &[u8]) -> usize {
        if self.what.ethernet { frame.len().saturating_sub(ETHERNET) } else { frame.len() }
    }

    fn send(&mut self, frame: &[u8]) {
        if let Err(e) = self.injector.send(frame) {
            self.counters.drop(super::engine::refusal(&e));
        }
    }
}

/// In the device's namespace: a TAP beside it, a socket to send with, and at last the filter.
fn attach_here(what: &ShapedDevice) -> io::Result<Attachment> {
    let index = nix::net::if_::if_nametoindex(what.dev.as_str())?;
    let name = format!("shape~{index}");
    let tap = tun::attach_offloading(&name, what.ethernet)?.fd;
    tun::set_persistent(tap.as_fd(), true)?;
    let tap_index = nix::net::if_::if_nametoindex(name.as_str())?;
    // Else the kernel would look for routers and announce groups there, and the frames would go out of the device.
    // A kernel without IPv6 has nothing to announce.
    let _quiet = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
    let injector = Injector::open(index, what.ethernet, MARK)?;
    execute([
        Request::up_with_queue(tap_index, QUEUE),
        Request::add_clsact(index),
        Request::set_redirect(index, tap_index, MARK),
    ])?;
    Ok(Attachment { index, tap, injector })
}
