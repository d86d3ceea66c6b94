//! Carries out the difference of two labs. A [`Change`] goes in; what is not wanted goes, what is new comes, and nothing
//! else is touched. It never stops at what is gone already: a change that was cut short is carried out again like this.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;

use super::linux::{Linux, enter, on_a_thread};
use super::{Kernel, Progress, execute_stage, place};
use crate::error::{Context, Error, Kind, Result};
use crate::lab::Namespaces;
use crate::netlink::{Refusal, Request, Socket};
use crate::plan::{Change, Removal, Resize};
use crate::process;
use crate::sys::pidfd;

/// Devices removed at once: the kernel spends some 20 ms on each, most of it waiting.
const THREADS: usize = 32;
/// The stage of what is rerouted, removed and resized.
const REMOVE: &str = "remove";

/// Carries out `change` in `namespaces`. The caller is in the lab's namespaces.
///
/// # Errors
/// The first operation that the kernel refuses; those before it have been carried out.
pub fn change(change: &Change, namespaces: &Namespaces, progress: &mut dyn FnMut(&Progress)) -> Result<()> {
    let mut linux = Linux::changing(namespaces.clone(), &change.touched())?;
    let total = change.reroutes.len() + change.removals.len() + change.resizes.len();
    let mut report = |done| progress(&Progress { stage: REMOVE.to_owned(), done, total });
    if total > 0 {
        report(0);
        for op in &change.reroutes {
            linux.configure(&BTreeMap::from([(super::lanes::namespace(op), vec![op])]))?;
        }
        remove(&mut linux, &change.removals)?;
        for resize in &change.resizes {
            linux.resize(resize)?;
        }
        report(total);
    }
    change.stages.iter().try_for_each(|stage| execute_stage(&mut linux, stage, progress))
}

fn remove(linux: &mut Linux, removals: &[Removal]) -> Result<()> {
    let (mut devices, mut security, mut namespaces) = (Vec::new(), Vec::new(), Vec::new());
    for removal in removals {
        match removal {
            Removal::Route { .. }
            | Removal::Neighbour { .. }
            | Removal::Qdisc { .. }
            | Removal::Redirect { .. }
            | Removal::Addr { .. } => linux.remove(removal)?,
            Removal::Device { .. } => devices.push(removal),
            Removal::Policy { .. } | Removal::Association { .. } => security.push(removal),
            Removal::Table { .. } | Removal::Sysctl { .. } => {}
            Removal::Netns { ns } => namespaces.push(ns.as_str()),
        }
    }
    linux.remove_devices(&devices)?;
    linux.remove_security(&security)?;
    removals.iter().try_for_each(|removal| match removal {
        Removal::Table { ns, table } => linux.remove_table(ns, table),
        Removal::Sysctl { ns, key } => linux.reset_sysctl(ns, key),
        Removal::Route { .. }
        | Removal::Neighbour { .. }
        | Removal::Qdisc { .. }
        | Removal::Redirect { .. }
        | Removal::Addr { .. }
        | Removal::Device { .. }
        | Removal::Policy { .. }
        | Removal::Association { .. }
        | Removal::Netns { .. } => Ok(()),
    })?;
    linux.remove_namespaces(&namespaces)
}

impl Linux {
    /// Something that belongs to a device or a namespace and goes by one routing request.
    fn remove(&mut self, removal: &Removal) -> Result<()> {
        let ns = removal.netns();
        let index = |dev: &str| self.index(ns, dev).ok();
        let request = match removal {
            Removal::Route { prefix, .. } => Some(Request::del_route(*prefix)),
            Removal::Neighbour { dev, addr, .. } => index(dev).map(|i| Request::del_neighbour(i, *addr)),
            Removal::Qdisc { dev, .. } => index(dev).map(Request::del_qdisc),
            Removal::Redirect { dev, hook, protocol, .. } => {
                index(dev).map(|i| Request::del_filter(i, *hook, *protocol))
            }
            Removal::Addr { dev, addr, .. } => index(dev).map(|i| Request::del_addr(i, *addr)),
            Removal::Device { .. }
            | Removal::Policy { .. }
            | Removal::Association { .. }
            | Removal::Table { .. }
            | Removal::Sysctl { .. }
            | Removal::Netns { .. } => None,
        };
        match (request, self.socket(ns)) {
            (Some(request), Some(socket)) => absent_is_fine(socket.execute([request]), removal),
            _ => Ok(()),
        }
    }

