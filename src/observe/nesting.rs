//! The kernel's limit on nested tunnels, measured. Nothing goes in; how many ipip tunnels in one another carry a
//! packet comes out. It builds them between two namespaces of threads that end.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ipnet::Ipv4Net;
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Kind, Result};
use crate::netlink::request::VethEnd;
use crate::netlink::{Request, Socket};

/// More than the deepest lab anybody draws, and more than any kernel's limit.
const TRIED: u8 = 12;
/// Time for one datagram through a veth pair, and for ARP before the first.
const PATIENCE: Duration = Duration::from_millis(300);
const MTU: u32 = 1500;
const PORT: u16 = 9;
/// Index of the veth's ends; tunnel k has this plus k.
const FIRST_INDEX: u32 = 10;

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nesting {
    /// The largest number of nested tunnels that carried a packet.
    pub passed: usize,
    /// Whether one more did not.
    pub limited: bool,
}

/// Measures. The caller must be allowed to make network namespaces, and the kernel must have ipip.
///
/// # Errors
/// If a namespace or a tunnel cannot be made.
pub fn nesting() -> Result<Nesting> {
    thread::scope(|scope| {
        let (to_near, from_far) = mpsc::channel();
        let (to_far, from_near) = mpsc::channel();
        let far = scope.spawn(move || serve(&to_near, &from_near));
        let near = scope.spawn(move || measure(&from_far, &to_far));
        let measured = near.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let served = far.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // Where one side fails the other only notices that it is alone: the cause is the side that failed first.
        match (served, measured) {
            (Err(e), _) | (Ok(()), Err(e)) => Err(e),
            (Ok(()), Ok(nesting)) => Ok(nesting),
        }
        .doing(Kind::Environment, || "cannot measure how many tunnels nest".into())
    })
}

/// A namespace of the calling thread.
struct Side {
    netns: File,
    socket: Socket,
    /// Its last bit: 0 or 1.
    own: u8,
}

impl Side {
    fn new(own: u8) -> io::Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(Self { netns: File::open("/proc/thread-self/ns/net")?, socket: Socket::open()?, own })
    }

    /// Gives level `level`, which exists, its address and sets it up.
    fn configure(&mut self, level: u8) -> io::Result<()> {
        let index = FIRST_INDEX + u32::from(level);
        let addr = Ipv4Net::new(address(level, self.own), 31).map_err(io::Error::other)?;
        self.execute([Request::up(index), Request::add_addr(index, addr, true)])
    }

    /// A tunnel between the addresses of the level below.
    fn add_tunnel(&mut self, level: u8) -> io::Result<()> {
        let (local, remote) = (address(level - 1, self.own), address(level - 1, 1 - self.own));
        let index = FIRST_INDEX + u32::from(level);
        self.execute([Request::add_ipip(&format!("t{level}"), index, local, remote)])?;
        self.configure(level)
    }

    fn execute<const N: usize>(&mut self, requests: [Request; N]) -> io::Result<()> {
        self.socket.execute(requests).map_err(io::Error::other)
    }
}

/// 192.168.LEVEL.0 and .1: nobody else's, as nothing leaves the two namespaces.
fn address(level: u8, own: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, level, own)
}

/// The far side: builds a level when asked to, and says for each whether a datagram came.
fn serve(to_near: &mpsc::Sender<Word>, from_near: &mpsc::Receiver<Word>) -> io::Result<()> {
    let mut side = Side::new(1)?;
    say(to_near, Word::Netns(side.netns.try_clone()?))?;
    while let Ok(Word::Level(level)) = from_near.recv() {
        if level == 0 {
            side.configure(0)?
        } else {
            side.add_tunnel(level)?
        }
        let socket = UdpSocket::bind((address(level, side.own), PORT))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        say(to_near, Word::Level(level))?;
        say(to_near, Word::Came(socket.recv(&mut [0]).is_ok()))?;
    }
    Ok(())
}

/// The near side: builds level after level until a datagram does not come.
fn measure(from_far: &mpsc::Receiver<Word>, to_far: &mpsc::Sender<Word>) -> io::Result<Nesting> {
    let mut side = Side::new(0)?;
    let Word::Netns(far) = hear(from_far)? else { return Err(io::ErrorKind::InvalidData.into()) };
    let (a, b) = (&side.netns, &far);
    let (a, b) = (
        VethEnd { netns: a, dev: "v", index: FIRST_INDEX, mac: crate::plan::Mac([2, 0, 0, 0, 0, 1]) },
        VethEnd { netns: b, dev: "v", index: FIRST_INDEX, mac: crate::plan::Mac([2, 0, 0, 0, 0, 2]) },
    );
    let veth = Request::add_veth(&a, &b, MTU);
    side.execute([veth])?;
    for level in 0..=TRIED {
        say(to_far, Word::Level(level))?;
        if level == 0 {
            side.configure(0)?
        } else {
            side.add_tunnel(level)?
        }
        if !passes(&side, level, from_far)? {
            return Ok(Nesting { passed: usize::from(level.saturating_sub(1)), limited: true });
        }
    }
    Ok(Nesting { passed: usize::from(TRIED), limited: false })
}

fn passes(side: &Side, level: u8, from_far: &mpsc::Receiver<Word>) -> io::Result<bool> {
    let Word::Level(_) = hear(from_far)? else { return Err(io::ErrorKind::InvalidData.into()) };
    let socket = UdpSocket::bind((address(level, side.own), 0))?;
    // The kernel may say at once that it will not nest as deep; that nothing comes says the same.
    let _refused = socket.send_to(&[0], (address(level, 1 - side.own), PORT));
    match hear(from_far)? {
        Word::Came(came) => Ok(came),
        Word::Netns(_) | Word::Level(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// What the sides tell each other.
enum Word {
    /// The far namespace.
    Netns(File),
    /// Build this level; it is built.
    Level(u8),
    Came(bool),
}

fn say(to: &mpsc::Sender<Word>, word: Word) -> io::Result<()> {
    to.send(word).map_err(|_| io::ErrorKind::BrokenPipe.into())
}

fn hear(from: &mpsc::Receiver<Word>) -> io::Result<Word> {
    from.recv().map_err(|_| io::ErrorKind::BrokenPipe.into())
}
