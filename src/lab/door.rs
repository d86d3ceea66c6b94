//! How an owner enters the nodes of their VI. A socket and the name of a node go in; descriptors of the node's namespace and
//! files come out, for the user whom the kernel names as the namespace's owner and for nobody else. It never runs anything
//! for anybody: the owner's own process enters, with no more rights than its own.
//!
//! ```text
//! blue/a
//! {"hostname":"a","files":["/etc/hosts",...]}    with the namespace, then one descriptor for each file
//! base/X
//! {"refused":"base/X is of no VI of yours"}
//! ```

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::{Deserialize, Serialize};

use super::view::{Sight, Views};
use super::{dir, mounts};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::{rights, userns};

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a question, and of an answer, at most.
const LONGEST: usize = 4096;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", untagged)]
enum Answer {
    Entry { hostname: String, files: Vec<String> },
    Refused { refused: String },
}

// ---- inside: a thread of init's ---------------------------------------------------------------------------------

/// Answers owners for as long as the lab is up, one after the other, on a thread of its own: nothing that they do
/// keeps init from its work.
pub(super) fn open(dir: &Path) -> io::Result<()> {
    let path = super::door_socket(dir);
    let listener = UnixListener::bind(&path)?;
    // Who may enter is told by who asks.
    fs::set_permissions(&path, Permissions::from_mode(0o666))?;
    let dir = dir.to_owned();
    thread::Builder::new().name("door".to_owned()).spawn(move || serve(&listener, &dir))?;
    Ok(())
}

/// Whether the door of this lab is open.
pub(super) fn is_open(dir: &Path) -> bool {
    super::door_socket(dir).exists()
}

fn serve(listener: &UnixListener, dir: &Path) {
    loop {
        match listener.accept() {
            // Who does not wait for the answer needs none.
            Ok((stream, _)) => drop(attend(&stream, dir)),
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
            Err(_) => return,
        }
    }
}

fn attend(stream: &UnixStream, dir: &Path) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let uid = getsockopt(stream, PeerCredentials)?.uid();
    let mut question = String::new();
    let most = u64::try_from(LONGEST).unwrap_or(u64::MAX);
    BufReader::new(stream.take(most)).read_line(&mut question)?;
    let node = question.trim_end();
    let (answer, fds) = match entry(dir, node, uid) {
        Ok((Sight { hostname, files }, netns)) => {
            let (paths, copies): (Vec<_>, Vec<_>) = files.into_iter().unzip();
            let fds: Vec<OwnedFd> = std::iter::once(netns).chain(copies).collect();
            (Answer::Entry { hostname, files: paths }, fds)
        }
        Err(why) => (Answer::Refused { refused: why }, Vec::new()),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    rights::send(stream, &text, &fds.iter().map(AsFd::as_fd).collect::<Vec<_>>())
}

/// What it takes to enter a node, if this user owns its VI; else why not.
fn entry(dir: &Path, node: &str, uid: u32) -> std::result::Result<(Sight, OwnedFd), String> {
    let netns =
        netns(node).ok_or_else(|| format!("`{node}` is not the full name of a node, such as blue/a"))?;
    let file = File::open(super::namespaces_dir(dir).join(&netns));
    let file = file.map_err(|_| format!("there is no node {node}"))?;
    let owner = userns::of(&file).and_then(userns::owner);
    if owner.map_err(|e| format!("cannot tell whose {node} is: {e}"))? != uid {
        return Err(format!("{node} is of no VI of yours"));
    }
    let sight = Views::of(dir).sight(&netns).map_err(|e| format!("{node} cannot be shown: {e}"))?;
    if sight.files.len() >= rights::MOST {
        return Err(format!("{node} has too many files of its own"));
    }
    Ok((sight, file.into()))
}

/// The namespace of a node by its full name.
fn netns(node: &str) -> Option<String> {
    let (network, name) = node.split_once('/')?;
    let plain = |word: &str| !word.is_empty() && !word.contains(['/', '\0']);
    (plain(network) && plain(name)).then(|| match network {
        "base" => format!("b.{name}"),
        vi => format!("v.{vi}.{name}"),
    })
}

// ---- outside: the owner's process -------------------------------------------------------------------------------

/// The door of a lab that is root's.
#[derive(Debug)]
pub struct Door {
    lab: String,
    stream: UnixStream,
}

