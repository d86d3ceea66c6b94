//! Interfaces with strands: links of a VI that rides on several VIs at once. Packets that go out through such an interface,
//! and those that come by a strand, go in; the strand that takes them, or the interface they have arrived at, comes out.
//! It never answers anything but probes.
//!
//! A strand is an interface too, behind those of the config: it has a link header, a partition below and keys of its own,
//! but no device. Its owner's device is what the kernel sees of it.

use super::{Config, Forwarder, Interface, Made, Moves, Outcome, Reassembler, Step, Via, checked};
use crate::fastpath::config::{self, Below};
use crate::fastpath::counters::{Count, Reason};
use crate::fastpath::frame::Frame;
use crate::fastpath::spread::{Arrival, StrandState};

/// Copies that wait to be sent before more are dropped: where packets go in circles, copies of copies would never end.
pub(super) const MOST_COPIES: usize = 4096;

/// Puts the strands behind the interfaces that have them.
pub(super) fn add_strands(config: &Config, interfaces: &mut Vec<Interface>) {
    let first = interfaces.len();
    for (owner, interface) in config.interfaces.iter().enumerate() {
        let strands = interface.bundle.iter().flat_map(|b| &b.strands).enumerate();
        for (at, strand) in strands {
            let made = self::strand(&interfaces[owner], strand, (owner, at));
            interfaces.push(made);
        }
    }
    let ends = |i: &Interface| (i.below, i.node, i.local, i.remote);
    for this in first..interfaces.len() {
        let (below, node, local, remote) = ends(&interfaces[this]);
        let peer = interfaces[first..].iter().position(|i| ends(i) == (below, node, remote, local));
        interfaces[this].peer = peer.map(|at| first + at);
    }
}

fn strand(owner: &Interface, strand: &config::Strand, of: (usize, usize)) -> Interface {
    Interface {
        node: owner.node,
        partition: owner.partition,
        local: strand.local,
        remote: strand.remote,
        below: Below::Partition(strand.partition),
        exit: None,
        fragments: None,
        reassembler: Reassembler::default(),
        peer: None,
        protection: strand.security.as_ref().map(|s| Box::new(s.into())),
        device: owner.device,
        shaper: None,
        bundle: None,
        of: Some(of),
    }
}

