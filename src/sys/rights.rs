//! Descriptors on their way to another process: SCM_RIGHTS of unix(7). A text and descriptors go in, and the same come
//! out at the other end of a socket. It never keeps one that has been sent.
#![expect(unsafe_code, reason = "received descriptors are plain numbers in nix")]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Descriptors that go with one text at most; `SCM_MAX_FD` of Linux is 253.
pub const MOST: usize = 64;

/// Sends a text that is not empty, and copies of descriptors with it, in one piece.
///
/// # Errors
/// What sendmsg(2) says; that not all of the text was taken.
pub fn send(stream: &UnixStream, text: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let sent =
        sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(text)], rights, MsgFlags::MSG_NOSIGNAL, None)?;
    if sent == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives what was sent in one piece: up to `room` bytes and their descriptors, closed on exec.
///
/// # Errors
/// What recvmsg(2) says.
pub fn receive(stream: &UnixStream, room: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut text, mut space) = (vec![0; room], nix::cmsg_space!([RawFd; MOST]));
    let mut slices = [IoSliceMut::new(&mut text)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just made these descriptors for us; nothing else owns them.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let length = message.bytes;
    text.truncate(length);
    Ok((text, fds))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn descriptors_arrive_with_their_text() {
        let (here, there) = UnixStream::pair().unwrap();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        send(&here, b"two\n", &[reader.as_fd(), writer.as_fd()]).unwrap();
        drop((reader, writer));
        let (text, mut fds) = receive(&there, 100).unwrap();
        assert_eq!((text.as_slice(), fds.len()), (b"two\n".as_slice(), 2));
        let (mut writer, mut reader) = (File::from(fds.remove(1)), File::from(fds.remove(0)));
        writer.write_all(b"through").unwrap();
        drop(writer);
        let mut found = String::new();
        reader.read_to_string(&mut found).unwrap();
        assert_eq!(found, "through");
        send(&here, b"none\n", &[]).unwrap();
        assert_eq!(receive(&there, 100).unwrap().0, b"none\n");
        drop(here);
        assert_eq!(receive(&there, 100).unwrap().0, b"");
    }
}
