//! How many labs are tested at once. The machine's processors and free memory, and the size of each lab, go in; a lab is
//! let in when there is room for it. One lab is always let in, whatever its size.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use crate::model::Lab;

const MIB: u64 = 1 << 20;
/// Processes of vilab that each lab has, the engine included.
const LAB_MIB: u64 = 32;
/// A node's namespace, devices and files, and its two routing daemons.
const NODE_KIB: u64 = 512;
const DAEMONS_MIB: u64 = 8;

/// Labs that may be tested at once where nobody says: one for each processor. A lab waits more than it computes.
pub(super) fn jobs() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Memory that a lab takes while it is up, in bytes; rather more.
pub(super) fn size(lab: &Lab) -> u64 {
    let nodes = lab.nodes().count() as u64;
    let daemons = lab.nodes().filter(|n| lab.net(n.id.net).routing.is_dynamic()).count() as u64;
    LAB_MIB * MIB + nodes * NODE_KIB * 1024 + daemons * DAEMONS_MIB * MIB
}

/// Memory for labs, shared by those that are up.
#[derive(Debug)]
pub(super) struct Room {
    whole: u64,
    state: Mutex<State>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct State {
    taken: u64,
    guests: usize,
}

impl Room {
    /// Half of the memory that is free now: the rest is for what else the user does.
    pub(super) fn of_this_machine() -> Self {
        Self::new(free().unwrap_or(u64::MAX) / 2)
    }

    fn new(whole: u64) -> Self {
        Self { whole, state: Mutex::default(), left: Condvar::new() }
    }

    /// Waits until there is room for `size` bytes, or nobody else is in.
    pub(super) fn enter(&self, size: u64) -> Place<'_> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |s: &mut State| s.guests > 0 && s.taken.saturating_add(size) > self.whole;
        let mut state = self.left.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
        state.taken = state.taken.saturating_add(size);
        state.guests += 1;
        Place { room: self, size }
    }
}

/// A place that is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    room: &'a Room,
    size: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.room.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.taken = state.taken.saturating_sub(self.size);
        state.guests -= 1;
        self.room.left.notify_all();
    }
}

/// Bytes of memory that may be used: the machine's, and what control groups leave of it.
fn free() -> Option<u64> {
    let machine = meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?);
    let group = std::fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| group(&text));
    machine.into_iter().chain(group.into_iter().filter_map(|group| limit(&group))).min()
}

/// `MemAvailable`, proc(5).
fn meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The directory of the control group of version 2, cgroups(7).
fn group(text: &str) -> Option<PathBuf> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new("/sys/fs/cgroup").join(path))
}

/// What `memory.max` of a group and those above it leaves.
fn limit(group: &Path) -> Option<u64> {
    let number = |path: PathBuf| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let left = |dir: &Path| {
        Some(number(dir.join("memory.max"))?.saturating_sub(number(dir.join("memory.current"))?))
    };
    group.ancestors().take_while(|dir| dir.starts_with("/sys/fs/cgroup")).filter_map(left).min()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::model;

    #[test]
    fn memory_is_read() {
        assert_eq!(meminfo("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), Some(2 * MIB));
        assert_eq!(meminfo("MemTotal: 9 kB\n"), None);
        assert_eq!(group("1:cpu:/a\n0::/user/x\n"), Some("/sys/fs/cgroup/user/x".into()));
        assert_eq!(group("1:cpu:/a\n"), None);
    }

    #[test]
    fn daemons_and_nodes_count() {
        let lab = |routing: &str| {
            let text = format!("name: t\nbase: {{routing: {routing}, links: [a -- b -- c]}}\n");
            size(&model::parse(Path::new("t.yaml"), &text).unwrap())
        };
        assert!(lab("static") > LAB_MIB * MIB);
        assert_eq!(lab("ospf") - lab("static"), 3 * DAEMONS_MIB * MIB);
    }

    #[test]
    fn who_does_not_fit_waits_for_the_others_and_is_let_in_alone() {
        let room = Room::new(10);
        let (tell, hear) = mpsc::channel();
        thread::scope(|scope| {
            let (first, second) = (room.enter(4), room.enter(6));
            scope.spawn(|| {
                let _place = room.enter(100);
                tell.send("large").unwrap();
            });
            drop(first);
            assert!(hear.recv_timeout(Duration::from_millis(50)).is_err(), "one is still in");
            drop(second);
            assert_eq!(hear.recv_timeout(Duration::from_secs(10)), Ok("large"));
        });
    }
}
