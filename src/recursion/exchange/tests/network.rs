//! A simulated inner VI: speakers, the datagrams between them, weather and a clock. A seed goes in, a run comes out, the
//! same each time. It waits for nothing.

use super::*;

/// What becomes of datagrams. Percentages; delays are drawn evenly from 1 ms on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    pub(super) loss: u64,
    pub(super) twice: u64,
    pub(super) damage: u64,
    pub(super) longest_ms: u64,
}

impl Weather {
    pub(super) const FAIR: Self = Self { loss: 0, twice: 0, damage: 0, longest_ms: 5 };
    pub(super) const FOUL: Self = Self { loss: 30, twice: 10, damage: 5, longest_ms: 400 };
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Debug)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound
    }

    pub(super) fn hits(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(super) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }
}

/// A machine at one port, on which a speaker runs or does not.
#[derive(Debug)]
pub(super) struct Edge {
    pub(super) config: Config,
    pub(super) speaker: Option<Speaker>,
    /// What leaves by the port, whether the speaker runs or not.
    pub(super) truth: Records,
    /// All prefixes that its speakers ever announced.
    ever: BTreeSet<Ipv4Net>,
    /// Since when no speaker has run.
    stopped: Duration,
    /// How many broken sessions its speaker may have had, with each peer.
    pub(super) broken: u64,
}

#[derive(Debug)]
struct Datagram {
    from: Ipv4Addr,
    to: usize,
    bytes: Vec<u8>,
    damaged: bool,
}

#[derive(Debug)]
pub(super) struct Network {
    pub(super) dice: Dice,
    pub(super) now: Duration,
    pub(super) weather: Weather,
    pub(super) edges: Vec<Edge>,
    /// Pairs, from and to, between which nothing gets through.
    pub(super) cut: BTreeSet<(usize, usize)>,
    /// By the time of their arrival, and the order in which they were sent.
    under_way: BTreeMap<(Duration, u64), Datagram>,
    sent: u64,
    /// How many UPDATEs were sent.
    pub(super) updates: u64,
}

const UPDATE_TYPE: u8 = 2;

impl Network {
    pub(super) fn new(ports: u16, seed: u64, weather: Weather) -> Self {
        let edge = |port| Edge {
            config: config(port, ports),
            speaker: None,
            truth: Records::default(),
            ever: BTreeSet::new(),
            stopped: Duration::ZERO,
            broken: 0,
        };
        Self {
            dice: Dice(seed),
            now: Duration::ZERO,
            weather,
            edges: (1..=ports).map(edge).collect(),
            cut: BTreeSet::new(),
            under_way: BTreeMap::new(),
            sent: 0,
            updates: 0,
        }
    }

    /// Starts a speaker in a new life.
    pub(super) fn start(&mut self, at: usize) {
        let edge = &mut self.edges[at];
        edge.config.epoch += 1_000_000;
        edge.speaker = Some(Speaker::new(&edge.config, self.now).unwrap());
        self.say(at);
    }

    pub(super) fn start_all(&mut self) {
        (0..self.edges.len()).for_each(|at| self.start(at));
    }

    /// Ends it without a word.
    pub(super) fn stop(&mut self, at: usize) {
        let edge = &mut self.edges[at];
        if edge.speaker.take().is_some() {
            edge.stopped = self.now;
        }
    }

    pub(super) fn set(&mut self, at: usize, records: Records) {
        self.edges[at].truth = records;
        self.say(at);
    }

    fn say(&mut self, at: usize) {
        let edge = &mut self.edges[at];
        let Some(speaker) = &mut edge.speaker else { return };
        edge.ever.extend(edge.truth.reach.keys());
        speaker.handle_local(self.now, edge.truth.clone()).unwrap();
        self.served(at);
    }

    /// Lets the network run until `end`.
    pub(super) fn run_until(&mut self, end: Duration) {
        while let Some(next) = self.next().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            while let Some(first) = self.under_way.first_entry().filter(|first| first.key().0 <= self.now) {
                let datagram = first.remove();
                self.deliver(&datagram);
            }
            for at in 0..self.edges.len() {
                let Some(speaker) = &mut self.edges[at].speaker else { continue };
                if speaker.poll_timeout().is_some_and(|due| due <= self.now) {
                    speaker.handle_timeout(self.now);
                    self.served(at);
                }
            }
        }
        self.now = end;
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    fn next(&self) -> Option<Duration> {
        let due = self.edges.iter().filter_map(|edge| edge.speaker.as_ref()?.poll_timeout());
        due.chain(self.under_way.first_key_value().map(|((time, _), _)| *time)).min()
    }

    fn deliver(&mut self, datagram: &Datagram) {
        let Some(speaker) = &mut self.edges[datagram.to].speaker else { return };
        let outcome = speaker.handle_datagram(self.now, datagram.from, &datagram.bytes);
        assert_eq!(outcome.is_err(), datagram.damaged, "{outcome:?}");
        self.served(datagram.to);
    }

