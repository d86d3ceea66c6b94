//! Devices of the kernel that are impaired from outside, where the kernel has no netem. Frames that leave such a device
//! come in; they go out of it later, or not at all. It never changes a frame, and it never touches a device that nobody
//! impairs.
//!
//! ```text
//! node -- device --(filter at egress: all without our mark)--> TAP --> held here --> packet socket, marked -- device --> wire
//! ```
//!
//! Nothing is put in the device's place, so this begins and ends while packets flow. The TAP has no offloads: the
//! kernel cuts segmentation offload packets and completes checksums before they are counted here.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::config::ShapedDevice;
use super::counters::{Count, Counters, Reason};
use crate::error::{Context, Error, Kind, Result};
use crate::lab::Namespaces;
use crate::model::Impairment;
use crate::netlink::{Request, Socket};
use crate::shape::{Chance, Nanos, Shaper, Verdict};
use crate::sys::packet_socket::Injector;
use crate::sys::tun;

/// Marks frames that have been held already: "vila".
const MARK: u32 = 0x7669_6c61;
/// Frames that wait to be read: bursts of a sender that nothing slows down.
const QUEUE: u32 = 10_000;
/// An Ethernet header, bytes: the rate of a link counts IP packets.
const ETHERNET: usize = 14;
const SEED: u64 = 0x7669_6c61_6220_7368;

/// One impaired device.
#[derive(Debug)]
struct Device {
    what: ShapedDevice,
    index: u32,
    /// Where its frames come from; none when it is impaired no more.
    tap: Option<OwnedFd>,
    injector: Injector,
    shaper: Shaper,
    counters: Counters,
}

/// All impaired devices. Indices stay: a device that is impaired no more keeps its place.
#[derive(Debug)]
pub(super) struct Devices {
    namespaces: Namespaces,
    all: Vec<Device>,
    chance: Chance,
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

    /// Impairs what leaves a device as `what` says; gives its index where its TAP is new and must be watched.
    pub(super) fn set(&mut self, what: ShapedDevice) -> Result<Option<usize>> {
        match self.position(&what) {
            None if what.impair.is_none() => Ok(None),
            None => {
                let (index, tap, injector) = self.attach(&what)?;
                let shaper = Shaper::new(what.impair);
                let counters = Counters::default();
                self.all.push(Device { what, index, tap: Some(tap), injector, shaper, counters });
                Ok(Some(self.all.len() - 1))
            }
            Some(i) => self.change(i, what.impair),
        }
    }

    fn change(&mut self, i: usize, to: Impairment) -> Result<Option<usize>> {
        self.all[i].shaper.change(to);
        match (to.is_none(), self.all[i].tap.is_some()) {
            (true, true) => {
                self.detach(&self.all[i].what)?;
                self.all[i].tap = None;
                Ok(None)
            }
            (false, false) => {
                let (index, tap, injector) = self.attach(&self.all[i].what)?;
                let device = &mut self.all[i];
                (device.index, device.tap, device.injector) = (index, Some(tap), injector);
                Ok(Some(i))
            }
            (true, false) | (false, true) => Ok(None),
        }
    }

    pub(super) fn tap(&self, i: usize) -> Option<BorrowedFd<'_>> {
        self.all.get(i)?.tap.as_ref().map(AsFd::as_fd)
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

    /// The device is gone, or impaired no more.
    pub(super) fn forget(&mut self, what: &ShapedDevice) {
        let Some(i) = self.position(what) else { return };
        // With the device its filter has gone.
        let _gone = self.detach(what);
        self.all[i].tap = None;
        self.all[i].shaper.change(Impairment::default());
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

    fn position(&self, what: &ShapedDevice) -> Option<usize> {
        self.all.iter().position(|d| d.what.netns == what.netns && d.what.dev == what.dev)
    }

    fn attach(&self, what: &ShapedDevice) -> Result<(u32, OwnedFd, Injector)> {
        let cannot = || format!("cannot shape {} in namespace {}", what.dev, what.netns);
        self.namespaces.run(&what.netns, || attach(what))?.doing(Kind::Kernel, cannot)
    }

    fn detach(&self, what: &ShapedDevice) -> Result<()> {
        let cannot = || format!("cannot end shaping {} in namespace {}", what.dev, what.netns);
        self.namespaces
            .run(&what.netns, || {
                let index = nix::net::if_::if_nametoindex(what.dev.as_str())?;
                execute([Request::del_redirect(index)])
            })?
            .doing(Kind::Kernel, cannot)
    }
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
fn attach(what: &ShapedDevice) -> io::Result<(u32, OwnedFd, Injector)> {
    let index = nix::net::if_::if_nametoindex(what.dev.as_str())?;
    let name = format!("shape~{index}");
    let tap = if what.ethernet { tun::attach_tap(&name)? } else { tun::attach(&name)? };
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
    Ok((index, tap, injector))
}

fn execute(requests: impl IntoIterator<Item = Request>) -> io::Result<()> {
    Socket::open()?.execute(requests).map_err(|refusal| match &refusal.text {
        Some(text) => io::Error::other(Error::kernel(refusal.to_string()).because(text)),
        None => io::Error::from_raw_os_error(refusal.errno),
    })
}