impl Forwarder {
    /// Of each interface that has strands, by its index: how these are.
    pub fn strands(&self) -> impl Iterator<Item = (usize, Vec<StrandState>)> + '_ {
        let bundles = self.interfaces.iter().enumerate();
        bundles.filter_map(|(i, interface)| Some((i, interface.bundle.as_ref()?.states())))
    }

    /// Whether any interface has strands.
    #[must_use]
    pub fn has_strands(&self) -> bool {
        self.interfaces.iter().any(|i| i.bundle.is_some())
    }

    /// A probe for each strand of each interface that is up, to be handled as [`super::Input::Made`] at once; those of one
    /// base node come together.
    pub fn probes(&mut self) -> Vec<Made> {
        let mut probes = Vec::new();
        for index in 0..self.interfaces.len() {
            let Some((owner, strand)) = self.interfaces[index].of.filter(|_| self.is_up(index)) else {
                continue;
            };
            let id = self.next_id();
            let Some(bundle) = &mut self.interfaces[owner].bundle else { continue };
            let bytes = bundle.probe(strand, id).into_boxed_slice();
            self.nodes[self.interfaces[index].node].counters.count(Count::Probes);
            probes.push(Made { via: Via(index), bytes, is_piece: false });
        }
        probes.sort_by_key(|made| self.node_via(made.via));
        probes
    }

    /// The next copy of a packet handled before, to be handled as [`super::Input::Made`]: of the same base node.
    pub fn copy(&mut self) -> Option<Made> {
        self.copies.pop_front()
    }

    /// The base node a strand starts from.
    #[must_use]
    pub fn node_via(&self, via: Via) -> usize {
        self.interfaces[via.0].node
    }

    /// Whether the device of an interface is up, or that of the interface whose strand it is.
    pub(super) fn is_up(&self, i: usize) -> bool {
        let owner = self.interfaces[i].of.map_or(i, |(owner, _)| owner);
        self.interfaces[owner].device.up
    }

    /// A packet goes out through an interface with strands.
    pub(super) fn transmit_by_strand(&mut self, i: usize, frame: &Frame) -> Result<Step, Reason> {
        let seed = self.partitions[self.interfaces[i].partition].seed;
        let first = self.first_strand(i).ok_or(Reason::NoLink)?;
        let interface = &mut self.interfaces[i];
        let (node, bundle) = (interface.node, interface.bundle.as_mut().ok_or(Reason::NoLink)?);
        let chosen = bundle.choose(frame.packet(), seed as u64);
        for other in bundle.copies(chosen) {
            let counters = &mut self.nodes[node].counters;
            counters.count(Count::Copied);
            match self.copies.len() < MOST_COPIES {
                true => {
                    let bytes = frame.packet().into();
                    self.copies.push_back(Made { via: Via(first + other), bytes, is_piece: false });
                }
                false => counters.drop(Reason::TooDeep),
            }
        }
        Ok(Step::Release(first + chosen))
    }

    /// Where the strands of an interface begin.
    fn first_strand(&self, owner: usize) -> Option<usize> {
        let before = self.interfaces.partition_point(|i| i.of.is_none_or(|(other, _)| other < owner));
        (before < self.interfaces.len()).then_some(before)
    }

    /// A packet came by interface `i`, a strand of `owner`.
    pub(super) fn arrive_by(
        &mut self,
        i: usize,
        owner: usize,
        strand: usize,
        frame: &mut Frame,
    ) -> Result<Step, Reason> {
        if !self.is_up(i) {
            return Err(Reason::LinkDown);
        }
        let id = self.next_id();
        let view = checked(frame)?;
        let bundle = self.interfaces[owner].bundle.as_mut().ok_or(Reason::NoLink)?;
        match bundle.arrived(strand, &view) {
            Arrival::Packet => Ok(Step::Arrive(owner)),
            Arrival::Probe(seq) => {
                let answer = bundle.answer(seq, id);
                frame.copy_from(&answer);
                Ok(Step::Release(i))
            }
            Arrival::Answer(seq) => {
                bundle.heard(strand, seq);
                let node = self.interfaces[i].node;
                self.nodes[node].counters.count(Count::Answers);
                Ok(Step::Done(Outcome::Taken))
            }
        }
    }

    /// Takes over what `before` knows of strands that stay: how they are, what they counted, and their keys.
    pub(super) fn inherit_strands(
        &mut self,
        before: &mut Self,
        (old, new): (&Config, &Config),
        moves: &Moves,
    ) {
        for (index, at) in moves.interfaces.iter().enumerate() {
            let Some(at) = *at else { continue };
            let (was, is) = (&old.interfaces[at], &new.interfaces[index]);
            let known = before.interfaces[at].bundle.as_deref();
            if let (Some(bundle), Some(known)) = (&mut self.interfaces[index].bundle, known) {
                bundle.inherit(known);
            }
            let (Some(to), Some(from)) = (self.first_strand(index), before.first_strand(at)) else {
                continue;
            };
            let strands = |i: &config::Interface| i.bundle.clone().unwrap_or_default().strands;
            for (place, strand) in strands(is).iter().enumerate() {
                if let Some(known) = strands(was).iter().position(|s| same_strand(s, strand)) {
                    let protection = before.interfaces[from + known].protection.take();
                    self.interfaces[to + place].protection = protection;
                }
            }
        }
    }
}

/// Whether both ends go on with the keys and sequence numbers they have.
fn same_strand(was: &config::Strand, is: &config::Strand) -> bool {
    (was.local, was.remote, &was.security) == (is.local, is.remote, &is.security)
}