    /// A device each thread at a time: what the kernel waits for, it waits for side by side.
    fn remove_devices(&mut self, removals: &[&Removal]) -> Result<()> {
        let there: Vec<(&str, &str, &Removal)> = removals
            .iter()
            .filter_map(|removal| {
                let Removal::Device { ns, dev } = removal else { return None };
                self.index(ns, dev).is_ok().then_some((ns.as_str(), dev.as_str(), *removal))
            })
            .collect();
        let namespaces = self.namespaces();
        let share = there.len().div_ceil(THREADS).max(1);
        let removed = thread::scope(|scope| {
            let workers: Vec<_> = there
                .chunks(share)
                .map(|part| scope.spawn(|| part.iter().try_for_each(|one| remove_device(namespaces, *one))))
                .collect();
            workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|p| std::panic::resume_unwind(p)))
        });
        there.iter().for_each(|(ns, dev, _)| self.forget(ns, dev));
        removed
    }

    fn remove_security(&mut self, removals: &[&Removal]) -> Result<()> {
        let mut by_ns: BTreeMap<&str, Vec<&Removal>> = BTreeMap::new();
        for removal in removals.iter().filter(|r| self.is_open(r.netns())) {
            by_ns.entry(removal.netns()).or_default().push(removal);
        }
        let namespaces = self.namespaces();
        on_a_thread(|| {
            by_ns.iter().try_for_each(|(ns, removals)| {
                enter(namespaces, ns)?;
                let what = || format!("cannot open a socket for security in namespace {ns}");
                let mut socket = Socket::open_xfrm().doing(Kind::Kernel, what)?;
                removals.iter().try_for_each(|removal| {
                    let request = match removal {
                        Removal::Policy { src, dst, direction, .. } => {
                            Request::del_policy(*src, *dst, *direction)
                        }
                        Removal::Association { dst, spi, .. } => Request::del_association(*dst, *spi),
                        Removal::Route { .. }
                        | Removal::Neighbour { .. }
                        | Removal::Qdisc { .. }
                        | Removal::Redirect { .. }
                        | Removal::Addr { .. }
                        | Removal::Device { .. }
                        | Removal::Table { .. }
                        | Removal::Sysctl { .. }
                        | Removal::Netns { .. } => return Err(Error::bug("not about security")),
                    };
                    absent_is_fine(socket.execute([request]), removal)
                })
            })
        })
    }

    fn remove_table(&self, ns: &str, table: &str) -> Result<()> {
        if !self.is_open(ns) {
            return Ok(());
        }
        let text = format!("table {table}\ndelete table {table}\n");
        on_a_thread(|| {
            enter(self.namespaces(), ns)?;
            process::feed(Command::new("nft").args(["-f", "-"]), &text)
                .map(drop)
                .map_err(|e| e.context(format!("cannot remove table {table} of {}", place(ns))))
        })
    }

    /// Gives a sysctl the value that a fresh namespace has, which is that of the lab's own, where nothing is set.
    fn reset_sysctl(&self, ns: &str, key: &str) -> Result<()> {
        if !self.is_open(ns) {
            return Ok(());
        }
        let what = || format!("cannot reset {} on {}", key.replace('/', "."), place(ns));
        let path = format!("/proc/sys/{key}");
        let value = fs::read_to_string(&path).doing(Kind::Kernel, what)?;
        on_a_thread(|| {
            enter(self.namespaces(), ns)?;
            fs::write(&path, value.trim_end()).doing(Kind::Kernel, what)
        })
    }

    /// Ends what still runs in them, and takes away their names; the kernel takes away the rest.
    fn remove_namespaces(&mut self, names: &[&str]) -> Result<()> {
        for ns in names {
            self.close(ns);
            let path = self.namespaces().path(ns);
            end_processes(&path);
            match umount2(&path, MntFlags::MNT_DETACH) {
                // Never mounted, by a change that was cut short.
                Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
                Err(e) => return Err(Error::kernel(format!("cannot remove namespace {ns}")).because(e)),
            }
            match fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::kernel(format!("cannot remove namespace {ns}")).because(e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn resize(&mut self, resize: &Resize) -> Result<()> {
        let Resize { ns, dev, mtu } = resize;
        let request = Request::set_mtu(self.index(ns, dev)?, *mtu);
        let refused = |refusal: Refusal| {
            Error::kernel(format!("cannot set the MTU of {dev} on {} to {mtu}", place(ns))).because(refusal)
        };
        self.socket(ns).map_or(Ok(()), |socket| socket.execute([request]).map_err(refused))
    }
}

fn remove_device(namespaces: &Namespaces, (ns, dev, removal): (&str, &str, &Removal)) -> Result<()> {
    enter(namespaces, ns)?;
    let mut socket =
        Socket::open().doing(Kind::Kernel, || format!("cannot open a netlink socket in namespace {ns}"))?;
    absent_is_fine(socket.execute([Request::del_link(dev)]), removal)
}

/// What the kernel does not have needs no removal.
fn absent_is_fine(result: Result<(), Refusal>, removal: &Removal) -> Result<()> {
    let Err(refusal) = result else { return Ok(()) };
    let absent = [libc::ESRCH, libc::ENOENT, libc::ENODEV, libc::EADDRNOTAVAIL];
    // The default qdisc cannot be removed (`tc_get_qdisc` in Linux): there is no other.
    let nothing_set = matches!(removal, Removal::Qdisc { .. }) && refusal.errno == libc::EINVAL;
    if absent.contains(&refusal.errno) || nothing_set {
        return Ok(());
    }
    let error = Error::kernel(format!("cannot carry out `{removal}`")).because(&refusal);
    Err(match &refusal.text {
        Some(text) => error.because(format!("kernel: {text}")),
        None => error,
    })
}

/// Ends the processes in a namespace: commands that somebody runs in a node that goes. Where `/proc` shows other process
/// ids than this process may use, the namespace ends with the last of them.
fn end_processes(netns: &std::path::Path) {
    let own = fs::read_link("/proc/self").ok().and_then(|link| link.to_str()?.parse::<u32>().ok());
    let Ok(target) = fs::metadata(netns) else { return };
    let Ok(entries) = fs::read_dir("/proc") else { return };
    for pid in entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok()) {
        let inside = |pid| {
            fs::metadata(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|m| (m.dev(), m.ino()) == (target.dev(), target.ino()))
        };
        if own == Some(std::process::id())
            && let Ok(process) = pidfd::open(pid)
            && inside(pid)
        {
            // It has ended by itself.
            let _gone = pidfd::send_signal(&process, Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(errno: i32) -> Result<(), Refusal> {
        Err(Refusal { index: 0, errno, text: None })
    }

    #[test]
    fn what_is_gone_is_no_failure() {
        let route = Removal::Route { ns: "b.X".into(), prefix: "10.0.0.0/31".parse().unwrap() };
        assert!(absent_is_fine(refusal(libc::ESRCH), &route).is_ok());
        let error = absent_is_fine(refusal(libc::EPERM), &route).unwrap_err();
        assert_eq!(error.what(), "cannot carry out `ip -n b.X route del 10.0.0.0/31`");
    }
}
