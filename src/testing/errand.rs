//! Things that are done for a test by a process of their own, which joins the lab's user namespace, as no process of several
//! threads can. An [`Errand`] goes in on a socket; one line of JSON comes out, with the socket that was made where one was
//! asked for. The process never outlives the thread that waits for it.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Lab;
use crate::error::{Context as _, Error, Kind, Result};
use crate::lab::Running;
use crate::lab::message::Failure;
use crate::model::{Impairment, Target, called};
use crate::observe::{self, Followed, with_context};
use crate::process;
use crate::sys::{child, rights};

/// The subcommand under which [`run`] is started.
pub const ERRAND: &str = "lab-errand";
/// Bytes read at once.
const PIECE: usize = 64 << 10;

/// What is to be done. Nodes and links go by their full names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "errand", rename_all = "kebab-case")]
pub(super) enum Errand {
    Fault { target: Target, down: bool },
    Impair { link: String, to: [Impairment; 2] },
    Wait { limit: Duration },
    Test,
    Trace { from: String, to: String },
    Socket { node: String, socket: Socket },
}

/// A socket to be made in a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Socket {
    Listen(SocketAddr),
    Connect(SocketAddr, Duration),
    Datagram(SocketAddr),
}

impl Socket {
    /// Makes it in the network namespace of the calling thread.
    pub(super) fn open(self) -> io::Result<OwnedFd> {
        match self {
            Self::Listen(addr) => TcpListener::bind(addr).map(OwnedFd::from),
            Self::Connect(addr, limit) => TcpStream::connect_timeout(&addr, limit).map(OwnedFd::from),
            Self::Datagram(addr) => UdpSocket::bind(addr).map(OwnedFd::from),
        }
    }
}

/// As it stands behind "cannot".
impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(addr) => write!(f, "listen at {addr}"),
            Self::Connect(addr, _) => write!(f, "connect to {addr}"),
            Self::Datagram(addr) => write!(f, "have a UDP socket at {addr}"),
        }
    }
}

// ---- the test's side --------------------------------------------------------------------------------------------

impl Lab {
    /// Where it is: the directory of labs, and its name.
    pub(super) fn place(&self) -> [&Path; 2] {
        let dir = self.running().dir();
        [dir.parent().unwrap_or(dir), Path::new(self.name())]
    }

    pub(super) fn set_fault(&self, target: Target, down: bool) -> Result<()> {
        self.ask(&Errand::Fault { target, down })
    }

    /// Has an errand done, and what came of it.
    pub(super) fn ask<T: DeserializeOwned>(&self, errand: &Errand) -> Result<T> {
        let (value, _) = self.send(errand)?;
        serde_json::from_value(value).doing(Kind::Bug, || "cannot read what came of it".into())
    }

    /// Has a socket made.
    pub(super) fn ask_socket(&self, errand: &Errand) -> Result<OwnedFd> {
        self.send(errand)?.1.pop().ok_or_else(|| Error::bug("no socket came"))
    }

    fn send(&self, errand: &Errand) -> Result<(Value, Vec<OwnedFd>)> {
        let what = || format!("cannot have something done in lab {}", self.name());
        let (mut ours, theirs) = UnixStream::pair().doing(Kind::Environment, what)?;
        let mut child = self.spawn(theirs).doing(Kind::Environment, what)?;
        let mut line = serde_json::to_vec(errand).doing(Kind::Bug, what)?;
        line.push(b'\n');
        // A process that ended early says more by what it printed.
        let _broken_pipe = ours.write_all(&line);
        let received = receive(&ours);
        let said = said(&mut child).doing(Kind::Environment, what)?;
        let (text, fds) = received.doing(Kind::Environment, what)?;
        if text.is_empty() {
            return Err(Error::bug(what()).because(said));
        }
        let reply: std::result::Result<Value, Failure> =
            serde_json::from_slice(&text).doing(Kind::Bug, what)?;
        Ok((reply?, fds))
    }

    /// The command is dropped here, and with it this process's copy of the other end.
    fn spawn(&self, theirs: UnixStream) -> io::Result<Child> {
        let mut command = process::myself(&format!("vilab: errand in {}", self.name()), ERRAND);
        child::die_with_parent(&mut command);
        command.args(self.place()).stdin(Stdio::from(OwnedFd::from(theirs)));
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
    }
}

