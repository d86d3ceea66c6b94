//! One peer of a speaker: whether it is heard, what it said, and what it has been told. Checked messages and the time go
//! in; messages and the prefixes whose exits may have changed come out. It never compares what different peers say.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;

use super::Timers;
use super::log::Log;
use super::record::{Change, Port, Records};
use super::state::{Act, Event, State};
use super::wire::{self, Body, Changes, Header, Message, Seal};

/// Prefixes whose exits may have changed.
pub(super) type Touched = BTreeSet<Ipv4Net>;

/// Who speaks.
#[derive(Debug)]
pub(super) struct Me {
    pub(super) router: Ipv4Addr,
    pub(super) port: Port,
    pub(super) u: Ipv4Addr,
    pub(super) seal: Seal,
}

/// When something happens, and how long what follows takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now<'a> {
    pub(super) time: Duration,
    pub(super) timers: &'a Timers,
}

/// Messages under way to one peer at most.
const WINDOW: usize = 8;
/// The pause before the changes that are not acknowledged are sent again doubles, up to this many times the first.
const LONGEST_RETRY: u32 = 8;

/// A record that was withdrawn and is used until another exit is known, or until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lingering {
    pub(super) metric: u32,
    pub(super) until: Duration,
}

/// An UPDATE that came before one that it builds on.
#[derive(Debug)]
struct Early {
    to: u64,
    changes: Vec<Change>,
}

/// What the peer said in this session.
#[derive(Debug, Default)]
struct Heard {
    records: Records,
    /// When each prefix, as it is, was said.
    since: BTreeMap<Ipv4Net, Duration>,
    lingering: BTreeMap<Ipv4Net, Lingering>,
    /// Its changes up to this number are in `records`.
    have: u64,
    /// By the change after which they begin.
    early: BTreeMap<u64, Early>,
    /// Its last change that is known of.
    last: Option<u64>,
    /// Of `records`, once it has been asked for.
    digest: Option<u64>,
}

/// What the peer was told in this session.
#[derive(Debug, Default)]
struct Told {
    acked: u64,
    sent: u64,
    /// The last change of each message that is under way.
    under_way: VecDeque<u64>,
    /// When what is under way is taken for lost.
    retry: Option<Duration>,
    /// How often that was so since the last acknowledgement.
    lost: u32,
}

/// One peer. A session lasts as long as the epochs of both sides; `heard` and `told` are empty when it begins.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) port: Port,
    pub(super) u: Ipv4Addr,
    state: State,
    /// This speaker's epoch for the peer.
    epoch: u64,
    /// The peer's.
    theirs: Option<u64>,
    /// The last message to it, and from it.
    number_out: u32,
    number_in: u32,
    /// When it is taken for dead, unless it is heard.
    expires: Duration,
    /// When the next HELLO is due.
    hello: Duration,
    /// How often it said what cannot be.
    broken: u64,
    heard: Heard,
    told: Told,
}

