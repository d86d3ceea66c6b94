//! Programs of extended BPF for traffic control, and counters that they share. Instructions go in, a descriptor of the loaded
//! program comes out. It never attaches one, and never checks one: the kernel does.
#![expect(unsafe_code, reason = "bpf(2)")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Commands, a type of programs and one of maps (linux/bpf.h).
const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP: libc::c_int = 1;
const LOAD: libc::c_int = 5;
const SCHED_CLS: u32 = 3;
const ARRAY: u32 = 2;
/// Of the verifier's log: the reasons of a refusal, and what it counted.
const REASONS_AND_COUNTS: u32 = 1 | 4;
/// As much of it as is kept, bytes.
const LOG: usize = 1 << 20;

/// One instruction: `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    pub code: u8,
    /// Destination in the lower half, source in the upper.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

/// The fields of `union bpf_attr` that loading needs; the kernel takes the others for zero.
#[repr(C)]
struct Attributes {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

/// Loads a classifier.
///
/// # Errors
/// `EPERM` without `CAP_BPF` and `CAP_NET_ADMIN` of the machine's own user namespace; what the kernel says of the program.
pub fn load_classifier(program: &[Instruction]) -> io::Result<OwnedFd> {
    load(program, &mut [])
}

/// Loads a classifier and gives what the kernel's verifier says of it, which is long where it refuses one.
///
/// # Errors
/// As [`load_classifier`].
pub fn load_and_explain(program: &[Instruction]) -> (io::Result<OwnedFd>, String) {
    let mut log = vec![0; LOG];
    let loaded = load(program, &mut log);
    let len = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    (loaded, String::from_utf8_lossy(&log[..len]).into_owned())
}

fn load(program: &[Instruction], log: &mut [u8]) -> io::Result<OwnedFd> {
    let license = c"Dual MIT/GPL";
    let mut attributes = Attributes {
        kind: SCHED_CLS,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
    };
    if !log.is_empty() {
        attributes.log_level = REASONS_AND_COUNTS;
        attributes.log_size = u32::try_from(log.len()).map_err(io::Error::other)?;
        attributes.log = log.as_mut_ptr() as u64;
    }
    // SAFETY: `attributes` is as long as said and lives through the call, as do the program, the licence and the log it points
    // to; of these the kernel writes to the log alone, no more than its length.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, LOAD, &raw const attributes, size_of::<Attributes>()) };
    owned(fd)
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(nix::errno::Errno::result(result)?).map_err(io::Error::other)?;
    // SAFETY: the kernel just gave this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Numbers that programs write and others read: a map of one value, which holds all of them.
#[derive(Debug)]
pub struct Numbers {
    pub fd: OwnedFd,
    count: usize,
}

/// The fields of `union bpf_attr` that making a map needs.
#[repr(C)]
struct MapAttributes {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
}

/// Those that reading one needs.
#[repr(C)]
struct LookupAttributes {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Numbers {
    /// All zero.
    ///
    /// # Errors
    /// As [`load_classifier`], and where there is no memory.
    pub fn new(count: usize) -> io::Result<Self> {
        let value_size = u32::try_from(count * size_of::<u64>()).map_err(io::Error::other)?;
        let attributes = MapAttributes { kind: ARRAY, key_size: 4, value_size, entries: 1, flags: 0 };
        // SAFETY: `attributes` is as long as said and lives through the call, which only reads it.
        let fd = unsafe {
            libc::syscall(libc::SYS_bpf, MAP_CREATE, &raw const attributes, size_of::<MapAttributes>())
        };
        Ok(Self { fd: owned(fd)?, count })
    }

    /// # Errors
    /// What the kernel says.
    pub fn read(&self) -> io::Result<Vec<u64>> {
        let key = 0_u32;
        let mut numbers = vec![0_u64; self.count];
        let attributes = LookupAttributes {
            map: u32::try_from(self.fd.as_raw_fd()).map_err(io::Error::other)?,
            padding: 0,
            key: (&raw const key) as u64,
            value: numbers.as_mut_ptr() as u64,
            flags: 0,
        };
        // SAFETY: `attributes`, the key and the numbers live through the call, which writes the numbers alone, as many bytes as
        // the map was made for.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, MAP_LOOKUP, &raw const attributes, size_of::<LookupAttributes>())
        };
        nix::errno::Errno::result(result)?;
        Ok(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_program_is_explained() {
        // It ends without a verdict.
        let exit = Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 };
        let (loaded, said) = load_and_explain(&[exit]);
        match loaded.unwrap_err().raw_os_error() {
            // Without the right to load any, there is nothing to explain.
            Some(libc::EPERM) => assert_eq!(said, ""),
            _ => assert!(said.contains("R0 !read_ok"), "{said}"),
        }
    }
}
