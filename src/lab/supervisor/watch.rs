//! Telling who watches what becomes of services. Clients that have asked go in; each change comes out once, to all of them.
//! It never waits for a client: one that does not read is given up.

use std::collections::{BTreeMap, BTreeSet};

use super::{Reply, Supervisor};
use crate::lab::control::Status;

/// Who watches, and what they have been told.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    clients: BTreeSet<u64>,
    told: BTreeMap<u64, Status>,
}

impl Supervisor {
    /// A client watches from now on; what it is told first.
    pub(super) fn watch(&mut self, client: u64) -> Reply {
        // Those before it hear first what it learns from the list.
        self.tell_watchers();
        self.watchers.clients.insert(client);
        self.watchers.told = self.statuses();
        Reply::Services(self.watchers.told.values().cloned().collect())
    }

    fn statuses(&self) -> BTreeMap<u64, Status> {
        self.services.iter().map(|(id, service)| (*id, service.status())).collect()
    }

    /// Tells of what has changed since the last call.
    pub(super) fn tell_watchers(&mut self) {
        if self.watchers.clients.is_empty() {
            return;
        }
        let now = self.statuses();
        let gone = self.watchers.told.iter().filter(|(id, _)| !now.contains_key(id));
        let mut news: Vec<Reply> = gone.map(|(_, status)| Reply::Removed(status.name.clone())).collect();
        let other = now.iter().filter(|(id, status)| self.watchers.told.get(id) != Some(status));
        news.extend(other.map(|(_, status)| Reply::Changed(status.clone())));
        self.watchers.told = now;
        let control = &mut self.control;
        self.watchers.clients.retain(|client| news.iter().all(|reply| control.tell(*client, reply)));
    }
}
