//! Whether two speakers hear each other: the state machine of one peer, and nothing else. What happens goes in, the next
//! state and what is to be done come out. It holds no data and reads no clock.

use serde::{Deserialize, Serialize};

/// What a speaker knows of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is not heard.
    Down,
    /// It is heard, and does not say that it hears this speaker.
    Init,
    /// Both hear each other: records are exchanged.
    Up,
}

impl State {
    pub const ALL: [Self; 3] = [Self::Down, Self::Init, Self::Up];
}

/// What happens to a peer. `New…`: the message has an epoch of the peer's that is not known, later than the known one if there is
/// one. `…TwoWay`: the message says that the peer hears this speaker's epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    NewOneWay,
    NewTwoWay,
    OneWay,
    TwoWay,
    /// A message of an earlier epoch.
    Earlier,
    /// Nothing was heard for the hold time.
    Expired,
    /// What was heard cannot be: the digests of equal histories differ.
    Broken,
}

impl Event {
    #[cfg(test)]
    pub(super) const ALL: [Self; 7] = [
        Self::NewOneWay,
        Self::NewTwoWay,
        Self::OneWay,
        Self::TwoWay,
        Self::Earlier,
        Self::Expired,
        Self::Broken,
    ];
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Nothing,
    /// The lease begins anew.
    Renew,
    /// The peer's epoch is learnt, what it said in an earlier one is forgotten, the lease begins, and it is answered.
    Meet,
    /// What it said is forgotten, as is its epoch; this speaker's own epoch for it is the next.
    Part,
}

impl State {
    /// The state after `event`.
    pub(super) fn step(self, event: Event) -> (Self, Act) {
        match (self, event) {
            (Self::Down | Self::Init | Self::Up, Event::NewOneWay) => (Self::Init, Act::Meet),
            (Self::Down | Self::Init | Self::Up, Event::NewTwoWay) => (Self::Up, Act::Meet),
            // No epoch is known, so these cannot happen.
            (Self::Down, Event::OneWay | Event::TwoWay | Event::Earlier | Event::Expired | Event::Broken) => {
                (Self::Down, Act::Nothing)
            }
            (Self::Init, Event::OneWay) => (Self::Init, Act::Renew),
            (Self::Init | Self::Up, Event::TwoWay) => (Self::Up, Act::Renew),
            // Who ceases to hear a peer takes another epoch: this one is not the peer's.
            (Self::Up, Event::OneWay) => (Self::Up, Act::Nothing),
            (Self::Init, Event::Earlier) => (Self::Init, Act::Nothing),
            (Self::Up, Event::Earlier) => (Self::Up, Act::Nothing),
            (Self::Init | Self::Up, Event::Expired | Event::Broken) => (Self::Down, Act::Part),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_takes_every_event() {
        use Act::{Meet, Nothing, Part, Renew};
        use Event::{Broken, Earlier, Expired, NewOneWay, NewTwoWay, OneWay, TwoWay};
        use State::{Down, Init, Up};

        // The table of docs/exit-resolution.md, section 5.
        let table = [
            (NewOneWay, [(Init, Meet), (Init, Meet), (Init, Meet)]),
            (NewTwoWay, [(Up, Meet), (Up, Meet), (Up, Meet)]),
            (OneWay, [(Down, Nothing), (Init, Renew), (Up, Nothing)]),
            (TwoWay, [(Down, Nothing), (Up, Renew), (Up, Renew)]),
            (Earlier, [(Down, Nothing), (Init, Nothing), (Up, Nothing)]),
            (Expired, [(Down, Nothing), (Down, Part), (Down, Part)]),
            (Broken, [(Down, Nothing), (Down, Part), (Down, Part)]),
        ];
        assert_eq!(table.map(|(event, _)| event), Event::ALL);
        for (event, row) in table {
            for (state, expected) in State::ALL.into_iter().zip(row) {
                assert_eq!(state.step(event), expected, "{state:?} × {event:?}");
            }
        }
    }

    #[test]
    fn records_are_exchanged_only_after_both_heard_each_other() {
        for state in [State::Down, State::Init] {
            for event in Event::ALL {
                let up = state.step(event).0 == State::Up;
                assert!(!up || matches!(event, Event::NewTwoWay | Event::TwoWay), "{state:?} × {event:?}");
            }
        }
    }
}
