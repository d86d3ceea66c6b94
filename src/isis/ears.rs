//! What isisd hears. The packet sockets of a namespace go in; those on which isisd would be deaf to PDUs get a filter
//! that lets them in. It never touches a socket with any other filter than that one.
//!
//! Before FRR 9.0, isisd filters for frames with an LLC header on every device, also on those without a link layer, where
//! it sends bare PDUs and takes nothing else (FRR pull request 12979, "isisd: IS-IS over tunnel"). Later ones have a
//! filter like the one set here and are left alone.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;

use super::pdu::PROTOCOL;
use crate::sys::filter::{self, Instruction};
use crate::sys::pidfd;

/// isisd's: the frame starts with LLC for ISO, FE FE 03, and a PDU follows.
const LLC_ALONE: [Instruction; 6] = [
    (LOAD_HALF, 0, 0, 0),
    (JUMP_EQUAL, 0, 3, 0xfefe),
    (LOAD_BYTE, 0, 0, 3),
    (JUMP_EQUAL, 0, 1, 0x83),
    (RETURN, 0, 0, WHOLE),
    (RETURN, 0, 0, 0),
];
/// By protocol: this is for devices without a link layer only.
const BARE_PDUS: [Instruction; 4] = [
    (LOAD_HALF, 0, 0, PACKET_PROTOCOL),
    (JUMP_EQUAL, 0, 1, PROTOCOL as u32),
    (RETURN, 0, 0, WHOLE),
    (RETURN, 0, 0, 0),
];
/// `BPF_LD | BPF_H | BPF_ABS` and so on, of linux/bpf_common.h.
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const WHOLE: u32 = 0x40000;
/// `SKF_AD_OFF + SKF_AD_PROTOCOL` of linux/filter.h.
const PACKET_PROTOCOL: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PROTOCOL).cast_unsigned();

/// `SOCK_DGRAM` and `ETH_P_ALL`, as the kernel prints them.
const KIND: &str = "2";
const ALL_PROTOCOLS: &str = "0003";
/// Bytes of the table of packet sockets read at once.
const TABLE_CHUNK: usize = 4096;

/// The packet sockets on one device.
#[derive(Debug)]
pub(super) struct Ears {
    /// The table of the namespace in which it was opened.
    table: File,
    index: u32,
    /// Inodes of sockets that need no more attention.
    done: BTreeSet<u64>,
}

impl Ears {
    /// Those on device `dev` of the calling thread's namespace.
    pub(super) fn open(dev: &str) -> io::Result<Self> {
        let table = File::open("/proc/thread-self/net/packet")?;
        Ok(Self { table, index: nix::net::if_::if_nametoindex(dev)?, done: BTreeSet::new() })
    }

    /// Opens the ears of an isisd that has opened its socket since the last call.
    pub(super) fn open_up(&mut self) -> io::Result<()> {
        let found = sockets(&self.read_table()?, self.index);
        let new: BTreeSet<u64> = found.difference(&self.done).copied().collect();
        if !new.is_empty() {
            in_all_processes(&new)?;
        }
        self.done = found;
        Ok(())
    }

    fn read_table(&self) -> io::Result<String> {
        let mut bytes = Vec::new();
        let mut chunk = [0; TABLE_CHUNK];
        loop {
            match self.table.read_at(&mut chunk, bytes.len() as u64)? {
                0 => return String::from_utf8(bytes).map_err(io::Error::other),
                len => bytes.extend_from_slice(&chunk[..len]),
            }
        }
    }
}

/// The inodes of sockets for all protocols on one device: columns are address, references, type, protocol, device,
/// running, memory, user and inode.
fn sockets(table: &str, index: u32) -> BTreeSet<u64> {
    let inode = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [_, _, kind, protocol, device, _, _, _, inode] = columns[..] else { return None };
        let ours = kind == KIND && protocol == ALL_PROTOCOLS && device.parse() == Ok(index);
        ours.then(|| inode.parse().ok()).flatten()
    };
    table.lines().filter_map(inode).collect()
}

/// Looks for the sockets among the descriptors of all processes of the lab. What ends meanwhile is no error.
fn in_all_processes(inodes: &BTreeSet<u64>) -> io::Result<()> {
    let names: BTreeSet<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    for process in fs::read_dir("/proc")? {
        let process = process?;
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        for descriptor in descriptors(&process.path(), &names) {
            match open_ear(pid, descriptor).map_err(|e| (e.raw_os_error().map(Errno::from_raw), e)) {
                Ok(()) | Err((Some(Errno::ESRCH | Errno::EBADF), _)) => {}
                Err((_, e)) => return Err(e),
            }
        }
    }
    Ok(())
}

/// The descriptors of a process that are one of these sockets.
fn descriptors(process: &Path, names: &BTreeSet<String>) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(process.join("fd")) else { return Vec::new() };
    let is_one =
        |path: &Path| fs::read_link(path).is_ok_and(|to| to.to_str().is_some_and(|to| names.contains(to)));
    let entries = entries.filter_map(Result::ok).filter(|entry| is_one(&entry.path()));
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn open_ear(pid: i32, descriptor: i32) -> io::Result<()> {
    let socket = pidfd::take(pidfd::open(pid)?, descriptor)?;
    if filter::get(&socket)? == LLC_ALONE { filter::set(&socket, &BARE_PDUS) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_one_device_for_all_protocols() {
        let table = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n\
                     ffff8881012ec000 3      2    0003   7     1 0      106    2201\n\
                     ffff8881012ec800 3      2    0003   8     1 0      106    2202\n\
                     ffff8881012ed000 3      3    0003   7     1 0      0      2203\n\
                     ffff8881012ed800 3      2    00fe   7     1 0      0      2204\n\
                     ffff8881012ee000 3      2    0003   7     1 0      106    2205\n";
        assert_eq!(sockets(table, 7), BTreeSet::from([2201, 2205]));
        assert_eq!(sockets("", 7), BTreeSet::new());
    }
}
