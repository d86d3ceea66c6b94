//! The file of a capture. Interfaces, packets and counts go in; blocks go out, whole ones only, so that the file can be
//! read whenever the writer ends. It never goes back in the file, which may be a pipe.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::Filter;
use crate::packet::pcapng::{self, Interface, LinkType, Packet, Statistics};

/// Bytes gathered before they are written.
const GATHERED: usize = 1 << 16;

/// An interface of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    link_type: LinkType,
    since: u64,
    received: u64,
    dropped: u64,
    /// Drops that a block tells of.
    told: u64,
}

/// A file under construction.
#[derive(Debug)]
pub(super) struct Writer {
    gathered: Vec<u8>,
    filter: Filter,
    interfaces: Vec<Known>,
    numbers: BTreeMap<String, u32>,
}

impl Writer {
    /// Begins a section.
    pub(super) fn new(filter: &Filter) -> Self {
        let gathered = pcapng::section(concat!("vilab ", env!("CARGO_PKG_VERSION")));
        let (interfaces, numbers) = (Vec::new(), BTreeMap::new());
        Self { gathered, filter: filter.clone(), interfaces, numbers }
    }

    /// The number of an interface: that of a device of the same name and kind which was here before, or a new one.
    pub(super) fn interface(&mut self, name: &str, link_type: LinkType, at: u64) -> u32 {
        let known = self.numbers.get(name).copied();
        let same =
            known.filter(|n| self.interfaces.get(*n as usize).is_some_and(|i| i.link_type == link_type));
        if let Some(number) = same {
            return number;
        }
        let number = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        let filter = self.filter.text.as_deref();
        let block = Interface { name, link_type, snaplen: self.filter.snaplen, filter };
        self.gathered.extend(pcapng::interface(&block));
        self.interfaces.push(Known { link_type, since: at, received: 0, dropped: 0, told: 0 });
        self.numbers.insert(name.to_owned(), number);
        number
    }

    pub(super) fn packet(&mut self, packet: &Packet<'_>, out: &mut dyn Write) -> io::Result<()> {
        self.gathered.extend(pcapng::packet(packet));
        if self.gathered.len() >= GATHERED { self.flush(out) } else { Ok(()) }
    }

    pub(super) fn count(&mut self, interface: u32, received: u32, dropped: u32) {
        if let Some(known) = self.interfaces.get_mut(interface as usize) {
            known.received += u64::from(received);
            known.dropped += u64::from(dropped);
        }
    }

    /// Blocks for the interfaces that have dropped more than was told; at the `end` for all.
    pub(super) fn statistics(&mut self, at: u64, end: bool) {
        for (number, known) in (0..).zip(&mut self.interfaces) {
            if end || known.told != known.dropped {
                let Known { since, received, dropped, .. } = *known;
                known.told = dropped;
                let block = Statistics { interface: number, since, at, received, dropped };
                self.gathered.extend(pcapng::statistics(&block));
            }
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.interfaces.iter().map(|i| i.dropped).sum()
    }

    pub(super) fn devices(&self) -> usize {
        self.interfaces.len()
    }

    pub(super) fn flush(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let written = out.write_all(&self.gathered).and_then(|()| out.flush());
        self.gathered.clear();
        written
    }
}
