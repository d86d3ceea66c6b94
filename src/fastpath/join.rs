//! Frames that were read, or are to be written, in a row: datagrams of one flow among them become one frame. Frames go in, in
//! order; fewer frames come out, in an order in which no packet has overtaken another of its flow. It never holds a packet back:
//! what is in a row has come already.

use super::frame::Frame;
use crate::packet::{Datagram, Train, ipv4};

/// Flows in a row that are told apart; of more, some are joined less.
const FLOWS: usize = 8;

/// A frame that others may join.
#[derive(Debug, Clone, Copy)]
struct Open {
    frame: usize,
    /// Where it is read or written.
    place: usize,
    train: Train,
}

/// What of a row can be added to.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    open: [Option<Open>; FLOWS],
    /// Which one the next flow displaces where all are in use.
    next: usize,
}

impl Joiner {
    /// Frame `index` is the next of the row that is read or written at `place`; says whether an earlier frame has taken its data
    /// over, so that it is to be left out.
    pub(super) fn offer(&mut self, frames: &mut [Frame], index: usize, place: usize) -> bool {
        let frame = &frames[index];
        let datagram = Datagram::of(frame.packet()).filter(|_| frame.segments().is_none());
        let Some(datagram) = datagram else {
            if !is_of_another_kind(frame.packet()) {
                self.finish(frames);
            }
            return false;
        };
        let is_of = |open: &Open| open.place == place && open.train.is_of(&datagram);
        let known = self.open.iter().position(|open| open.as_ref().is_some_and(is_of));
        let slot = known.or_else(|| self.open.iter().position(Option::is_none)).unwrap_or_else(|| {
            self.next = (self.next + 1) % FLOWS;
            self.next
        });
        let begun = Open { frame: index, place, train: Train::new(&datagram) };
        if known.is_some()
            && let Some(open) = &mut self.open[slot]
            && open.train.add(&datagram)
        {
            let data_len = datagram.data().len();
            if let Ok([first, next]) = frames.get_disjoint_mut([open.frame, index]) {
                first.append_end_of(next, data_len);
            }
            return true;
        }
        close(frames, self.open[slot].replace(begun));
        false
    }

    /// The row ends, or nothing may join what is before this point.
    pub(super) fn finish(&mut self, frames: &mut [Frame]) {
        self.open.iter_mut().for_each(|open| close(frames, open.take()));
    }
}

fn close(frames: &mut [Frame], open: Option<Open>) {
    let Some(Open { frame, train, .. }) = open else { return };
    let segments = train.finish(frames[frame].packet_mut());
    if segments.is_some() {
        frames[frame].set_segments(segments);
    }
}

/// Whether a packet is certainly no part of a flow of datagrams.
fn is_of_another_kind(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first >> 4 == 4) && packet.get(9).is_some_and(|p| *p != ipv4::UDP)
}

#[cfg(test)]
mod tests;
