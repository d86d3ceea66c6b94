//! Closing what the kernel takes its time for. What an engine has open goes in; nothing comes out. It never makes packets
//! wait.
//!
//! Whoever closes a packet socket waits until no processor can be in it any more (a grace period of RCU, some 20 ms), and a
//! process that ends closes one after the other. Those that wait side by side wait for the same, so each gets a thread.

use std::os::fd::OwnedFd;
use std::thread;

use super::{Base, Follower};
use crate::fastpath::shaped;
use crate::sys::tun::Offloading;

/// Threads that wait at once, at most.
const THREADS: usize = 1024;
/// A thread that closes needs next to no stack, bytes.
const STACK: usize = 64 << 10;

/// What one configuration had and the next has not.
#[derive(Debug)]
pub(super) struct LeftOver {
    pub(super) tuns: Vec<Option<Offloading>>,
    pub(super) bases: Vec<Option<Base>>,
    pub(super) followers: Vec<Option<Follower>>,
}

impl LeftOver {
    /// Closes everything, and has the engine's own devices go, while packets flow.
    pub(super) fn remove(self) {
        thread::spawn(move || {
            for base in self.bases.into_iter().flatten() {
                base.injector.remove();
            }
        });
    }

    /// Closes everything, and returns when that is done. Devices stay: they go with their namespaces.
    pub(super) fn close(self, shaped: shaped::Devices) {
        let (mut tuns, mut waiting) = shaped.into_descriptors();
        tuns.extend(self.tuns.into_iter().flatten().map(|tun| tun.fd));
        for base in self.bases.into_iter().flatten() {
            tuns.push(base.injector.tun);
            waiting.push(base.receiver);
        }
        drop(self.followers);
        let mut shares: Vec<Vec<OwnedFd>> = Vec::new();
        let size = waiting.len().div_ceil(THREADS).max(1);
        while !waiting.is_empty() {
            shares.push(waiting.split_off(waiting.len().saturating_sub(size)));
        }
        thread::scope(|scope| {
            for share in shares {
                // One that does not start has closed its share already.
                let _started =
                    thread::Builder::new().stack_size(STACK).spawn_scoped(scope, move || drop(share));
            }
            // One after the other, as each takes the kernel's one lock of devices.
            drop(tuns);
        });
    }
}