    /// After anything happened to a speaker: it sends, and what must always hold is looked at.
    fn served(&mut self, at: usize) {
        let Some(speaker) = &mut self.edges[at].speaker else { return };
        let mail: Vec<(Ipv4Addr, Vec<u8>)> = std::iter::from_fn(|| speaker.poll_transmit()).collect();
        assert!(speaker.poll_timeout().is_none_or(|due| due > self.now), "nothing is left to do");
        for (to, bytes) in mail {
            assert!(bytes.len() <= MAX_LEN);
            self.updates += u64::from(bytes[1] == UPDATE_TYPE);
            let to = self.edges.iter().position(|edge| edge.config.u == to).unwrap();
            self.send(at, to, bytes);
        }
        self.look(at);
    }

    fn send(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        let copies = 1 + u64::from(self.dice.hits(self.weather.twice));
        for _ in 0..copies {
            if self.cut.contains(&(from, to)) || self.dice.hits(self.weather.loss) {
                continue;
            }
            self.dispatch(from, to, bytes.clone(), false);
            if self.dice.hits(self.weather.damage) {
                let bytes = self.damage(bytes.clone());
                self.dispatch(from, to, bytes, true);
            }
        }
    }

    fn dispatch(&mut self, from: usize, to: usize, bytes: Vec<u8>, damaged: bool) {
        let delay = Duration::from_micros(1000 + self.dice.below(self.weather.longest_ms * 1000));
        self.sent += 1;
        let datagram = Datagram { from: self.edges[from].config.u, to, bytes, damaged };
        self.under_way.insert((self.now + delay, self.sent), datagram);
    }

    fn damage(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        match self.dice.below(4) {
            0 => bytes.truncate(self.dice.index(bytes.len())),
            1 => bytes.push(0),
            _ => {
                let at = self.dice.index(bytes.len());
                bytes[at] ^= 1 << self.dice.below(8);
            }
        }
        bytes
    }

    /// What holds at every moment: an exit has announced the prefix at some time, and a speaker that has been silent for
    /// longer than the hold time, counted from when its last datagram may have arrived, is no exit.
    fn look(&self, at: usize) {
        let speaker = self.edges[at].speaker.as_ref().unwrap();
        let patience = Timers::default().hold + Duration::from_millis(Weather::FOUL.longest_ms + 1);
        assert!(
            speaker.peers().all(|peer| peer.broken <= self.edges[at].broken),
            "no peer contradicts itself"
        );
        for (prefix, entry) in speaker.table() {
            assert!(!entry.exits.is_empty());
            for exit in &entry.exits {
                let there = self.edges.iter().find(|edge| edge.config.port == exit.port).unwrap();
                assert_eq!(exit.u, there.config.u);
                assert_ne!(exit.port, self.edges[at].config.port);
                assert!(there.ever.contains(prefix), "{prefix} never left by port {}", exit.port);
                let silent = there.speaker.is_none() && self.now > there.stopped + patience;
                assert!(!silent, "port {} is dead", exit.port);
            }
        }
    }

    /// The table that the speaker at this edge must have, from what leaves by the ports whose speakers run.
    pub(super) fn truth(&self, at: usize) -> Table {
        let open = |edge: &&Edge| edge.speaker.is_some() && edge.truth.bind.is_some();
        let open: Vec<&Edge> = self.edges.iter().filter(open).collect();
        let prefixes: BTreeSet<Ipv4Net> =
            open.iter().flat_map(|edge| edge.truth.reach.keys()).copied().collect();
        let mut table = Table::new();
        for prefix in prefixes {
            let metric = open.iter().filter_map(|edge| edge.truth.reach.get(&prefix)).min().copied().unwrap();
            let mut best: Vec<&&Edge> =
                open.iter().filter(|edge| edge.truth.reach.get(&prefix) == Some(&metric)).collect();
            let before = best.len();
            best.retain(|edge| edge.config.port != self.edges[at].config.port);
            let Some(mtu) = best.iter().map(|edge| edge.truth.bind.as_ref().unwrap().mtu()).min() else {
                continue;
            };
            let local = best.len() < before;
            let exits = best.iter().map(|e| Exit { port: e.config.port, u: e.config.u }).collect();
            table.insert(prefix, Entry { metric, exits, mtu, local });
        }
        table
    }

    /// Whether every speaker has the table it must have.
    pub(super) fn check(&self) -> Result<(), String> {
        for (at, edge) in self.edges.iter().enumerate() {
            let Some(speaker) = &edge.speaker else { continue };
            if *speaker.table() != self.truth(at) {
                let port = edge.config.port;
                return Err(format!("port {port} has {:?}, not {:?}", speaker.table(), self.truth(at)));
            }
        }
        Ok(())
    }

    /// How many datagrams were sent and not lost.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    pub(super) fn speaker(&self, at: usize) -> &Speaker {
        self.edges[at].speaker.as_ref().unwrap()
    }
}
