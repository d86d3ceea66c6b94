//! How other processes speak with a lab's init. Requests, one JSON value a line on a Unix stream socket, go in; one
//! line each comes out, when it has been carried out. It never takes part in what the lab carries.
//!
//! ```text
//! {"request":"services"}
//! {"services":[{"name":"web","node":"blue/a","state":"running","pid":7,...}]}
//! {"request":"restart","service":"web"}
//! "done"
//! ```

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::course::{Exit, State};
use crate::error::{Context, Error, Kind, Result};
use crate::fastpath::control::line;
use crate::plan;

/// How long a client waits: longer than a service may take to end and to become ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long init waits for a client that does not read its answer.
const READER: Duration = Duration::from_secs(2);
/// Bytes of one request at most.
const LONGEST: usize = 64 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    Services,
    /// Starts the engine where none runs.
    Engine,
    Start {
        service: String,
    },
    Stop {
        service: String,
    },
    Restart {
        service: String,
    },
    /// Of the services of nodes, keep these and no others; answered when the others have ended.
    Keep {
        services: Vec<plan::Service>,
    },
    /// Take these on, unless they are there; answered when they have settled.
    Take {
        services: Vec<plan::Service>,
    },
    /// Starts what carries IS-IS over virtual links where none runs.
    Adapter,
    /// Starts what serves emulated routers where none runs.
    Routers,
    /// Starts what watches strands where none runs.
    Strands,
    /// Lets owners of VIs in.
    Door,
    /// Answered with all services, and then with each that changes, until the client goes.
    Watch,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    Services(Vec<Status>),
    Done,
    /// The request was not carried out; why.
    Refused(String),
    /// To who watches: a service that is in another state.
    Changed(Status),
    /// And one that is no more.
    Removed(String),
}

/// A service as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub name: String,
    /// Full name of its node; none for the lab's own processes.
    pub node: Option<String>,
    pub argv: Vec<String>,
    pub state: State,
    /// As processes in the lab see it.
    pub pid: Option<i32>,
    /// How often it has been started again.
    pub restarts: u32,
    /// How it ended last.
    pub last: Option<Exit>,
    /// File name of its log.
    pub log: String,
}

/// The side that is asked: a listener and the clients that are connected. It serves init, and others that are asked so.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    clients: BTreeMap<u64, Conversation>,
    next: u64,
}

#[derive(Debug)]
struct Conversation {
    stream: UnixStream,
    heard: Vec<u8>,
}

impl Server {
    /// # Errors
    /// If it cannot listen at `path`.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, clients: BTreeMap::new(), next: 0 })
    }

    /// Readable when somebody connects.
    #[must_use]
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The number of a client that has just connected, and what to poll for its requests.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn accept(&mut self) -> io::Result<Option<(u64, BorrowedFd<'_>)>> {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e),
        };
        stream.set_nonblocking(true)?;
        let id = self.next;
        self.next += 1;
        let client = self.clients.entry(id).or_insert(Conversation { stream, heard: Vec::new() });
        Ok(Some((id, client.stream.as_fd())))
    }

    /// What a client asks, each request or why it is none. A client that has gone is forgotten.
    pub fn hear<Q: DeserializeOwned>(&mut self, id: u64) -> Vec<std::result::Result<Q, String>> {
        let Some(client) = self.clients.get_mut(&id) else { return Vec::new() };
        let stays = client.read() && client.heard.len() <= LONGEST;
        let requests = client.requests();
        if !stays {
            self.clients.remove(&id);
        }
        requests
    }

    /// Answers a client. One that does not read its answers is forgotten.
    pub fn answer(&mut self, id: u64, reply: &impl Serialize) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let sent = line(reply).and_then(|bytes| client.write(&bytes));
        if sent.is_err() {
            self.clients.remove(&id);
        }
    }

    /// Tells a client something without waiting for it; false where there is none, or it does not read and is forgotten.
    pub fn tell(&mut self, id: u64, reply: &impl Serialize) -> bool {
        let Some(client) = self.clients.get_mut(&id) else { return false };
        let told = line(reply).is_ok_and(|bytes| client.stream.write(&bytes).is_ok_and(|n| n == bytes.len()));
        if !told {
            self.clients.remove(&id);
        }
        told
    }
}

impl Conversation {
    /// Reads what there is; false at the end.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(n) => self.heard.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return e.kind() == ErrorKind::WouldBlock,
            }
        }
    }

    /// Long lists are more than a socket holds: waits, not for ever, for the client to read.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.set_nonblocking(false)?;
        self.stream.set_write_timeout(Some(READER))?;
        self.stream.write_all(bytes)?;
        self.stream.set_nonblocking(true)
    }

    /// Takes the whole lines.
    fn requests<Q: DeserializeOwned>(&mut self) -> Vec<std::result::Result<Q, String>> {
        let whole = self.heard.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = self.heard.drain(..whole).collect();
        let lines = lines.split(|b| *b == b'\n').filter(|l| !l.is_empty());
        lines.map(|l| serde_json::from_slice(l).map_err(|e| format!("not a request: {e}"))).collect()
    }
}

