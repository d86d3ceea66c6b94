//! The sockets. A [`Config`] goes in; questions are answered in every node until the process is killed. It never takes
//! a port that a program of the node has.

use std::fs::File;
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, bind, recvfrom, sendto, setsockopt, socket,
    sockopt,
};

use super::{ADDRESS, Config, PORT, answer};
use crate::error::{Context, Kind, Result};
use crate::lab::Namespaces;

/// Bytes of a question at most.
const LONGEST: usize = 4096;
const EVENTS: usize = 64;

/// Opens a socket in each node, calls `ready`, and answers.
///
/// # Errors
/// If a node cannot be entered, or the kernel refuses a socket for another reason than that its port is taken.
pub fn run(config: &Config, namespaces: &Namespaces, ready: impl FnOnce()) -> Result<()> {
    // A descriptor a node; where the limit cannot be raised, opening one will say so.
    let _kept = crate::sys::limits::raise_open_files();
    // One thread that goes from namespace to namespace, and ends.
    let opened = std::thread::scope(|scope| {
        let opening = scope.spawn(|| config.nodes.keys().map(|ns| open_in(&namespaces.path(ns))).collect());
        let opened: Vec<io::Result<Option<OwnedFd>>> =
            opening.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        opened
    });
    let mut sockets: Vec<(OwnedFd, usize)> = Vec::new();
    for ((netns, zone), opened) in config.nodes.iter().zip(opened) {
        let opened =
            opened.doing(Kind::Kernel, || format!("cannot listen on {ADDRESS}:{PORT} in {netns}"))?;
        sockets.extend(opened.map(|socket| (socket, *zone)));
    }
    ready();
    serve(config, &sockets).doing(Kind::Kernel, || "cannot answer questions".to_owned())
}

fn open_in(netns: &Path) -> io::Result<Option<OwnedFd>> {
    setns(File::open(netns)?, CloneFlags::CLONE_NEWNET)?;
    Ok(open()?)
}

/// None where a program of the node has the port. The port is shared with those that share it too.
fn open() -> nix::Result<Option<OwnedFd>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    match bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(ADDRESS, PORT))) {
        Err(Errno::EADDRINUSE) => Ok(None),
        other => other.map(|()| Some(fd)),
    }
}

fn serve(config: &Config, sockets: &[(OwnedFd, usize)]) -> io::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for (i, (socket, _)) in sockets.iter().enumerate() {
        epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, i as u64))?;
    }
    let mut events = [EpollEvent::empty(); EVENTS];
    let mut buffer = [0; LONGEST];
    loop {
        let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => 0,
            other => other?,
        };
        for event in &events[..count] {
            let at = usize::try_from(event.data()).ok().and_then(|i| sockets.get(i));
            if let Some((socket, zone)) = at {
                reply(socket, config, *zone, &mut buffer);
            }
        }
    }
}

/// Answers one question. Whoever has not got its answer asks again.
fn reply(socket: &OwnedFd, config: &Config, zone: usize, buffer: &mut [u8]) {
    let Ok((length, Some(from))) = recvfrom::<SockaddrIn>(socket.as_raw_fd(), buffer) else { return };
    let Some(bytes) = config.zones.get(zone).and_then(|z| answer(z, &buffer[..length])) else { return };
    let _lost = sendto(socket.as_raw_fd(), &bytes, &from, MsgFlags::MSG_DONTWAIT);
}
