//! What this machine can carry. Nothing goes in; what network namespaces can do here comes out. It tries things in a
//! namespace of a thread that ends, and never in the host's.

use std::thread;

use nix::sched::{CloneFlags, unshare};

use crate::error::{Context, Kind, Result};
use crate::netlink::{Request, Socket};
use crate::plan::Machine;
use crate::process;

/// Index that nothing has in a new namespace, `lo` being 1.
const INDEX: u32 = 10;

/// What planning needs to know, in milliseconds. The caller must be allowed to make network namespaces.
///
/// # Errors
/// If a network namespace cannot be made.
pub fn machine() -> Result<Machine> {
    thread::scope(|scope| {
        scope.spawn(try_here).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn try_here() -> Result<Machine> {
    let what = || "cannot make a network namespace".to_owned();
    unshare(CloneFlags::CLONE_NEWNET).doing(Kind::Environment, what)?;
    let mut socket = Socket::open().doing(Kind::Environment, what)?;
    let remote = [192, 0, 2, 1].into();
    let ipip = socket.execute([Request::add_ipip("try", INDEX, remote, remote)]).is_ok();
    let netem = socket.execute([Request::add_netem(1, 1)]).is_ok();
    let tun = crate::sys::tun::create_persistent("trytun").is_ok();
    let nft =
        process::feed(std::process::Command::new("nft").args(["-f", "-"]), "add table inet try").is_ok();
    Ok(Machine { ipip, nft, tun, netem, nesting: None })
}
