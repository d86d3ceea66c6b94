//! The devices of a lab that are captured on, and those that come and go. Namespaces go in; a tap on each device that is
//! wanted comes out. It enters namespaces on threads that end, and what is opened there stays there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use nix::net::if_::if_nameindex;

use super::{Options, Point};
use crate::error::{Context, Kind, Result};
use crate::lab::Namespaces;
use crate::netlink::links::Links;
use crate::packet::pcapng::LinkType;
use crate::sys::tap::Tap;

/// Bytes of packets that wait for one device, as the kernel counts them: more than a burst of a second at 100 Mbit/s.
const QUEUE: usize = 16 << 20;
/// Of linux/if_arp.h: devices with Ethernet headers.
const ETHERNET: u16 = 1;
const LOOPBACK: u16 = 772;
/// Taps closed by one thread at most, and threads: to close one takes the kernel some milliseconds of waiting.
const CLOSERS: usize = 64;

/// A tap on a device.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) link_type: LinkType,
    pub(super) tap: Tap,
}

/// A namespace, what tells of its devices, and those it has.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) point: Point,
    pub(super) links: Links,
    /// By their indices; the values are the numbers of their taps.
    pub(super) devices: BTreeMap<u32, u64>,
}

/// What became of the devices of a namespace.
#[derive(Debug)]
pub(super) struct Difference {
    pub(super) opened: Vec<Device>,
    pub(super) gone: Vec<u32>,
    /// Names of all devices that are there, wanted or not.
    pub(super) names: Vec<String>,
}

/// The namespaces of a lab's nodes.
///
/// # Errors
/// If they cannot be listed.
pub fn points(namespaces: &Namespaces) -> Result<Vec<Point>> {
    let what = || "cannot list the lab's namespaces".to_owned();
    let entries = std::fs::read_dir(namespaces.dir()).doing(Kind::Environment, what)?;
    let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
    let found: BTreeSet<Point> = names.filter_map(|name| Point::of(&name)).collect();
    Ok(found.into_iter().collect())
}

impl Room {
    /// Listens first, so that no device comes unseen.
    pub(super) fn open(namespaces: &Namespaces, point: Point) -> Result<Self> {
        let opened = namespaces.run(&point.ns, Links::open)?;
        let links = opened.doing(Kind::Kernel, || format!("cannot watch {}", point.full_name()))?;
        Ok(Self { point, links, devices: BTreeMap::new() })
    }

    /// Opens taps on wanted devices that have none.
    pub(super) fn look(&self, namespaces: &Namespaces, options: &Options) -> Result<Difference> {
        let look = || self.look_here(options);
        namespaces
            .run(&self.point.ns, look)?
            .doing(Kind::Kernel, || format!("cannot capture on {}", self.point.full_name()))
    }

    fn look_here(&self, options: &Options) -> io::Result<Difference> {
        let (mut opened, mut names, mut there) = (Vec::new(), Vec::new(), BTreeSet::new());
        for found in &if_nameindex()? {
            let name = found.name().to_string_lossy().into_owned();
            there.insert(found.index());
            let known = self.devices.contains_key(&found.index());
            if !known && options.selection.has_device(&self.point, &name) {
                match open(found.index(), options) {
                    Ok((link_type, tap)) => {
                        let name = self.point.name(&name);
                        opened.push(Device { index: found.index(), name, link_type, tap });
                    }
                    // It has gone meanwhile.
                    Err(e) if e.raw_os_error() == Some(libc::ENODEV) => {}
                    Err(e) => return Err(e),
                }
            }
            names.push(name);
        }
        let gone = self.devices.keys().copied().filter(|index| !there.contains(index)).collect();
        Ok(Difference { opened, gone, names })
    }
}

fn open(index: u32, options: &Options) -> io::Result<(LinkType, Tap)> {
    let tap = Tap::open(index)?;
    let filter = &options.filter;
    let (link_type, program) = match tap.hardware() {
        ETHERNET | LOOPBACK => (LinkType::Ethernet, &filter.ethernet),
        _ => (LinkType::Raw, &filter.raw),
    };
    tap.start(program, QUEUE)?;
    Ok((link_type, tap))
}

/// Closes taps, side by side.
pub(super) fn close(taps: Vec<Tap>) {
    let share = taps.len().div_ceil(CLOSERS).max(1);
    let mut taps = taps.into_iter();
    std::thread::scope(|scope| {
        loop {
            let part: Vec<Tap> = taps.by_ref().take(share).collect();
            if part.is_empty() {
                return;
            }
            scope.spawn(move || drop(part));
        }
    });
}
