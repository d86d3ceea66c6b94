//! Whether a service is ready. What it waits for, its output and its node's sockets go in; yes or not yet comes out.
//! It never connects to the service: listening sockets are read from the kernel's table.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::course::Exit;
use crate::model::Ready;

/// Between two looks at a node's sockets.
const LOOK: Duration = Duration::from_millis(10);
/// From the end of a command that failed to the next.
const RETRY: Duration = Duration::from_millis(100);
/// `TCP_LISTEN` of the kernel as `/proc/net/tcp` prints it.
const LISTEN: &str = "0A";

/// What one start of a service waits for.
#[derive(Debug)]
pub(super) enum Watch {
    Tcp { port: u16, tables: Vec<File> },
    Exec { argv: Vec<String>, running: Option<Pid>, next: Option<Instant> },
    Log { text: Vec<u8>, seen: Vec<u8> },
}

impl Watch {
    pub(super) fn new(ready: &Ready, tables: Vec<File>, now: Instant) -> Self {
        match ready {
            Ready::Tcp(port) => Self::Tcp { port: *port, tables },
            Ready::Exec(argv) => Self::Exec { argv: argv.clone(), running: None, next: Some(now) },
            Ready::Log(text) => Self::Log { text: text.clone().into_bytes(), seen: Vec::new() },
        }
    }

    /// When it wants to look again, if it has to by itself.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        match self {
            Self::Tcp { .. } => Some(now + LOOK),
            Self::Exec { next, .. } => *next,
            Self::Log { .. } => None,
        }
    }

    /// Whether the sockets say that it is ready.
    pub(super) fn look(&mut self) -> io::Result<bool> {
        match self {
            Self::Tcp { port, tables } => {
                for table in tables {
                    let mut text = String::new();
                    table.rewind()?;
                    table.read_to_string(&mut text)?;
                    if listens(&text, *port) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::Exec { .. } | Self::Log { .. } => Ok(false),
        }
    }

    /// Whether what has been printed says that it is ready.
    pub(super) fn heard(&mut self, bytes: &[u8]) -> bool {
        let Self::Log { text, seen } = self else { return false };
        seen.extend_from_slice(bytes);
        let found = text.is_empty() || seen.windows(text.len()).any(|w| w == text.as_slice());
        let surplus = seen.len().saturating_sub(text.len());
        seen.drain(..surplus);
        found
    }

    /// The command to run now.
    pub(super) fn command(&mut self, now: Instant) -> Option<&[String]> {
        match self {
            Self::Exec { argv, running: None, next } if next.is_some_and(|at| at <= now) => {
                *next = None;
                Some(argv)
            }
            Self::Exec { .. } | Self::Tcp { .. } | Self::Log { .. } => None,
        }
    }

    /// The command runs; or, without a process, could not be run.
    pub(super) fn runs(&mut self, pid: Option<Pid>, now: Instant) {
        if let Self::Exec { running, next, .. } = self {
            *running = pid;
            *next = pid.is_none().then(|| now + RETRY);
        }
    }

    /// The process of the command.
    pub(super) fn process(&self) -> Option<Pid> {
        match self {
            Self::Exec { running, .. } => *running,
            Self::Tcp { .. } | Self::Log { .. } => None,
        }
    }

    /// Whether the command's end says that it is ready.
    pub(super) fn ended(&mut self, exit: Exit, now: Instant) -> bool {
        self.runs(None, now);
        !exit.failed()
    }

    /// What it waits for, in words.
    pub(super) fn words(ready: &Ready) -> String {
        match ready {
            Ready::Tcp(port) => format!("nothing listens on TCP port {port}"),
            Ready::Exec(argv) => format!("`{}` fails", argv.join(" ")),
            Ready::Log(text) => format!("it has not printed `{text}`"),
        }
    }
}

/// The calling thread's table of TCP sockets, and that of IPv6 where there is one. A table stays that of the network
/// namespace in which it was opened.
pub(super) fn tables() -> Vec<File> {
    ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"]
        .iter()
        .filter_map(|path| File::open(path).ok())
        .collect()
}

/// Whether a table of `/proc/net/tcp` has a socket that listens on `port`: proc(5).
fn listens(table: &str, port: u16) -> bool {
    table.lines().skip(1).any(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let local = words.next().and_then(|addr| addr.rsplit_once(':'));
        let at = local.and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        at == Some(port) && words.nth(1) == Some(LISTEN)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 56 1 0 100 0 0 10 0
   1: 0100007F:0050 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 57 1 0 20 4 30 10 -1
";

    #[test]
    fn listening_sockets_are_told_from_connected_ones() {
        assert!(listens(TABLE, 8080));
        assert!(!listens(TABLE, 80));
        assert!(!listens(TABLE, 0));
    }

    #[test]
    fn a_socket_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut watch = Watch::new(&Ready::Tcp(port), tables(), Instant::now());
        assert!(watch.look().unwrap());
        drop(listener);
        assert!(!watch.look().unwrap());
    }

    #[test]
    fn a_text_is_found_across_pieces() {
        let mut watch = Watch::new(&Ready::Log("ready now".into()), Vec::new(), Instant::now());
        assert!(!watch.heard(b"not rea"));
        assert!(!watch.heard(b"dy yet, rea"));
        assert!(watch.heard(b"dy now\n"));
    }

    #[test]
    fn a_command_is_run_again_after_a_while() {
        let now = Instant::now();
        let mut watch = Watch::new(&Ready::Exec(vec!["true".into()]), Vec::new(), now);
        assert!(watch.command(now).is_some());
        watch.runs(Some(Pid::from_raw(7)), now);
        assert!(watch.command(now).is_none() && watch.due(now).is_none());
        assert!(!watch.ended(Exit::Status(1), now));
        assert_eq!(watch.due(now), Some(now + RETRY));
        assert!(watch.command(now).is_none() && watch.command(now + RETRY).is_some());
        assert!(watch.ended(Exit::Status(0), now));
    }
}
