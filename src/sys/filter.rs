//! Filters of sockets, in classic BPF. A descriptor and instructions go in, instructions come out. It never checks a
//! program: the kernel does.
#![expect(unsafe_code, reason = "getsockopt and setsockopt with arrays")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Operation, jump if true, jump if false, operand: `struct sock_filter` of linux/filter.h.
pub type Instruction = (u16, u8, u8, u32);

/// The longest program (`BPF_MAXINSNS` in linux/bpf_common.h).
const LONGEST: usize = 4096;

/// The filter of a socket; empty where it has none.
///
/// # Errors
/// If this is no socket, or its filter is not of classic BPF.
pub fn get(fd: impl AsFd) -> io::Result<Vec<Instruction>> {
    let mut program = vec![libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; LONGEST];
    let mut count = libc::socklen_t::try_from(program.len()).map_err(io::Error::other)?;
    let to = program.as_mut_ptr().cast();
    // SAFETY: `program` and `count` live through the call, and for this option `count` counts instructions.
    let result = unsafe {
        libc::getsockopt(fd.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_GET_FILTER, to, &raw mut count)
    };
    nix::errno::Errno::result(result)?;
    program.truncate(count as usize);
    Ok(program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect())
}

/// Gives a socket a filter in place of the one it has.
///
/// # Errors
/// If the kernel refuses the program.
pub fn set(fd: impl AsFd, program: &[Instruction]) -> io::Result<()> {
    let mut program: Vec<libc::sock_filter> = program
        .iter()
        .map(|(code, jt, jf, k)| libc::sock_filter { code: *code, jt: *jt, jf: *jf, k: *k })
        .collect();
    let count = u16::try_from(program.len()).map_err(io::Error::other)?;
    let whole = libc::sock_fprog { len: count, filter: program.as_mut_ptr() };
    let len = libc::socklen_t::try_from(size_of_val(&whole)).map_err(io::Error::other)?;
    // SAFETY: `whole` and the program it points to live through the call, which only reads them.
    let result = unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const whole).cast(),
            len,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_filter_is_read_as_it_was_set() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(get(&socket).unwrap(), []);
        let program = [(0x28, 0, 0, 0), (0x15, 0, 1, 0xfefe), (6, 0, 0, 0x40000), (6, 0, 0, 0)];
        set(&socket, &program).unwrap();
        assert_eq!(get(&socket).unwrap(), program);
        assert!(set(&socket, &[(0x28, 0, 0, 0)]).is_err(), "it does not end");
    }
}
