//! The named network namespaces of a lab. A directory of namespace files goes in; closures run inside the
//! namespaces come out. It never changes the namespace of the calling thread.

use std::path::{Path, PathBuf};

use netns_rs::{Env, NetNs};
use nix::sched::{CloneFlags, setns};

use crate::error::{Context, Error, Kind, Result};

/// A directory in which each file is a network namespace.
#[derive(Debug, Clone)]
pub struct Namespaces {
    dir: PathBuf,
    /// Process id of init and state directory of the running lab whose they are, seen from outside.
    lab: Option<(i32, PathBuf)>,
}

impl Env for Namespaces {
    fn persist_dir(&self) -> PathBuf {
        self.dir.clone()
    }
}

impl Namespaces {
    #[must_use]
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), lab: None }
    }

    /// Those of a running lab, seen from outside.
    pub(super) fn of(init: i32, lab: &Path) -> Self {
        let inside = super::namespaces_dir(lab);
        let inside = inside.strip_prefix("/").unwrap_or(&inside);
        let dir = PathBuf::from(format!("/proc/{init}/root")).join(inside);
        Self { dir, lab: Some((init, lab.to_owned())) }
    }

    #[must_use]
    pub fn path(&self, ns: &str) -> PathBuf {
        self.dir.join(ns)
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs `f` on a thread of its own inside namespace `ns`. A socket or TUN opened there stays there.
    ///
    /// # Errors
    /// If there is no such namespace or it cannot be entered.
    pub fn run<T: Send>(&self, ns: &str, f: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let netns = NetNs::get_from_env(ns, self.clone())?;
                netns.enter()?;
                Ok(f())
            });
            match thread.join() {
                Ok(result) => result.map_err(|e: netns_rs::Error| {
                    Error::kernel(format!("cannot enter namespace {ns}")).because(e)
                }),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Calls `f` for each of `items`, inside its namespace, on a thread for each processor that goes from one to the next.
    /// Results in their order.
    ///
    /// # Errors
    /// The first namespace that cannot be entered.
    pub fn visit<A: Sync, T: Send>(&self, items: &[(&str, A)], f: impl Fn(&A) -> T + Sync) -> Result<Vec<T>> {
        let enter = |ns: &str| -> std::io::Result<()> {
            let file = std::fs::File::open(self.path(ns))?;
            Ok(setns(file, CloneFlags::CLONE_NEWNET)?)
        };
        let visit = |(ns, item): &(&str, A)| {
            enter(ns).doing(Kind::Kernel, || format!("cannot enter namespace {ns}"))?;
            Ok(f(item))
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = items.len().div_ceil(threads).max(1);
        let visit_all = |items: &[(&str, A)]| items.iter().map(visit).collect::<Result<Vec<T>>>();
        let visit_all = &visit_all;
        std::thread::scope(|scope| {
            let workers: Vec<_> =
                items.chunks(share).map(|items| scope.spawn(move || visit_all(items))).collect();
            let mut results = Vec::with_capacity(items.len());
            for worker in workers {
                results.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok(results)
        })
    }

    /// Calls `f` on a thread of its own in a node: as [`Self::run`], and where they are those of a running lab, with
    /// the node's files, its host name, and the lab's processes. The caller has joined the lab's user namespace.
    ///
    /// # Errors
    /// If the node cannot be entered.
    pub fn run_in_node<T: Send>(&self, ns: &str, f: impl FnOnce() -> T + Send) -> Result<T> {
        let Some((init, lab)) = &self.lab else { return self.run(ns, f) };
        std::thread::scope(|scope| {
            let visit = || super::enter::visit(*init, lab, &self.path(ns), ns).map(|()| f());
            let result = scope.spawn(visit).join();
            let result = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result.doing(Kind::Environment, || format!("cannot enter {}", crate::apply::place(ns)))
        })
    }
}
