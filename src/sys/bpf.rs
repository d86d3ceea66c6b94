//! Programs of extended BPF for traffic control. Instructions go in, a descriptor of the loaded program comes out. It never
//! attaches one, and never checks one: the kernel does.
#![expect(unsafe_code, reason = "bpf(2)")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// `BPF_PROG_LOAD` and `BPF_PROG_TYPE_SCHED_CLS` of linux/bpf.h.
const LOAD: libc::c_int = 5;
const SCHED_CLS: u32 = 3;

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
    let license = c"Dual MIT/GPL";
    let attributes = Attributes {
        kind: SCHED_CLS,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
    };
    // SAFETY: `attributes` is as long as said and lives through the call, as do the program and the licence it points to; the
    // kernel only reads them.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, LOAD, &raw const attributes, size_of::<Attributes>()) };
    let fd = i32::try_from(nix::errno::Errno::result(fd)?).map_err(io::Error::other)?;
    // SAFETY: the kernel just gave this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
