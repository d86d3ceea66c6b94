//! Labs tested side by side. How many, and what to do with each, go in; what each says comes out in the order of the
//! files, whichever is done first. What two labs say is never mixed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;

use super::outcome::{Check, Outcome};
use crate::apply::Progress;

/// What a lab says while it is tested.
#[derive(Debug)]
pub(super) enum Said {
    /// It comes up on these dataplanes.
    Begun(String),
    Stage(Progress),
    Check(Box<Check>),
    Done(Box<Outcome>),
}

/// Who shows it: progress at once, all else in order.
pub(super) trait Audience {
    fn progress(&mut self, lab: usize, progress: &Progress);
    fn begun(&mut self, lab: usize, head: &str);
    fn check(&mut self, lab: usize, check: &Check);
    /// Nothing more comes of this lab. Heard at once.
    fn ended(&mut self, lab: usize);
    fn done(&mut self, lab: usize, outcome: &Outcome);
}

/// Calls `work` for labs 0 to `count` - 1, at most `jobs` at once; the outcomes in order.
pub(super) fn run(
    count: usize,
    jobs: usize,
    work: impl Fn(usize, &mut dyn FnMut(Said)) -> Outcome + Sync,
    audience: &mut dyn Audience,
) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let (tell, hear) = mpsc::channel();
    let worker = |tell: Sender<(usize, Said)>| {
        loop {
            let lab = next.fetch_add(1, Ordering::Relaxed);
            if lab >= count {
                return;
            }
            // Whoever hears stays until the last worker is gone.
            let outcome = work(lab, &mut |said| drop(tell.send((lab, said))));
            drop(tell.send((lab, Said::Done(Box::new(outcome)))));
        }
    };
    thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, count.max(1)) {
            let (tell, worker) = (tell.clone(), &worker);
            scope.spawn(move || worker(tell));
        }
        drop(tell);
        let mut line = Line::default();
        hear.iter().for_each(|(lab, said)| line.hear(lab, said, audience));
        line.outcomes
    })
}

/// The labs in line: what the first says is passed on, the others' waits.
#[derive(Debug, Default)]
struct Line {
    waiting: BTreeMap<usize, VecDeque<Said>>,
    /// Of those whose turn is over.
    outcomes: Vec<Outcome>,
}

impl Line {
    fn hear(&mut self, lab: usize, said: Said, audience: &mut dyn Audience) {
        if let Said::Stage(progress) = &said {
            return audience.progress(lab, progress);
        }
        if matches!(said, Said::Done(_)) {
            audience.ended(lab);
        }
        self.waiting.entry(lab).or_default().push_back(said);
        while let Some(said) = self.waiting.get_mut(&self.outcomes.len()).and_then(VecDeque::pop_front) {
            self.pass_on(said, audience);
        }
    }

    fn pass_on(&mut self, said: Said, audience: &mut dyn Audience) {
        let lab = self.outcomes.len();
        match said {
            Said::Begun(head) => audience.begun(lab, &head),
            Said::Stage(progress) => audience.progress(lab, &progress),
            Said::Check(check) => audience.check(lab, &check),
            Said::Done(outcome) => {
                audience.done(lab, &outcome);
                self.outcomes.push(*outcome);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::super::outcome::tests::check;
    use super::*;

    #[derive(Default)]
    struct Notes(Vec<String>);

    impl Audience for Notes {
        fn progress(&mut self, lab: usize, progress: &Progress) {
            self.0.push(format!("{lab} at {}", progress.stage));
        }
        fn begun(&mut self, lab: usize, head: &str) {
            self.0.push(format!("{lab} begins: {head}"));
        }
        fn check(&mut self, lab: usize, check: &Check) {
            self.0.push(format!("{lab} tests {}", check.name));
        }
        fn ended(&mut self, _: usize) {}
        fn done(&mut self, lab: usize, outcome: &Outcome) {
            self.0.push(format!("{lab} is done: {}", outcome.title()));
        }
    }

    fn outcome(file: &str) -> Outcome {
        Outcome { file: file.into(), ..Outcome::default() }
    }

    #[test]
    fn what_is_said_out_of_turn_waits_for_its_turn() {
        let (mut line, mut notes) = (Line::default(), Notes::default());
        let mut say = |lab, said| line.hear(lab, said, &mut notes);
        say(1, Said::Begun("b".into()));
        say(2, Said::Done(Box::new(outcome("c"))));
        say(0, Said::Check(Box::new(check("x", true))));
        say(1, Said::Stage(Progress { stage: "links".into(), done: 1, total: 2 }));
        say(0, Said::Done(Box::new(outcome("a"))));
        say(1, Said::Done(Box::new(outcome("b"))));
        let expected =
            ["0 tests x", "1 at links", "0 is done: a", "1 begins: b", "1 is done: b", "2 is done: c"];
        assert_eq!(notes.0, expected);
        assert_eq!(line.outcomes.iter().map(Outcome::title).collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn as_many_as_asked_for_run_at_once() {
        let barrier = Barrier::new(3);
        let mut notes = Notes::default();
        // Each waits for two others: with fewer workers this would not end.
        let work = |lab: usize, _: &mut dyn FnMut(Said)| {
            barrier.wait();
            outcome(&lab.to_string())
        };
        let outcomes = run(6, 3, work, &mut notes);
        assert_eq!(outcomes.iter().map(Outcome::title).collect::<String>(), "012345");
        assert!(run(0, 3, work, &mut notes).is_empty());
    }
}
