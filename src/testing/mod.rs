//! Labs for integration tests. A lab file goes in; a [`Lab`] that is up comes out, and with it commands, sockets and
//! closures in its nodes, faults, impairments and measurements. It never outlives its value, nor the process that holds it.
//!
//! ```no_run
//! use std::net::{TcpListener, TcpStream};
//! use std::time::Duration;
//! use vilab::testing::Lab;
//!
//! # fn main() -> vilab::Result<()> {
//! let lab = Lab::up("labs/first.yaml")?;
//! let (a, c) = (lab.node("blue/a")?, lab.node("blue/c")?);
//!
//! // A command in a node, with its network, names and files; the type is `std::process::Command`.
//! assert!(a.command("ping").args(["-c1", "c"]).status().unwrap().success());
//!
//! // Sockets that stay in the node in which they were made, used from anywhere.
//! let listener: TcpListener = c.tcp_listener(8080)?;
//! let stream: TcpStream = a.tcp_connect((c.address()?, 8080))?;
//!
//! // Code of one's own in a node.
//! let names = a.run(|| std::fs::read_to_string("/etc/hosts"))?;
//!
//! // What the network is tested against.
//! lab.link("X -- Y")?.down()?;
//! lab.link("X -- Y")?.up()?;
//! lab.wait(Duration::from_secs(10))?;
//! # Ok(())
//! # }
//! ```
//!
//! # The program
//!
//! A lab is made of processes, and those are played by the program `vilab` in the version of this library: the one that the
//! environment variable `VILAB_PROGRAM` names, or `CARGO_BIN_EXE_vilab`, or that of `PATH`; or what [`use_program`] was told.
//! Another version is refused. A program that calls [`crate::init`] first thing in its `main`, such as a test with `harness = false`, plays them itself and
//! needs no other.
//!
//! # Rights
//!
//! As root everything here works. Without, labs are made in a user namespace each, which the threads of this process cannot
//! join, so [`Node::run`] refuses; all else works, sockets included. A whole test run as root of its own user namespace,
//! `unshare --user --map-root-user cargo test`, has closures too.

#![warn(missing_docs)]

mod builder;
mod errand;
mod link;
mod node;
mod program;

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

pub use builder::Builder;
pub use errand::{ERRAND, run as run_errand};
pub use link::Link;
pub use node::Node;
pub use program::use_program;

use crate::error::{Error, Kind, Result};
use crate::lab::{Running, Starting};
use crate::model::{self, called};
use crate::observe::{TestResult, Trace};
use errand::Errand;

/// The subcommand of [`Node::command`].
pub const COMMAND: &str = "lab-command";

/// A lab that is up for as long as this lives.
///
/// It goes down when this is dropped, on a panic too, and when the process ends in whatever way: its watcher holds the other
/// end of a socket of this process. Each has a name of its own, so equal labs run side by side; it may be shared by threads.
#[derive(Debug)]
pub struct Lab {
    running: Running,
    /// None once it has ended.
    starting: Option<Starting>,
}

impl Lab {
    /// Brings up the lab of a file, and checks that it works, as `vilab up` does.
    ///
    /// # Errors
    /// All errors of the file; what the machine lacks; what does not work in the lab. Nothing is left then.
    pub fn up(file: impl AsRef<Path>) -> Result<Self> {
        Builder::file(file).up()
    }

    /// Brings up a lab written in the test itself. What it imports is beside the working directory.
    ///
    /// # Errors
    /// As [`Self::up`].
    pub fn from_text(text: impl Into<String>) -> Result<Self> {
        Builder::text(text).up()
    }

    /// Its name, by which `vilab exec -l NAME` and other commands find it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.running.name()
    }

    /// What is known of it: networks, nodes, links, addresses.
    #[must_use]
    pub fn model(&self) -> &model::Lab {
        &self.running.state().lab
    }

    /// For everything of [`crate::observe`] and [`crate::lab`] that is not here.
    #[must_use]
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// A node: `base/X`, `blue/a`, or its short name where only one has it.
    ///
    /// # Errors
    /// If there is none, naming those that are alike, or several.
    pub fn node(&self, name: &str) -> Result<Node<'_>> {
        Ok(Node::new(self, called::node(self.model(), name)?))
    }

    /// A link: `X -- Y`, `blue/a -- b`, or its name.
    ///
    /// # Errors
    /// As [`Self::node`].
    pub fn link(&self, name: &str) -> Result<Link<'_>> {
        let id = called::link(self.model(), name)?;
        Ok(Link::new(self, id, self.model().is_turned(id, name)))
    }

    /// The address of a node: see [`Node::address`].
    ///
    /// # Errors
    /// If there is no such node, or it has none.
    pub fn address(&self, node: &str) -> Result<Ipv4Addr> {
        self.node(node)?.address()
    }

    /// Waits until the kernels' routes are the computed ones, with what is down taken into account.
    ///
    /// # Errors
    /// If they are not within `limit`, naming the first that is not.
    pub fn wait(&self, limit: Duration) -> Result<()> {
        self.ask(&Errand::Wait { limit })
    }

    /// Runs the tests of the lab file.
    ///
    /// # Errors
    /// If one fails: each that does is a cause.
    pub fn test(&self) -> Result<Vec<TestResult>> {
        let results: Vec<TestResult> = self.ask(&Errand::Test)?;
        let failed: Vec<&TestResult> = results.iter().filter(|r| !r.passed).collect();
        if failed.is_empty() {
            return Ok(results);
        }
        let what = format!("{} of {} tests of lab {} failed", failed.len(), results.len(), self.model().name);
        let words = |r: &TestResult| format!("line {}, {}\n{}", r.line, r.name, r.table().join("\n"));
        Err(failed.into_iter().map(words).fold(Error::new(Kind::Failed, what), Error::because))
    }

    /// Follows one probe between two nodes: each wire of the base with every header, as computed and as captured.
    ///
    /// # Errors
    /// If there are no such nodes, or nothing can be captured.
    pub fn trace(&self, from: &str, to: &str) -> Result<Trace> {
        let lab = self.model();
        let from = called::node(lab, from)?;
        let near = lab.net(from.net).nodes.iter().find(|n| n.name == to);
        let to = near.map_or_else(|| called::node(lab, to), |n| Ok(n.id))?;
        self.ask(&Errand::Trace { from: lab.full_name(from), to: lab.full_name(to) })
    }

    /// Takes the lab down and waits until nothing is left of it, as dropping it does.
    pub fn down(self) {
        drop(self);
    }

    /// Leaves the lab up for whoever wants to look at it; its name, for `vilab down NAME`.
    ///
    /// # Errors
    /// If it has ended meanwhile.
    pub fn keep(mut self) -> Result<String> {
        self.starting.take().map_or(Ok(()), Starting::commit)?;
        Ok(self.name().to_owned())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(starting) = self.starting.take() {
            starting.abandon();
        }
    }
}
