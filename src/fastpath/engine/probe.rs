//! Packets that the engine sends without having read them: probes of strands, when their time has come, and copies of
//! packets that take several strands. What the forwarder made goes in; it is carried like any other packet. It never judges
//! a strand: the forwarder does.

use super::Engine;
use crate::fastpath::control::InterfaceStrands;
use crate::fastpath::forward::Input;
use crate::fastpath::forward::Made;
use crate::fastpath::spread::PROBE_EVERY;
use crate::shape::Nanos;
use crate::sys::socket;

impl Engine {
    /// Begins probing where there are strands, and ends it where there are none any more.
    pub(super) fn plan_probes(&mut self) {
        let due = self.probes_due.unwrap_or_else(|| self.now());
        self.probes_due = self.forwarder.has_strands().then_some(due);
    }

    /// Probes every strand. The next time counts from here, however late this is: strands are judged by the number of
    /// probes, and none is sent to make up for a time in which no answer could be read.
    pub(super) fn probe(&mut self) {
        let every = Nanos::try_from(PROBE_EVERY.as_nanos()).unwrap_or(Nanos::MAX);
        self.probes_due = Some(self.now().saturating_add(every));
        let probes = self.forwarder.probes();
        let mut rest = probes.as_slice();
        while let Some(first) = rest.first() {
            let node = self.forwarder.node_via(first.via);
            let same = rest.iter().take_while(|made| self.forwarder.node_via(made.via) == node).count();
            let (batch, others) = rest.split_at(same.min(socket::BATCH));
            self.send_made(node, batch);
            rest = others;
        }
    }

    /// What is left of the packets handled last.
    pub(super) fn finish_copies(&mut self, node: usize) {
        let batch: Vec<Made> = std::iter::from_fn(|| self.forwarder.copy()).take(socket::BATCH).collect();
        if !batch.is_empty() {
            self.send_made(node, &batch);
        }
    }

    /// At most as many as there are frames.
    fn send_made(&mut self, node: usize, made: &[Made]) {
        for (frame, made) in self.frames.iter_mut().zip(made) {
            frame.copy_from(&made.bytes);
        }
        let inputs: Vec<Input> = made.iter().map(Made::input).collect();
        self.finish(node, &inputs);
    }

    pub(super) fn strands(&self) -> Vec<InterfaceStrands> {
        let of = |(i, strands): (usize, Vec<_>)| {
            let (netns, dev) = self.places[i].clone();
            InterfaceStrands { netns, dev, strands }
        };
        self.forwarder.strands().map(of).collect()
    }
}