/// A connection to a lab's init.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// # Errors
    /// If nobody listens at `path`.
    pub(super) fn connect(path: &Path) -> Result<Self> {
        let what = || format!("cannot reach the lab's init at {}", path.display());
        let stream = UnixStream::connect(path).doing(Kind::Environment, what)?;
        stream.set_read_timeout(Some(PATIENCE)).doing(Kind::Environment, what)?;
        stream.set_write_timeout(Some(PATIENCE)).doing(Kind::Environment, what)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// All services, in the order of their start, the lab's own processes first.
    ///
    /// # Errors
    /// If init does not answer.
    pub fn services(&mut self) -> Result<Vec<Status>> {
        self.list(&Request::Services)
    }

    /// All services, and what tells of each that changes from now on.
    ///
    /// # Errors
    /// If init does not answer.
    pub fn watch(mut self) -> Result<(Watch, Vec<Status>)> {
        let asking = || "cannot watch the lab's services".to_owned();
        let services = self.list(&Request::Watch)?;
        let heard = self.stream.buffer().to_vec();
        let stream = self.stream.into_inner();
        stream.set_nonblocking(true).doing(Kind::Environment, asking)?;
        Ok((Watch(Conversation { stream, heard }), services))
    }

    /// Has a request carried out.
    ///
    /// # Errors
    /// If it is refused, or init does not answer.
    pub fn tell(&mut self, request: &Request) -> Result<()> {
        match self.ask(request)? {
            Reply::Done => Ok(()),
            Reply::Refused(why) => Err(Error::new(Kind::Failed, why)),
            Reply::Services(_) | Reply::Changed(_) | Reply::Removed(_) => {
                Err(Error::bug("the lab's init answered another question"))
            }
        }
    }

    fn list(&mut self, request: &Request) -> Result<Vec<Status>> {
        match self.ask(request)? {
            Reply::Services(services) => Ok(services),
            Reply::Done | Reply::Refused(_) | Reply::Changed(_) | Reply::Removed(_) => {
                Err(Error::bug("the lab's init gave no list of services"))
            }
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Reply> {
        self.exchange(request).doing(Kind::Environment, || "the lab's init does not answer".to_owned())
    }

    fn exchange(&mut self, request: &Request) -> io::Result<Reply> {
        self.stream.get_mut().write_all(&line(request)?)?;
        let mut answer = String::new();
        if self.stream.read_line(&mut answer)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&answer)?)
    }
}

/// What is heard of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Changed(Status),
    Removed(String),
}

/// A connection on which init tells of services that change.
#[derive(Debug)]
pub struct Watch(Conversation);

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.stream.as_fd()
    }
}

impl Watch {
    /// What has been told since the last call; `None` when init has gone, or has given up a slow listener.
    ///
    /// # Errors
    /// If it is not what init says.
    pub fn news(&mut self) -> Result<Option<Vec<Heard>>> {
        let stays = self.0.read();
        let replies = self.0.requests::<Reply>();
        let heard = replies.into_iter().map(|reply| match reply {
            Ok(Reply::Changed(status)) => Ok(Heard::Changed(status)),
            Ok(Reply::Removed(name)) => Ok(Heard::Removed(name)),
            Ok(Reply::Services(_) | Reply::Done | Reply::Refused(_)) => {
                Err(Error::bug("the lab's init answered where nothing was asked"))
            }
            Err(why) => Err(Error::bug("the lab's init is not understood").because(why)),
        });
        let heard = heard.collect::<Result<Vec<Heard>>>()?;
        Ok((stays || !heard.is_empty()).then_some(heard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_lines() {
        let text = |value: Vec<u8>| String::from_utf8(value).unwrap();
        let restart = Request::Restart { service: "web".to_owned() };
        assert_eq!(text(line(&Request::Services).unwrap()), "{\"request\":\"services\"}\n");
        assert_eq!(text(line(&restart).unwrap()), "{\"request\":\"restart\",\"service\":\"web\"}\n");
        assert_eq!(text(line(&Reply::Done).unwrap()), "\"done\"\n");
        let status = Status {
            name: "web".to_owned(),
            node: Some("blue/a".to_owned()),
            argv: vec!["true".to_owned()],
            state: State::Running,
            pid: Some(7),
            restarts: 1,
            last: Some(Exit::Signal(9)),
            log: "web".to_owned(),
        };
        assert_eq!(
            text(line(&Reply::Services(vec![status])).unwrap()),
            "{\"services\":[{\"name\":\"web\",\"node\":\"blue/a\",\"argv\":[\"true\"],\"state\":\"running\",\
             \"pid\":7,\"restarts\":1,\"last\":{\"signal\":9},\"log\":\"web\"}]}\n"
        );
    }

    #[test]
    fn requests_arrive_in_pieces_and_several_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("init.sock");
        let mut server = Server::bind(&path).unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        let (id, _) = server.accept().unwrap().unwrap();
        client.write_all(b"{\"request\":\"serv").unwrap();
        assert!(server.hear::<Request>(id).is_empty());
        client.write_all(b"ices\"}\nwhat\n").unwrap();
        let heard = server.hear(id);
        assert_eq!(heard[0], Ok(Request::Services));
        assert!(heard[1].is_err());
        drop(client);
        assert!(server.hear::<Request>(id).is_empty());
        server.answer(id, &Reply::Done);
        assert!(server.clients.is_empty());
    }
}
