//! How other processes read the engine's counters, switch the strong-host rule and impair links. Requests, one JSON value a line
//! on a Unix stream socket, go in; one line each comes out. It never touches packets.
//!
//! ```text
//! {"request":"counters"}
//! {"counters":{"X":{"sent":1,...},...}}
//! {"request":"strong-host","node":"X","on":false}
//! "done"
//! {"request":"impair","netns":"v.blue.a","dev":"b","to":{"delay_us":10000,"jitter_us":0,"loss_ppm":0,"rate_bps":null}}
//! "done"
//! ```
//!
//! `strands` tells how the strands of links over parallel underlays are, `accepted` what the strong-host rules take.
//! `reload` changes to another [`super::Config`] while packets flow; it names the file that holds it.
//! `end` is for an engine that is about to be killed: it closes all that takes the kernel time, and then carries nothing any more.
//! `shape` does to a device of the kernel, a [`ShapedDevice`], what `impair` does to an interface of the fast path.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::ShapedDevice;
use super::spread::StrandState;

use crate::error::{Context, Error, Kind, Result};
use crate::model::Impairment;

/// Counters by base node name, then by counter name.
pub type AllCounters = BTreeMap<String, BTreeMap<String, u64>>;

/// Link addresses that come by a base tunnel, each with the base address at its other end, by base node name; nodes whose
/// strong-host rule is off are left out.
pub type AllAccepted = BTreeMap<String, BTreeMap<Ipv4Addr, Ipv4Addr>>;

/// The strands of one interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStrands {
    pub netns: String,
    pub dev: String,
    pub strands: Vec<StrandState>,
}

/// How long a client waits for the engine.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    Counters,
    /// How the strands of all interfaces are.
    Strands,
    /// What the strong-host rules accept.
    Accepted,
    StrongHost {
        node: String,
        on: bool,
    },
    Impair {
        netns: String,
        dev: String,
        to: Impairment,
    },
    Shape(ShapedDevice),
    /// To the configuration in this file.
    Reload {
        config: PathBuf,
    },
    End,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    Counters(AllCounters),
    Strands(Vec<InterfaceStrands>),
    Accepted(AllAccepted),
    Done,
    /// The request was not carried out; why.
    Refused(String),
}

/// One value as a line.
///
/// # Errors
/// If the value cannot be JSON.
pub fn line<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(value)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// A connection to a running engine, or to what watches strands of the kernel's ([`crate::strands`]), which answers
/// [`Request::Strands`] and [`Request::Reload`] alike.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// # Errors
    /// If no engine listens at `path`.
    pub fn connect(path: &Path) -> Result<Self> {
        let what = || format!("cannot reach the dataplane at {}", path.display());
        let stream = UnixStream::connect(path).doing(Kind::Environment, what)?;
        stream.set_read_timeout(Some(PATIENCE)).doing(Kind::Environment, what)?;
        stream.set_write_timeout(Some(PATIENCE)).doing(Kind::Environment, what)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Of all base nodes, after every packet that was waiting when the request arrived.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub fn counters(&mut self) -> Result<AllCounters> {
        match self.ask(&Request::Counters)? {
            Reply::Counters(counters) => Ok(counters),
            other @ (Reply::Strands(_) | Reply::Accepted(_) | Reply::Done | Reply::Refused(_)) => {
                Err(refused(&other))
            }
        }
    }

    /// How the strands of all interfaces that have any are.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub fn strands(&mut self) -> Result<Vec<InterfaceStrands>> {
        match self.ask(&Request::Strands)? {
            Reply::Strands(strands) => Ok(strands),
            other @ (Reply::Counters(_) | Reply::Accepted(_) | Reply::Done | Reply::Refused(_)) => {
                Err(refused(&other))
            }
        }
    }

    /// What the strong-host rules of all base nodes accept.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub fn accepted(&mut self) -> Result<AllAccepted> {
        match self.ask(&Request::Accepted)? {
            Reply::Accepted(accepted) => Ok(accepted),
            other @ (Reply::Counters(_) | Reply::Strands(_) | Reply::Done | Reply::Refused(_)) => {
                Err(refused(&other))
            }
        }
    }

    /// Switches the strong-host rule at the link layer of base node `node`.
    ///
    /// # Errors
    /// If there is no such node or the engine does not answer.
    pub fn set_strong_host(&mut self, node: &str, on: bool) -> Result<()> {
        self.order(&Request::StrongHost { node: node.to_owned(), on })
    }

    /// Impairs what leaves interface `dev` of the fast path in namespace `netns`, from here on.
    ///
    /// # Errors
    /// If there is no such interface or the engine does not answer.
    pub fn impair(&mut self, netns: &str, dev: &str, to: Impairment) -> Result<()> {
        self.order(&Request::Impair { netns: netns.to_owned(), dev: dev.to_owned(), to })
    }

    /// The same for a device of the kernel.
    ///
    /// # Errors
    /// If the device is gone, the kernel refuses, or the engine does not answer.
    pub fn shape(&mut self, device: ShapedDevice) -> Result<()> {
        self.order(&Request::Shape(device))
    }

    fn order(&mut self, request: &Request) -> Result<()> {
        match self.ask(request)? {
            Reply::Done => Ok(()),
            other @ (Reply::Counters(_) | Reply::Strands(_) | Reply::Accepted(_) | Reply::Refused(_)) => {
                Err(refused(&other))
            }
        }
    }

    /// Has the engine go on with the configuration in this file.
    ///
    /// # Errors
    /// If it cannot, and goes on as before, or does not answer.
    pub fn reload(&mut self, config: &Path) -> Result<()> {
        match self.ask(&Request::Reload { config: config.to_owned() })? {
            Reply::Done => Ok(()),
            other @ (Reply::Counters(_) | Reply::Strands(_) | Reply::Accepted(_) | Reply::Refused(_)) => {
                Err(refused(&other))
            }
        }
    }

    /// Has the engine close everything, at most this long.
    ///
    /// # Errors
    /// If it does not answer in time.
    pub fn end(&mut self, patience: Duration) -> Result<()> {
        let what = || "cannot wait for the dataplane".to_owned();
        self.stream.get_ref().set_read_timeout(Some(patience)).doing(Kind::Environment, what)?;
        self.order(&Request::End)
    }

    fn ask(&mut self, request: &Request) -> Result<Reply> {
        self.exchange(request).doing(Kind::Environment, || "the dataplane does not answer".to_owned())
    }

    fn exchange(&mut self, request: &Request) -> io::Result<Reply> {
        self.stream.get_mut().write_all(&line(request)?)?;
        let mut answer = String::new();
        if self.stream.read_line(&mut answer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&answer)?)
    }
}

fn refused(reply: &Reply) -> Error {
    let why = match reply {
        Reply::Refused(why) => why.clone(),
        Reply::Counters(_) | Reply::Strands(_) | Reply::Accepted(_) | Reply::Done => {
            "an answer to another question".to_owned()
        }
    };
    Error::usage("the dataplane refused").because(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_lines() {
        let text = |value: Vec<u8>| String::from_utf8(value).unwrap();
        let off = Request::StrongHost { node: "X".to_owned(), on: false };
        assert_eq!(text(line(&Request::Counters).unwrap()), "{\"request\":\"counters\"}\n");
        assert_eq!(text(line(&off).unwrap()), "{\"request\":\"strong-host\",\"node\":\"X\",\"on\":false}\n");
        assert_eq!(text(line(&Reply::Done).unwrap()), "\"done\"\n");
        assert_eq!(text(line(&Reply::Counters(BTreeMap::new())).unwrap()), "{\"counters\":{}}\n");
    }
}