impl Peer {
    pub(super) fn new(port: Port, u: Ipv4Addr, epoch: u64, now: Duration) -> Self {
        Self {
            port,
            u,
            state: State::Down,
            epoch,
            theirs: None,
            number_out: 0,
            number_in: 0,
            expires: now,
            hello: now,
            broken: 0,
            heard: Heard::default(),
            told: Told::default(),
        }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    /// What it said, and what counts.
    pub(super) fn records(&self) -> &Records {
        &self.heard.records
    }

    /// What it withdrew not long ago.
    pub(super) fn lingering(&self, prefix: &Ipv4Net) -> Option<u32> {
        self.heard.lingering.get(prefix).map(|l| l.metric)
    }

    /// When it said what it says of `prefix`.
    pub(super) fn since(&self, prefix: &Ipv4Net) -> Option<Duration> {
        self.heard.since.get(prefix).copied()
    }

    /// When all that it said is void, unless it is heard again.
    pub(super) fn expires(&self) -> Duration {
        self.expires
    }

    /// Whether all that it has to say has arrived, as far as is known.
    pub(super) fn is_complete(&self) -> bool {
        self.state == State::Up && self.heard.last.is_some_and(|last| last <= self.heard.have)
    }

    /// How often the digests of equal histories differed.
    pub(super) fn broken(&self) -> u64 {
        self.broken
    }

    /// The change up to which it has been told all, if it is to be told anything.
    pub(super) fn acked(&self) -> Option<u64> {
        (self.state == State::Up).then_some(self.told.acked)
    }

    /// A message of this peer. Prefixes whose exits may have changed are added to `touched`.
    pub(super) fn handle(&mut self, message: &Message<'_>, log: &Log, now: Now<'_>, touched: &mut Touched) {
        let header = &message.header;
        if self.theirs != Some(header.epoch) || is_later(header.number, self.number_in) {
            self.hear(message, now, touched);
        }
        if !self.in_session(header) {
            return;
        }
        self.acknowledged(header.ack, log, now);
        if let Body::Update { from, to, changes } = message.body {
            self.hello = now.time; // a HELLO acknowledges it
            self.learn(from, to, changes, now, touched);
        }
    }

    /// A message that is later than all others of this peer: what it says of the peer itself.
    fn hear(&mut self, message: &Message<'_>, now: Now<'_>, touched: &mut Touched) {
        let header = &message.header;
        match self.react(self.event(header), touched) {
            Act::Nothing | Act::Part => return,
            Act::Renew => {}
            Act::Meet => {
                self.theirs = Some(header.epoch);
                self.hello = now.time;
            }
        }
        self.number_in = header.number;
        self.expires = now.time + message.hold();
        if let Body::Hello { last, digest } = message.body
            && self.in_session(header)
            && !self.heard.agrees(last, digest)
        {
            self.react(Event::Broken, touched);
            self.broken += 1;
            self.hello = now.time;
        }
    }

    /// Lets an event happen, and forgets what it makes void.
    fn react(&mut self, event: Event, touched: &mut Touched) -> Act {
        let (state, act) = self.state.step(event);
        self.state = state;
        if matches!(act, Act::Meet | Act::Part) {
            self.heard.touch_all(touched);
            (self.heard, self.told) = (Heard::default(), Told::default());
        }
        if act == Act::Part {
            self.theirs = None;
            self.epoch = self.epoch.saturating_add(1);
        }
        act
    }

    /// Whether a message belongs to the session that is.
    fn in_session(&self, header: &Header) -> bool {
        self.state == State::Up && self.theirs == Some(header.epoch) && header.heard == self.epoch
    }

    fn event(&self, header: &Header) -> Event {
        let two_way = header.heard == self.epoch;
        match self.theirs {
            Some(theirs) if header.epoch < theirs => Event::Earlier,
            Some(theirs) if header.epoch == theirs && two_way => Event::TwoWay,
            Some(theirs) if header.epoch == theirs => Event::OneWay,
            Some(_) | None if two_way => Event::NewTwoWay,
            Some(_) | None => Event::NewOneWay,
        }
    }

    /// The peer has this speaker's changes up to `ack`.
    fn acknowledged(&mut self, ack: u64, log: &Log, now: Now<'_>) {
        let told = &mut self.told;
        if ack <= told.acked || ack > log.last() {
            return;
        }
        told.acked = ack;
        told.sent = told.sent.max(ack);
        told.lost = 0;
        told.under_way.retain(|to| *to > ack);
        told.retry = (!told.under_way.is_empty()).then(|| now.time + now.timers.retry);
    }

    /// An UPDATE of this session. One that builds on changes that have not arrived waits for them.
    fn learn(&mut self, from: u64, to: u64, changes: Changes<'_>, now: Now<'_>, touched: &mut Touched) {
        let heard = &mut self.heard;
        heard.last = heard.last.max(Some(to));
        if to <= heard.have {
            return;
        }
        if from > heard.have {
            if heard.early.len() < WINDOW {
                heard.early.insert(from, Early { to, changes: changes.collect() });
            }
            return;
        }
        heard.take(to, changes, now, touched);
        while let Some(next) = heard.early.first_entry().filter(|next| *next.key() <= heard.have) {
            let early = next.remove();
            if early.to > heard.have {
                heard.take(early.to, early.changes, now, touched);
            }
        }
    }

    /// What the time brings.
    pub(super) fn handle_timeout(&mut self, now: Now<'_>, touched: &mut Touched) {
        if self.state != State::Down && self.expires <= now.time {
            self.react(Event::Expired, touched);
            self.hello = now.time;
        }
        self.heard.lingering.retain(|prefix, l| {
            let stays = now.time < l.until;
            if !stays {
                touched.insert(*prefix);
            }
            stays
        });
        let told = &mut self.told;
        if told.retry.is_some_and(|retry| retry <= now.time) {
            told.under_way.clear();
            told.sent = told.acked;
            told.retry = None;
            told.lost = told.lost.saturating_add(1);
        }
    }

    /// When [`Self::handle_timeout`] or [`Self::poll_transmit`] has something to do, at the latest.
    pub(super) fn poll_timeout(&self) -> Duration {
        let lease = (self.state != State::Down).then_some(self.expires);
        let lingering = self.heard.lingering.values().map(|l| l.until).min();
        [lease, self.told.retry, lingering].into_iter().flatten().fold(self.hello, Duration::min)
    }

    /// The next message to the peer, if one is due.
    pub(super) fn poll_transmit(&mut self, log: &mut Log, me: &Me, now: Now<'_>) -> Option<Vec<u8>> {
        if self.hello <= now.time {
            self.hello = now.time + now.timers.hello;
            return Some(self.emit(&Body::Hello { last: log.last(), digest: log.digest() }, me, now));
        }
        let told = &mut self.told;
        if self.state != State::Up || told.sent >= log.last() || told.under_way.len() >= WINDOW {
            return None;
        }
        let (from, (to, changes)) = (told.sent, log.after(told.sent));
        told.sent = to;
        told.under_way.push_back(to);
        let factor = 1u32.checked_shl(told.lost).unwrap_or(LONGEST_RETRY).min(LONGEST_RETRY);
        told.retry.get_or_insert(now.time + now.timers.retry * factor);
        Some(self.emit(&Body::Update { from, to, changes: &changes[..] }, me, now))
    }

    fn emit(&mut self, body: &Body<&[Change]>, me: &Me, now: Now<'_>) -> Vec<u8> {
        self.number_out = self.number_out.wrapping_add(1);
        let header = Header {
            router: me.router,
            port: me.port,
            hold_ms: now.timers.hold_ms(),
            number: self.number_out,
            epoch: self.epoch,
            heard: self.theirs.unwrap_or(0),
            ack: self.heard.have,
        };
        wire::emit(&header, body, &me.seal, me.u, self.u)
    }
}

impl Heard {
    /// Whether the peer's records, of which it says that they have this digest after its change `last`, can be these.
    fn agrees(&mut self, last: u64, digest: u64) -> bool {
        self.last = self.last.max(Some(last));
        match last.cmp(&self.have) {
            Ordering::Less => false, // this HELLO is later than all that was heard
            Ordering::Equal => digest == *self.digest.get_or_insert_with(|| wire::digest(&self.records)),
            Ordering::Greater => true, // the rest is under way
        }
    }

