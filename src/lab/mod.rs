//! The running lab: its init process, its namespaces, its state, and how a node is entered. A [`Job`] goes in; a
//! process tree that is the whole lab comes to be. It never creates anything in the host's namespaces but a state
//! directory and two processes, the watcher and init.
//!
//! ```text
//! up ── watcher ── init (PID 1 of the lab) ── fast path
//!         │          └─ network namespaces, devices, mounts
//!         └─ state directory, locked while it lives
//! ```
//!
//! Each of the three may be killed at any moment: the watcher kills init when `up` goes away before it commits;
//! init dies with the watcher (PR_SET_PDEATHSIG); all namespaces die with init; the watcher removes the state
//! directory when init has died; and what a killed watcher leaves there, whose lock is free, the next command
//! removes.

pub mod capture;
pub mod change;
pub mod control;
pub mod course;
mod dir;
pub mod door;
pub mod engine;
mod enter;
mod faults;
mod file;
pub mod init;
pub mod isis;
pub mod logs;
pub mod machine;
pub mod message;
pub mod mounts;
pub mod namespaces;
pub mod owner;
pub mod permission;
mod ready;
mod reconfigure;
pub mod recursion;
mod running;
mod service;
mod start;
mod state;
pub mod strands;
mod supervisor;
pub mod user;
mod view;
pub mod watcher;

use std::path::{Path, PathBuf};

pub use enter::{run_as_owner, run_in};
pub use file::{expectations, flat, load, load_text, load_to_run, load_with, whereabouts};
pub use message::Message;
pub use namespaces::Namespaces;
pub use running::{Running, clear, end, names};
pub use start::{Starting, WATCHER};
pub use state::{Job, State, timestamp_ns};

fn namespaces_dir(path: &Path) -> PathBuf {
    path.join(dir::NAMESPACES)
}

fn logs_dir(path: &Path) -> PathBuf {
    path.join(dir::LOGS)
}

fn init_socket(path: &Path) -> PathBuf {
    path.join(dir::INIT)
}

fn control_socket(path: &Path) -> PathBuf {
    path.join(dir::CONTROL)
}

fn strands_socket(path: &Path) -> PathBuf {
    path.join(dir::WATCH)
}

/// Where owners of VIs ask for their nodes: beside the directory, which is closed to them.
fn door_socket(path: &Path) -> PathBuf {
    path.with_extension(dir::DOOR)
}
