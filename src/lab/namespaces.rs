//! The named network namespaces of a lab. A directory of namespace files goes in; closures run inside the
//! namespaces come out. It never changes the namespace of the calling thread.

use std::path::{Path, PathBuf};

use netns_rs::{Env, NetNs};

use crate::error::{Error, Result};

/// A directory in which each file is a network namespace.
#[derive(Debug, Clone)]
pub struct Namespaces {
    dir: PathBuf,
}

impl Env for Namespaces {
    fn persist_dir(&self) -> PathBuf {
        self.dir.clone()
    }
}

impl Namespaces {
    #[must_use]
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
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
}