    /// Takes changes up to number `to`.
    fn take(
        &mut self,
        to: u64,
        changes: impl IntoIterator<Item = Change>,
        now: Now<'_>,
        touched: &mut Touched,
    ) {
        (self.have, self.digest) = (to, None);
        for change in changes {
            match &change {
                Change::Bind(_) => self.touch_all(touched),
                Change::Unbind => {
                    self.touch_all(touched);
                    self.lingering.clear();
                }
                Change::Reach(prefix, metric) => {
                    if self.records.reach.get(prefix) != Some(metric) {
                        self.since.insert(*prefix, now.time);
                    }
                    self.lingering.remove(prefix);
                    touched.insert(*prefix);
                }
                Change::Unreach(prefix) => {
                    self.linger(*prefix, now);
                    touched.insert(*prefix);
                }
            }
            self.records.apply(change);
        }
    }

    /// A prefix that is about to be withdrawn.
    fn linger(&mut self, prefix: Ipv4Net, now: Now<'_>) {
        self.since.remove(&prefix);
        if let Some(metric) = self.records.metric(&prefix) {
            let until = now.time + now.timers.linger;
            self.lingering.insert(prefix, Lingering { metric, until });
        }
    }

    fn touch_all(&self, touched: &mut Touched) {
        touched.extend(self.records.reach.keys().chain(self.lingering.keys()));
    }
}

/// Whether message `number` was sent after message `than`, in the arithmetic of RFC 1982.
fn is_later(number: u32, than: u32) -> bool {
    (1..=u32::MAX / 2).contains(&number.wrapping_sub(than))
}

#[cfg(test)]
impl Peer {
    /// Forgets prefixes, as only a fault of this program could.
    pub(super) fn damage_what_it_said(&mut self) {
        self.heard.records.reach.clear();
        self.heard.digest = None;
    }
}
