//! What impairments hold back. Frames of impaired devices of the kernel go in, and the time comes; packets and frames go on in
//! order. It never decides how long: shapers do.

use std::io;
use std::time::Duration;

use super::{Engine, Held, Source, close};
use crate::error::{Context, Kind, Result};
use crate::fastpath::config::ShapedDevice;
use crate::fastpath::forward::Input;
use crate::fastpath::shaped::{self, Fate, Need};
use crate::packet::{Malformed, Segments};
use crate::shape::Nanos;
use crate::sys::{socket, tun};

impl Engine {
    /// Lets go of a batch of what is due, in order; what is left is due at once when the timer is set again.
    pub(super) fn release(&mut self) {
        let _rung = self.timer.wait();
        self.armed = None;
        let now = self.now();
        if self.probes_due.is_some_and(|due| due <= now) {
            self.probe();
        }
        for _ in 0..socket::BATCH {
            match self.held.pop(now) {
                Some(Held::Packet { interface, bytes }) => self.release_packets(interface, &bytes, now),
                Some(Held::Frame { device, bytes }) => self.shaped.release(device, &bytes),
                None => return,
            }
        }
    }

    /// This packet and those due behind it on the same base node, as many as fit in a batch.
    fn release_packets(&mut self, interface: usize, bytes: &[u8], now: Nanos) {
        let node = self.forwarder.node_of(interface);
        self.frames[0].copy_from(bytes);
        let mut inputs = vec![Input::Held(interface)];
        while inputs.len() < self.frames.len() {
            let forwarder = &self.forwarder;
            let same = |held: &Held| matches!(held, Held::Packet { interface, .. } if forwarder.node_of(*interface) == node);
            let Some(Held::Packet { interface, bytes }) = self.held.pop_if(now, same) else { break };
            self.frames[inputs.len()].copy_from(&bytes);
            inputs.push(Input::Held(interface));
        }
        self.finish(node, &inputs);
    }

    /// Whether there may be more.
    pub(super) fn read_shaped(&mut self, device: usize) -> bool {
        let link_len = self.shaped.link_len(device);
        for _ in 0..socket::BATCH {
            let Some(tap) = self.shaped.tap(device) else { return false };
            let frame = &mut self.frames[0];
            let vnet = match tun::read(tap, frame.room_behind(link_len)) {
                Ok(len) => frame.received(len, link_len),
                Err(e) => {
                    if e.kind() != io::ErrorKind::WouldBlock {
                        // The device is gone; left in the set, it would be ready for ever.
                        let _ = self.epoll.delete(tap);
                    }
                    return false;
                }
            };
            let applied = frame.apply(&vnet, link_len);
            let shaped = applied.and_then(|()| match self.frames[0].segments().map(Segments::packets) {
                None => {
                    self.admit(device, link_len);
                    Ok(())
                }
                Some(packets) => (0..packets).try_for_each(|n| self.admit_piece(device, link_len, n)),
            });
            if shaped.is_err() {
                self.shaped.refuse(device);
            }
        }
        true
    }

    /// Shapes the first frame, behind its link header.
    fn admit(&mut self, device: usize, link_len: usize) {
        let now = self.now();
        let frame = &mut self.frames[0];
        if frame.push(link_len).is_some()
            && let Fate::Hold(until) = self.shaped.admit(device, frame.packet(), now)
        {
            self.held.push(until, Held::Frame { device, bytes: frame.packet().into() });
        }
    }

    /// Shapes one of the packets that the first frame stands for, with its link header.
    fn admit_piece(
        &mut self,
        device: usize,
        link_len: usize,
        number: usize,
    ) -> std::result::Result<(), Malformed> {
        self.pieces[0].cut_from(&self.frames[0], number)?;
        let (whole, piece) = (&mut self.frames[0], &mut self.pieces[0]);
        if let (Some(link), Some(room)) = (whole.push(link_len), piece.push(link_len)) {
            room.copy_from_slice(link);
        }
        whole.pull(link_len);
        piece.pull(link_len);
        std::mem::swap(&mut self.frames[0], &mut self.pieces[0]);
        self.admit(device, link_len);
        std::mem::swap(&mut self.frames[0], &mut self.pieces[0]);
        Ok(())
    }

    /// Impairs a device of the kernel, or no more.
    pub(super) fn shape(&mut self, device: ShapedDevice) -> Result<()> {
        let namespaces = self.namespaces.clone();
        match self.shaped.need(&device) {
            Need::Nothing => self.shaped.change(&device),
            Need::Attach => {
                let attach = move || shaped::attach(&namespaces, &device).map(|open| (device, open));
                let (device, open) = self.meanwhile(Duration::ZERO, attach)??;
                let (new, left_over) = self.shaped.attached(device, open);
                close(left_over);
                let Some(tap) = self.shaped.tap(new) else { return Ok(()) };
                self.watch(tap, Source::Shaped(new))
                    .doing(Kind::Kernel, || "fast path: cannot watch a device".into())?;
            }
            Need::Detach => {
                let what = device.clone();
                self.meanwhile(Duration::ZERO, move || shaped::detach(&namespaces, &what))??;
                self.leave(&device);
            }
        }
        Ok(())
    }

    /// A device that is impaired no more: nothing new comes to its TAP, and what is in it is taken out.
    pub(super) fn leave(&mut self, device: &ShapedDevice) {
        let Some(device) = self.shaped.position(device) else { return };
        while self.read_shaped(device) {}
        if let Some(tap) = self.shaped.tap(device) {
            // A descriptor that another holds too would go on being told of.
            let _gone = self.epoll.delete(tap);
        }
        close(self.shaped.detached(device));
    }
}
