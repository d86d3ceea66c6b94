//! The course of a service's life: when it is started, ended, and started again. What happens to it goes in, what is to
//! be done about it comes out. It reads no clock: the time is an argument.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::model::Restart;

/// Before the first restart; each further one waits twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A service that has run this long has recovered: its next pause is the first again.
const RECOVERED: Duration = Duration::from_secs(10);
/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// Where a service is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// For its turn.
    Waiting,
    /// Runs, and is not ready yet.
    Starting,
    /// Runs; ready, if that can be told.
    Running,
    /// Has ended, and will be started again.
    Pausing,
    /// Has been told to end.
    Stopping,
    /// Has been told to end, and did.
    Stopped,
    /// Has ended by itself and stays so.
    Ended,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Ended => "ended",
        })
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    Status(i32),
    Signal(i32),
    /// It could not be started at all.
    Unstarted,
}

impl Exit {
    pub(super) fn failed(self) -> bool {
        self != Self::Status(0)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "ended with exit status {status}"),
            Self::Signal(signal) => match nix::sys::signal::Signal::try_from(*signal) {
                Ok(name) => write!(f, "was ended by {name}"),
                Err(_) => write!(f, "was ended by signal {signal}"),
            },
            Self::Unstarted => f.write_str("could not be started"),
        }
    }
}

/// What happens to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Its process has been made.
    Spawned,
    Ready,
    Exited(Exit),
    Start,
    Stop,
    Restart,
    /// The time that [`Course::due`] gave has come.
    Due,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Nothing,
    Spawn,
    Terminate,
    Kill,
}

/// One service's life so far.
#[derive(Debug, Clone)]
pub(super) struct Course {
    restart: Restart,
    /// It says itself when it is ready.
    announces: bool,
    state: State,
    started: Option<Instant>,
    due: Option<Instant>,
    pause: Duration,
    /// It ends in order to be started again.
    again: bool,
    restarts: u32,
    last: Option<Exit>,
}

