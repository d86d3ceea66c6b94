//! What a speaker has to say, as numbered changes. Sets of records go in; the changes after any of them come out. It
//! never knows who has heard what, beyond what it is told to forget.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;

use super::record::{Change, Records};
use super::wire;

/// What a record is about. A BIND comes before any REACH.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Bind,
    Reach(Ipv4Net),
}

/// A set of records, and the number of the last change of each of its subjects. A number is given once; the value of a
/// change is what the records say, so only the last change of a subject is kept.
#[derive(Debug, Default)]
pub(super) struct Log {
    records: Records,
    numbers: BTreeMap<Subject, u64>,
    changes: BTreeMap<u64, Subject>,
    /// Which of the changes withdraw.
    withdrawn: BTreeSet<u64>,
    last: u64,
    digest: Option<u64>,
}

impl Log {
    pub(super) fn records(&self) -> &Records {
        &self.records
    }

    /// Number of the last change; zero if there was none.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn digest(&mut self) -> u64 {
        *self.digest.get_or_insert_with(|| wire::digest(&self.records))
    }

    /// Takes the records that hold from here on. What is announced gets its numbers first, then what is withdrawn: the
    /// binding, which ends the use of all else at once, then prefixes. Prefixes that changed come out; if the binding did,
    /// all.
    pub(super) fn replace(&mut self, new: Records) -> BTreeSet<Ipv4Net> {
        let old = std::mem::replace(&mut self.records, new);
        let new = &self.records;
        let bound = old.bind != new.bind;
        let (opened, closed) = (bound && new.bind.is_some(), bound && new.bind.is_none());
        let said: Vec<Ipv4Net> =
            new.reach.iter().filter(|(p, m)| old.reach.get(*p) != Some(*m)).map(|(p, _)| *p).collect();
        let gone: Vec<Ipv4Net> = old.reach.keys().filter(|p| !new.reach.contains_key(p)).copied().collect();

        let subjects = [
            Vec::from_iter(opened.then_some(Subject::Bind)),
            said.iter().copied().map(Subject::Reach).collect(),
            Vec::from_iter(closed.then_some(Subject::Bind)),
            gone.iter().copied().map(Subject::Reach).collect(),
        ];
        subjects.into_iter().flatten().for_each(|subject| self.note(subject));
        let all = bound.then(|| self.records.reach.keys().copied()).into_iter().flatten();
        said.iter().chain(&gone).copied().chain(all).collect()
    }

    /// Gives the change of a subject, which the records have already, its number.
    fn note(&mut self, subject: Subject) {
        self.last += 1;
        self.digest = None;
        if let Some(former) = self.numbers.insert(subject, self.last) {
            self.changes.remove(&former);
            self.withdrawn.remove(&former);
        }
        self.changes.insert(self.last, subject);
        if matches!(self.change(subject), Change::Unreach(_) | Change::Unbind) {
            self.withdrawn.insert(self.last);
        }
    }

    /// Forgets withdrawals up to number `heard`: all that would have to learn of them have.
    pub(super) fn forget(&mut self, heard: u64) {
        while let Some(number) = self.withdrawn.first().copied().filter(|n| *n <= heard) {
            self.withdrawn.pop_first();
            if let Some(subject) = self.changes.remove(&number) {
                self.numbers.remove(&subject);
            }
        }
    }

    /// As many changes after `from` as one message holds, in their order, and the number up to which they are complete.
    pub(super) fn after(&self, from: u64) -> (u64, Vec<Change>) {
        let (mut to, mut room, mut chunk) = (from, wire::ROOM, Vec::new());
        for (number, subject) in self.changes.range(from.saturating_add(1)..) {
            let change = self.change(*subject);
            let Some(left) = room.checked_sub(wire::encoded_len(&change)) else { return (to, chunk) };
            (to, room) = (*number, left);
            chunk.push(change);
        }
        (self.last, chunk)
    }

    fn change(&self, subject: Subject) -> Change {
        match subject {
            Subject::Bind => self.records.bind.clone().map_or(Change::Unbind, Change::Bind),
            Subject::Reach(prefix) => match self.records.reach.get(&prefix) {
                Some(metric) => Change::Reach(prefix, *metric),
                None => Change::Unreach(prefix),
            },
        }
    }
}

#[cfg(test)]
mod tests;