/// The door of root's lab `name`, or of the only one that has a door; `None` where there is none.
///
/// # Errors
/// If several labs of root's have one; if the caller has chosen root's labs, and there is none.
pub fn find(name: Option<&str>) -> Result<Option<Door>> {
    let chosen = std::env::var_os("VILAB_RUNTIME_DIR").filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = chosen.clone().unwrap_or_else(|| PathBuf::from(dir::ROOTS));
    if nix::unistd::geteuid().is_root() || !is_roots(&base) {
        return Ok(None);
    }
    let mut found: Vec<Door> = Vec::new();
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let path = entry.path();
        let lab = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_none_or(|e| e != dir::DOOR) || name.is_some_and(|n| n != lab) {
            continue;
        }
        // Nobody listens where a lab was killed with its watcher.
        found.extend(UnixStream::connect(&path).ok().map(|stream| Door { lab, stream }));
    }
    found.sort_by(|a, b| a.lab.cmp(&b.lab));
    if let [_, _, ..] = found.as_slice() {
        let labs: Vec<&str> = found.iter().map(|door| door.lab.as_str()).collect();
        let error = Error::usage("several labs with owned VIs are up");
        return Err(error.hint(format!("name one: {}", labs.join(", "))));
    }
    if let (None, Some(base)) = (found.first(), chosen) {
        let lab = name.map(|n| format!(" called {n}")).unwrap_or_default();
        return Err(Error::usage(format!("no lab{lab} in {} lets you in", base.display())));
    }
    Ok(found.pop())
}

/// Whether root alone can put something into this directory.
fn is_roots(base: &Path) -> bool {
    let meta = fs::symlink_metadata(base);
    meta.is_ok_and(|meta| meta.is_dir() && meta.uid() == 0 && meta.mode() & 0o022 == 0)
}

impl Door {
    #[must_use]
    pub fn lab(&self) -> &str {
        &self.lab
    }

    /// Puts the calling process, which must have one thread, into a node of the caller's VI: in the user namespace to
    /// which it belongs the caller is root.
    ///
    /// # Errors
    /// If the node is not the caller's.
    pub(super) fn enter(&self, node: &str) -> Result<()> {
        let what = || format!("cannot enter {node} of lab {}", self.lab);
        let (answer, fds) = self.ask(node).doing(Kind::Environment, what)?;
        let (hostname, files) = match answer {
            Answer::Entry { hostname, files } => (hostname, files),
            Answer::Refused { refused } => {
                let error = Error::environment(what()).because(refused);
                return Err(error.hint("the lab is root's; you may enter the nodes of VIs with `owner:` you"));
            }
        };
        let mut fds = fds.into_iter();
        let netns = fds.next().ok_or_else(|| Error::bug(what()))?;
        let sight = Sight { hostname, files: files.into_iter().zip(fds).collect() };
        settle(&netns, sight).doing(Kind::Environment, what)
    }

    fn ask(&self, node: &str) -> io::Result<(Answer, Vec<OwnedFd>)> {
        let mut stream = &self.stream;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{node}\n").as_bytes())?;
        let (text, fds) = rights::receive(stream, LONGEST)?;
        if text.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok((serde_json::from_slice(&text)?, fds))
    }
}

/// As every process that enters a node; places that this machine lacks, which only the lab has made, are left out.
fn settle(netns: &OwnedFd, mut sight: Sight) -> io::Result<()> {
    setns(userns::of(netns)?, CloneFlags::CLONE_NEWUSER)?;
    setns(netns, CloneFlags::CLONE_NEWNET)?;
    mounts::own_namespace()?;
    unshare(CloneFlags::CLONE_NEWUTS)?;
    mounts::fresh_sys();
    sight.files.retain(|(path, _)| Path::new(path).exists());
    sight.put()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_full_names_lead_to_a_namespace() {
        assert_eq!(netns("blue/a").as_deref(), Some("v.blue.a"));
        assert_eq!(netns("big/t.l.top").as_deref(), Some("v.big.t.l.top"));
        assert_eq!(netns("base/X").as_deref(), Some("b.X"));
        for wrong in ["", "a", "blue/", "/a", "blue/../b", "../b.X/..", "blue/a/b", "blue/a\0"] {
            assert_eq!(netns(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_documented_lines() {
        let text = |answer: &Answer| serde_json::to_string(answer).unwrap();
        let entry = Answer::Entry { hostname: "a".to_owned(), files: vec!["/etc/hosts".to_owned()] };
        assert_eq!(text(&entry), "{\"hostname\":\"a\",\"files\":[\"/etc/hosts\"]}");
        let refused = Answer::Refused { refused: "no".to_owned() };
        assert_eq!(text(&refused), "{\"refused\":\"no\"}");
        for answer in [entry, refused] {
            assert_eq!(serde_json::from_str::<Answer>(&text(&answer)).unwrap(), answer);
        }
    }
}