impl Course {
    pub(super) fn new(restart: Restart, announces: bool) -> Self {
        Self {
            restart,
            announces,
            state: State::Waiting,
            started: None,
            due: None,
            pause: FIRST_PAUSE,
            again: false,
            restarts: 0,
            last: None,
        }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    /// How often it has been started, less one.
    pub(super) fn restarts(&self) -> u32 {
        self.restarts
    }

    /// How it ended last.
    pub(super) fn last(&self) -> Option<Exit> {
        self.last
    }

    /// When [`Event::Due`] is to be told.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether its turn is over: it is ready, or runs without saying so, or will not run.
    pub(super) fn settled(&self) -> bool {
        match self.state {
            State::Running | State::Stopped | State::Ended => true,
            State::Waiting | State::Starting | State::Pausing | State::Stopping => false,
        }
    }

    pub(super) fn handle(&mut self, event: Event, now: Instant) -> Act {
        use State::{Ended, Pausing, Running, Starting, Stopped, Stopping, Waiting};
        match (self.state, event) {
            (Waiting | Pausing | Stopped | Ended, Event::Start | Event::Restart)
            | (Waiting | Pausing, Event::Due) => Act::Spawn,
            (Waiting | Pausing | Stopped | Ended, Event::Spawned) => self.spawned(now),
            (Waiting | Pausing | Stopped | Ended, Event::Exited(exit)) => self.ended(exit, now),
            (Waiting | Pausing, Event::Stop) => self.rest(Stopped),
            (Starting, Event::Ready) => {
                self.state = Running;
                Act::Nothing
            }
            (Starting | Running, Event::Exited(exit)) => self.ended(exit, now),
            (Starting | Running, Event::Stop) => self.terminate(false, now),
            (Starting | Running, Event::Restart) => self.terminate(true, now),
            (Stopping, Event::Exited(exit)) => {
                self.last = Some(exit);
                self.rest(Stopped);
                if std::mem::take(&mut self.again) { Act::Spawn } else { Act::Nothing }
            }
            (Stopping, Event::Stop) => {
                self.again = false;
                Act::Nothing
            }
            (Stopping, Event::Start | Event::Restart) => {
                self.again = true;
                Act::Nothing
            }
            (Stopping, Event::Due) => {
                self.due = None;
                Act::Kill
            }
            (Starting | Running, Event::Start | Event::Spawned | Event::Due)
            | (Running | Stopping | Waiting | Pausing | Stopped | Ended, Event::Ready)
            | (Stopping, Event::Spawned)
            | (Stopped | Ended, Event::Stop | Event::Due) => Act::Nothing,
        }
    }

    fn spawned(&mut self, now: Instant) -> Act {
        self.restarts += u32::from(self.last.is_some());
        self.started = Some(now);
        self.due = None;
        self.state = if self.announces { State::Starting } else { State::Running };
        Act::Nothing
    }

    fn ended(&mut self, exit: Exit, now: Instant) -> Act {
        self.last = Some(exit);
        let again = match self.restart {
            Restart::Never => false,
            Restart::OnFailure => exit.failed(),
            Restart::Always => true,
        };
        if !again {
            return self.rest(State::Ended);
        }
        if self.started.is_some_and(|s| now.saturating_duration_since(s) >= RECOVERED) {
            self.pause = FIRST_PAUSE;
        }
        self.state = State::Pausing;
        self.due = Some(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Act::Nothing
    }

    fn rest(&mut self, state: State) -> Act {
        self.state = state;
        self.due = None;
        self.pause = FIRST_PAUSE;
        Act::Nothing
    }

    fn terminate(&mut self, again: bool, now: Instant) -> Act {
        self.state = State::Stopping;
        self.again = again;
        self.due = Some(now + GRACE);
        Act::Terminate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: Event = Event::Exited(Exit::Status(1));
    const DONE: Event = Event::Exited(Exit::Status(0));

    /// Events one after the other, a millisecond between; the state after each, and what was to be done.
    fn run(course: &mut Course, start: Instant, events: &[Event]) -> Vec<(State, Act)> {
        let mut now = start;
        let mut step = |event: &Event| {
            now += Duration::from_millis(1);
            let act = course.handle(*event, now);
            (course.state(), act)
        };
        events.iter().map(&mut step).collect()
    }

    #[test]
    fn policies_decide_whether_it_starts_again() {
        let table = [
            (Restart::Never, DONE, State::Ended),
            (Restart::Never, FAILED, State::Ended),
            (Restart::OnFailure, DONE, State::Ended),
            (Restart::OnFailure, FAILED, State::Pausing),
            (Restart::OnFailure, Event::Exited(Exit::Signal(9)), State::Pausing),
            (Restart::Always, DONE, State::Pausing),
        ];
        for (restart, event, state) in table {
            let mut course = Course::new(restart, false);
            let seen = run(&mut course, Instant::now(), &[Event::Start, Event::Spawned, event]);
            assert_eq!(
                seen,
                [(State::Waiting, Act::Spawn), (State::Running, Act::Nothing), (state, Act::Nothing)]
            );
            assert_eq!(course.settled(), state == State::Ended);
        }
    }

    #[test]
    fn pauses_grow_until_it_has_run_for_a_while() {
        let mut course = Course::new(Restart::Always, false);
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            course.handle(Event::Spawned, now);
            course.handle(FAILED, now);
            pauses.push((course.due().unwrap() - now).as_millis());
            now = course.due().unwrap();
            assert_eq!(course.handle(Event::Due, now), Act::Spawn);
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        course.handle(Event::Spawned, now);
        now += RECOVERED;
        course.handle(FAILED, now);
        assert_eq!(course.due(), Some(now + FIRST_PAUSE));
        assert_eq!(course.restarts(), 9);
    }

    #[test]
    fn it_is_starting_until_it_is_ready() {
        let mut course = Course::new(Restart::Never, true);
        let seen = run(&mut course, Instant::now(), &[Event::Spawned, Event::Ready]);
        assert_eq!(seen, [(State::Starting, Act::Nothing), (State::Running, Act::Nothing)]);
    }

    #[test]
    fn what_does_not_end_is_killed() {
        let mut course = Course::new(Restart::Always, false);
        let start = Instant::now();
        let seen = run(&mut course, start, &[Event::Spawned, Event::Stop, Event::Due, DONE]);
        assert_eq!(seen[1], (State::Stopping, Act::Terminate));
        assert_eq!(seen[2], (State::Stopping, Act::Kill));
        assert_eq!(seen[3], (State::Stopped, Act::Nothing));
        assert_eq!(course.due(), None);
    }

    #[test]
    fn a_restart_ends_it_and_starts_it_whatever_its_policy() {
        let mut course = Course::new(Restart::Never, false);
        let events = [Event::Spawned, Event::Restart, DONE, Event::Spawned];
        let seen = run(&mut course, Instant::now(), &events);
        assert_eq!(seen[1], (State::Stopping, Act::Terminate));
        assert_eq!(seen[2], (State::Stopped, Act::Spawn));
        assert_eq!(seen[3], (State::Running, Act::Nothing));
        assert_eq!(course.restarts(), 1);
    }

    #[test]
    fn a_stop_takes_a_restart_back() {
        let mut course = Course::new(Restart::Always, false);
        let events = [Event::Spawned, Event::Restart, Event::Stop, DONE];
        assert_eq!(run(&mut course, Instant::now(), &events)[3], (State::Stopped, Act::Nothing));
    }
}
