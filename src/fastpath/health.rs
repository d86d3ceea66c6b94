//! Whether a strand is well, by probes that it answers or not. Probes sent and answers heard go in; whether packets
//! should take the strand comes out. It never looks at a clock: a probe is late when so many others have been sent after
//! it, so that an engine that had to wait for the machine blames no strand.

/// A probe that is not answered when so many more have been sent is lost.
pub const PATIENCE: u32 = 5;
/// So many probes, the last of those whose fate is known, say how a strand is.
pub const WINDOW: u32 = 20;
/// A strand that lost so many of these is not used any more; one that lost none is used again.
pub const TOO_MANY: u32 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Health {
    /// Probes sent, of all time.
    sent: u64,
    /// Lost, of all time.
    lost: u64,
    /// Bit k: the probe before which k others were sent since is answered.
    answers: u32,
    out: bool,
}

impl Health {
    /// Whether packets should take the strand.
    pub(super) fn is_well(&self) -> bool {
        !self.out
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// One more probe is sent: gives its number. With it the fate of an earlier one is known.
    pub(super) fn probe(&mut self) -> u16 {
        let answered = self.answers >> (PATIENCE - 1) & 1 == 1;
        self.lost += u64::from(self.sent >= u64::from(PATIENCE) && !answered);
        self.answers <<= 1;
        self.sent += 1;
        self.judge();
        number(self.sent)
    }

    /// The probe of this number is answered; says whether it was in time.
    pub(super) fn heard(&mut self, probe: u16) -> bool {
        let since = u32::from(number(self.sent).wrapping_sub(probe));
        let in_time = since < PATIENCE && u64::from(since) < self.sent;
        if in_time {
            self.answers |= 1 << since;
        }
        in_time
    }

    fn judge(&mut self) {
        let known = u32::try_from(self.sent).unwrap_or(u32::MAX).saturating_sub(PATIENCE).min(WINDOW);
        let window = (1 << known) - 1;
        let lost = known - (self.answers >> PATIENCE & window).count_ones();
        self.out = match self.out {
            false => lost >= TOO_MANY,
            true => lost > 0 || known < WINDOW,
        };
    }
}

/// On the wire probes are counted modulo 2^16.
#[expect(clippy::cast_possible_truncation, reason = "modulo 2^16")]
fn number(sent: u64) -> u16 {
    sent as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends a probe for each letter: `.` is answered at once, `x` never.
    fn run(health: &mut Health, fates: &str) {
        for fate in fates.chars() {
            let probe = health.probe();
            if fate == '.' {
                assert!(health.heard(probe));
            }
        }
    }

    #[test]
    fn out_after_five_lost_and_back_after_twenty_answered() {
        let mut health = Health::default();
        run(&mut health, &".".repeat(40));
        run(&mut health, "xxxxxxxxx");
        assert!(health.is_well(), "four are known to be lost");
        run(&mut health, "x");
        assert!(!health.is_well());
        assert_eq!(health.lost(), 5);
        run(&mut health, &".".repeat(24));
        assert!(!health.is_well(), "the last that was lost is among the twenty");
        run(&mut health, ".");
        assert!(health.is_well());
        assert_eq!((health.sent(), health.lost()), (75, 10));
    }

    #[test]
    fn few_losses_do_no_harm_and_one_keeps_a_strand_out() {
        let mut health = Health::default();
        run(&mut health, &"x......".repeat(30));
        assert!(health.is_well(), "3 of 20");
        run(&mut health, &"x.".repeat(20));
        assert!(!health.is_well());
        run(&mut health, &"x...............".repeat(10));
        assert!(!health.is_well());
    }

    #[test]
    fn a_strand_that_never_answered_goes_out() {
        let mut health = Health::default();
        run(&mut health, &"x".repeat(9));
        assert!(health.is_well());
        run(&mut health, "x");
        assert!(!health.is_well());
    }

    #[test]
    fn answers_count_while_they_are_in_time() {
        let mut health = Health::default();
        let first = health.probe();
        run(&mut health, &"x".repeat(PATIENCE as usize - 1));
        assert!(health.heard(first));
        health.probe();
        assert_eq!(health.lost(), 0);
        let late = number(health.sent()).wrapping_sub(u16::try_from(PATIENCE).unwrap());
        assert!(!health.heard(late));
        assert!(!Health::default().heard(0), "an answer to no probe");
    }

    #[test]
    fn numbers_wrap() {
        let mut health = Health { sent: 0xfffe, ..Health::default() };
        let probes = [(); 4].map(|()| health.probe());
        assert_eq!(probes, [0xffff, 0, 1, 2]);
        assert!(probes.into_iter().all(|probe| health.heard(probe)));
    }
}
