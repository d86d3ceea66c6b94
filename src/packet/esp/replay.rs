//! The anti-replay window of RFC 4303, section 3.4.3. Sequence numbers go in, whether they are new comes out. It never
//! admits one that left the window unseen.

/// Sequence numbers behind the highest that are still told apart. RFC 4303 asks for 32 and recommends 64; a link
/// that is shaped, or spread over several paths packet by packet, reorders more, and what falls out is lost.
pub const WINDOW: u32 = 1024;
const WORDS: usize = (WINDOW / 64) as usize;

/// A ring of bits, one for each of the last [`WINDOW`] sequence numbers, at its remainder.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// The highest sequence number taken; 0 is none, for no packet has it.
    highest: u32,
    taken: [u64; WORDS],
}

impl Window {
    /// Whether the number was not taken before, for sure.
    pub(super) fn admits(&self, sequence: u32) -> bool {
        if sequence > self.highest {
            return true;
        }
        let (word, bit) = place(sequence);
        sequence != 0 && self.highest - sequence < WINDOW && self.taken[word] & bit == 0
    }

    /// Notes a number that the window admits.
    pub(super) fn take(&mut self, sequence: u32) {
        if sequence > self.highest {
            self.forget_before(sequence);
            self.highest = sequence;
        }
        let (word, bit) = place(sequence);
        self.taken[word] |= bit;
    }

    /// Clears the bits of the numbers from the one after the highest to `next`, which take the places of old ones.
    fn forget_before(&mut self, next: u32) {
        if next - self.highest >= WINDOW {
            self.taken = [0; WORDS];
            return;
        }
        for sequence in self.highest + 1..=next {
            let (word, bit) = place(sequence);
            self.taken[word] &= !bit;
        }
    }
}

fn place(sequence: u32) -> (usize, u64) {
    let at = sequence % WINDOW;
    ((at / 64) as usize, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn zero_is_never_admitted() {
        let mut window = Window::default();
        assert!(!window.admits(0));
        window.take(1);
        assert!(!window.admits(0));
    }

    #[test]
    fn the_window_ends_where_it_says() {
        let mut window = Window::default();
        window.take(5000);
        assert!(window.admits(5000 - (WINDOW - 1)));
        assert!(!window.admits(5000 - WINDOW));
        window.take(u32::MAX);
        assert!(window.admits(u32::MAX - (WINDOW - 1)));
        assert!(!window.admits(u32::MAX));
    }

    proptest! {
        /// Against a set of all numbers taken: jumps small and large, forward and back.
        #[test]
        fn it_admits_what_a_set_would(
            jumps in prop::collection::vec(prop_oneof![-70i64..70, -1100i64..1100, -3000i64..6000], 1..400),
        ) {
            let (mut window, mut taken, mut at) = (Window::default(), BTreeSet::new(), 2000i64);
            for jump in jumps {
                at = (at + jump).clamp(0, i64::from(u32::MAX));
                let sequence = u32::try_from(at).unwrap();
                let highest = taken.last().copied().unwrap_or(0);
                let fresh = sequence > highest || (sequence != 0 && highest - sequence < WINDOW && !taken.contains(&sequence));
                prop_assert_eq!(window.admits(sequence), fresh, "{} below {}", sequence, highest);
                if fresh {
                    window.take(sequence);
                    taken.insert(sequence);
                }
            }
        }
    }
}
