//! A link of a lab under test. What it is to do to packets goes in; the running lab follows. It never undoes by itself what
//! it was told: the lab's end does.

use super::Lab;
use super::errand::Errand;
use crate::error::Result;
use crate::model::{self, Impairment, LinkId, LinkMeasured, Measured, Target};

/// A link, seen in the direction in which its name was written: `X -- Y` is forward from X to Y.
#[derive(Debug, Clone, Copy)]
pub struct Link<'a> {
    lab: &'a Lab,
    id: LinkId,
    /// The lab file has it the other way round.
    turned: bool,
}

impl<'a> Link<'a> {
    pub(super) fn new(lab: &'a Lab, id: LinkId, turned: bool) -> Self {
        Self { lab, id, turned }
    }

    /// Its full name: `base/X--Y`.
    #[must_use]
    pub fn name(&self) -> String {
        self.lab.model().full_link_name(self.id)
    }

    /// What is known of it. Its impairments are those the lab came up with.
    #[must_use]
    pub fn model(&self) -> &'a model::Link {
        self.lab.model().link(self.id)
    }

    /// Sets it down. The fast path follows the kernel within milliseconds, in which a packet may still pass.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn down(&self) -> Result<()> {
        self.lab.set_fault(Target::Link(self.id), true)
    }

    /// Sets it up again; it stays down where a node at its end is.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn up(&self) -> Result<()> {
        self.lab.set_fault(Target::Link(self.id), false)
    }

    /// Delays, loses and slows its packets in both directions, from here on. What comes out is what it was measured to do
    /// then, forward and backward; `None` where measuring would take seconds.
    ///
    /// # Errors
    /// What the kernel or the fast path refuses.
    pub fn impair(&self, both: Impairment) -> Result<[Option<Measured>; 2]> {
        self.impair_each(both, both)
    }

    /// The same, each direction by itself.
    ///
    /// # Errors
    /// As [`Self::impair`].
    pub fn impair_each(&self, forward: Impairment, backward: Impairment) -> Result<[Option<Measured>; 2]> {
        let errand = Errand::Impair { link: self.name(), to: self.turn([forward, backward]) };
        let measured: Option<LinkMeasured> = self.lab.ask(&errand)?;
        Ok(self.turn(measured.map_or([None; 2], |m| m.directions)))
    }

    /// Ends all impairments of the link.
    ///
    /// # Errors
    /// As [`Self::impair`].
    pub fn clear(&self) -> Result<()> {
        self.impair(Impairment::default()).map(drop)
    }

    fn turn<T>(&self, [a, b]: [T; 2]) -> [T; 2] {
        if self.turned { [b, a] } else { [a, b] }
    }
}
