//! A node of a lab under test. Commands, closures and addresses go in; what ran there and sockets that stay there come out.
//! It never changes where the calling thread is.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

use super::errand::{Errand, Socket};
use super::{COMMAND, Lab};
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::{self, NodeId, Target};
use crate::process;

/// How long [`Node::tcp_connect`] waits.
const CONNECT: Duration = Duration::from_secs(10);

/// A node.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    lab: &'a Lab,
    id: NodeId,
}

impl<'a> Node<'a> {
    pub(super) fn new(lab: &'a Lab, id: NodeId) -> Self {
        Self { lab, id }
    }

    /// Its full name: `base/X`, `blue/a`.
    #[must_use]
    pub fn name(&self) -> String {
        self.lab.model().full_name(self.id)
    }

    /// What is known of it.
    #[must_use]
    pub fn model(&self) -> &'a model::Node {
        self.lab.model().node(self.id)
    }

    /// Its host address, or of a router the first that it has.
    ///
    /// # Errors
    /// If it has none: a node without links.
    pub fn address(&self) -> Result<Ipv4Addr> {
        let address = self.lab.model().address(self.id);
        address.ok_or_else(|| Error::usage(format!("{} has no address", self.name())))
    }

    /// All its addresses, that one first.
    #[must_use]
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        self.lab.model().addresses(self.id).collect()
    }

    /// A command that runs in the node: with its network, names, files and host name, as `vilab exec`.
    ///
    /// The command ends with the process behind the [`std::process::Child`] that it is spawned as, and with the lab. Of a
    /// command that a signal n ended the status is 128 + n, of one that is not found 127, and of one that cannot be run 126.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = process::myself(&format!("vilab: in {}", self.name()), COMMAND);
        command.args(self.lab.place()).arg(self.name()).arg("--").arg(program);
        command
    }

    /// Calls `f` on a thread of its own in the node: with its network, names and files. Sockets made there stay there, and
    /// can be used from anywhere; processes started there are in the node.
    ///
    /// # Errors
    /// Without root: the lab is in a user namespace of its own, which a thread cannot join.
    ///
    /// # Panics
    /// If `f` does.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        if !self.is_enterable() {
            return Err(Error::environment(format!("cannot run a closure in {}", self.name()))
                .because("without root a lab is in a user namespace of its own, which no thread can join")
                .hint(
                    "use `command`, `tcp_listener`, `tcp_connect` or `udp_socket`; or run all tests as root of a \
                     user namespace: unshare --user --map-root-user cargo test",
                ));
        }
        self.lab.running().namespaces().run_in_node(&self.model().netns, f)
    }

    /// A TCP socket that listens in the node, at a port of all its addresses.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn tcp_listener(&self, port: u16) -> Result<TcpListener> {
        self.socket(Socket::Listen(any(port))).map(TcpListener::from)
    }

    /// A TCP connection from the node.
    ///
    /// # Errors
    /// If it is refused, or nobody answers within ten seconds.
    pub fn tcp_connect(&self, to: impl Into<SocketAddr>) -> Result<TcpStream> {
        self.socket(Socket::Connect(to.into(), CONNECT)).map(TcpStream::from)
    }

    /// The same, giving up after `limit`.
    ///
    /// # Errors
    /// As [`Self::tcp_connect`].
    pub fn tcp_connect_within(&self, to: impl Into<SocketAddr>, limit: Duration) -> Result<TcpStream> {
        self.socket(Socket::Connect(to.into(), limit)).map(TcpStream::from)
    }

    /// A UDP socket in the node, at a port of all its addresses; port 0 is one that is free.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn udp_socket(&self, port: u16) -> Result<UdpSocket> {
        self.socket(Socket::Datagram(any(port))).map(UdpSocket::from)
    }

    fn socket(&self, socket: Socket) -> Result<OwnedFd> {
        if !self.is_enterable() {
            return self.lab.ask_socket(&Errand::Socket { node: self.name(), socket });
        }
        let made = self.lab.running().namespaces().run(&self.model().netns, || socket.open())?;
        made.doing(Kind::Kernel, || format!("cannot {socket} in {}", self.name()))
    }

    /// Sets the node down, and all that is placed on it. As with [`super::Link::down`], a packet may pass for some
    /// milliseconds.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn down(&self) -> Result<()> {
        self.set(true)
    }

    /// Sets it up again.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn up(&self) -> Result<()> {
        self.set(false)
    }

    fn set(&self, down: bool) -> Result<()> {
        self.lab.set_fault(Target::Node(self.id), down)
    }

    /// Whether threads of this process can enter the lab's namespaces: they are of this process's user namespace.
    fn is_enterable(&self) -> bool {
        let inode = |path: String| -> io::Result<u64> { Ok(File::open(path)?.metadata()?.ino()) };
        let init = self.lab.running().state().init;
        let pair = (inode(format!("/proc/{init}/ns/user")), inode("/proc/self/ns/user".to_owned()));
        matches!(pair, (Ok(theirs), Ok(ours)) if theirs == ours)
    }
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
}
