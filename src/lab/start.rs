//! Bringing a lab up, seen from `up`. A [`Job`] goes in; messages come out until the lab is ready, and then it is
//! committed or abandoned. Until it is committed, the end of this process, by whatever, is the end of the lab.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use super::dir;
use super::message::Message;
use super::state::Job;
use super::watcher::COMMIT;
use crate::error::{Context, Error, Kind, Result};
use crate::process;

/// The subcommand under which [`super::watcher::run`] is started.
pub const WATCHER: &str = "lab-watcher";

/// A lab that is coming up.
#[derive(Debug)]
pub struct Starting {
    watcher: Child,
    socket: BufReader<UnixStream>,
}

impl Starting {
    /// Starts the watcher with its job.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn begin(job: &Job) -> Result<Self> {
        let what = || format!("cannot start lab {}", job.lab.name);
        let base = dir::base()?;
        let file = job_file(job).doing(Kind::Environment, what)?;
        let (ours, theirs) = UnixStream::pair().doing(Kind::Environment, what)?;
        let watcher = process::myself(&format!("vilab: watcher {}", job.lab.name), WATCHER)
            .arg(base)
            .arg(&job.lab.name)
            .stdin(Stdio::from(file))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .stderr(Stdio::null())
            .spawn()
            .doing(Kind::Environment, what)?;
        Ok(Self { watcher, socket: BufReader::new(ours) })
    }

    /// What to poll for the next message.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }

    /// Whether a message is there already, so that polling would wait for the one after it.
    #[must_use]
    pub fn buffered(&self) -> bool {
        self.socket.buffer().contains(&b'\n')
    }

    /// The next message; waits for it.
    ///
    /// # Errors
    /// If the lab has ended without one.
    pub fn receive(&mut self) -> Result<Message> {
        let mut line = String::new();
        // An end by signal is an end of the stream too.
        let _reset = self.socket.read_line(&mut line);
        Message::parse(&line).ok_or_else(|| Error::kernel("the lab ended while it was coming up"))
    }

    /// The lab stays when this process ends.
    ///
    /// # Errors
    /// If it has ended meanwhile.
    pub fn commit(self) -> Result<()> {
        let ended = || "the lab ended when it was just up".to_owned();
        self.socket.get_ref().write_all(&[COMMIT]).doing(Kind::Kernel, ended)
    }

    /// Ends the lab and waits until nothing is left of it.
    pub fn abandon(self) {
        let Self { mut watcher, socket } = self;
        drop(socket);
        // It is our child and ends by itself; whether waiting fails makes no difference.
        let _status = watcher.wait();
    }
}

/// The job in a file without a name.
fn job_file(job: &Job) -> std::io::Result<File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(&serde_json::to_vec(job)?)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}