/// All that comes until the end.
fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut text, mut fds) = (Vec::new(), Vec::new());
    loop {
        let (piece, more) = match rights::receive(stream, PIECE) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if piece.is_empty() {
            return Ok((text, fds));
        }
        text.extend(piece);
        fds.extend(more);
    }
}

/// Waits for the process; what it complained of.
fn said(child: &mut Child) -> io::Result<String> {
    let mut text = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut text)?;
    }
    let status = child.wait()?;
    Ok(if text.trim().is_empty() { status.to_string() } else { text.trim().to_owned() })
}

// ---- the process ------------------------------------------------------------------------------------------------

/// Does the errand that comes on standard input, in the lab `name` of the directory `base`.
///
/// # Errors
/// If nobody can be told; what comes of the errand is told.
pub fn run(base: &Path, name: &str) -> Result<()> {
    let what = || "cannot hear what is to be done".to_owned();
    let stream = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let stream = stream.doing(Kind::Bug, what)?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).doing(Kind::Bug, what)?;
    let errand: Errand = serde_json::from_str(&line).doing(Kind::Bug, what)?;
    let done = Running::open_in(base, name).and_then(|lab| carry_out(lab, &errand));
    let (reply, fds) = match done {
        Ok((value, fd)) => (Ok(value), fd),
        Err(e) => (Err(Failure::from(&e)), None),
    };
    let text = serde_json::to_vec(&reply).doing(Kind::Bug, what)?;
    let told = match fds {
        Some(fd) => rights::send(&stream, &text, &[fd.as_fd()]),
        None => (&stream).write_all(&text),
    };
    told.doing(Kind::Environment, || "nobody hears what was done".into())
}

fn carry_out(mut lab: Running, errand: &Errand) -> Result<(Value, Option<OwnedFd>)> {
    let model = lab.state().lab.clone();
    lab.join()?;
    let value = match errand {
        Errand::Fault { target, down } => observe::set_fault(&lab, *target, *down).map(|_| Value::Null),
        Errand::Impair { link, to } => {
            let link = called::link(&model, link)?;
            observe::set_impairment(&mut lab, link, *to).map(|measured| json!(measured))
        }
        Errand::Wait { limit } => {
            let faults = lab.faults()?;
            with_context(&lab, |context| observe::converge(context, &faults, *limit, &mut |_, _| ()))
                .map(|_| Value::Null)
        }
        Errand::Test => Ok(json!(with_context(&lab, |context| observe::run_tests(context, &mut |_, _| ())))),
        Errand::Trace { from, to } => {
            let (from, to) = (called::node(&model, from)?, called::node(&model, to)?);
            observe::follow_in(&lab, from, to, &Followed::Probe(None)).map(|t| json!(t))
        }
        Errand::Socket { node, socket } => {
            let netns = &model.node(called::node(&model, node)?).netns;
            let made = lab.namespaces().run(netns, || socket.open())?;
            let made = made.doing(Kind::Kernel, || format!("cannot {socket} in {node}"))?;
            return Ok((Value::Null, Some(made)));
        }
    };
    Ok((value?, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errand_survives_the_journey() {
        let addr = SocketAddr::from(([10, 0, 0, 1], 80));
        let errands = [
            Errand::Wait { limit: Duration::from_millis(1500) },
            Errand::Test,
            Errand::Impair { link: "base/X--Y".into(), to: [Impairment::default(); 2] },
            Errand::Socket { node: "a/b".into(), socket: Socket::Connect(addr, Duration::from_secs(1)) },
        ];
        for errand in errands {
            let text = serde_json::to_string(&errand).unwrap();
            assert_eq!(serde_json::from_str::<Errand>(&text).unwrap(), errand, "{text}");
        }
    }

    #[test]
    fn long_answers_come_whole() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let long = vec![b'x'; 3 * PIECE + 7];
        let file = std::fs::File::open("/dev/null").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                rights::send(&theirs, b"x", &[file.as_fd()]).unwrap();
                (&theirs).write_all(&long).unwrap();
            });
            let (text, fds) = receive(&ours).unwrap();
            assert_eq!((text.len(), fds.len()), (3 * PIECE + 8, 1));
        });
    }
}
