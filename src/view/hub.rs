//! What pages are told. Events of the lab and looks at its links go in; each page that listens gets all from when it came,
//! and what was last before. It never waits for a page: one that is slow is told that it has missed something.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast::{self, Receiver, Sender};

use crate::lab::Running;

/// Messages that a slow page may be behind.
const BEHIND: usize = 1024;
/// Events that a new page is told of.
const REMEMBERED: usize = 200;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    /// An event, `vilab.events/1`.
    Event(Arc<str>),
    /// How links and nodes are.
    State(Arc<str>),
    /// The last.
    End(Ending),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    LabDown,
    Stopped,
}

/// Between who listens to the lab and who serves pages.
#[derive(Debug)]
pub(super) struct Hub {
    inner: Mutex<Inner>,
    sender: Sender<News>,
}

#[derive(Debug)]
struct Inner {
    lab: Arc<Running>,
    events: VecDeque<Arc<str>>,
    state: Option<Arc<str>>,
    end: Option<Ending>,
}

impl Hub {
    pub(super) fn new(lab: Running) -> Self {
        let inner = Inner { lab: Arc::new(lab), events: VecDeque::new(), state: None, end: None };
        Self { inner: Mutex::new(inner), sender: broadcast::channel(BEHIND).0 }
    }

    /// Nothing that holds it can leave it half changed.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lab as it is known.
    pub(super) fn lab(&self) -> Arc<Running> {
        Arc::clone(&self.lock().lab)
    }

    pub(super) fn is_now(&self, lab: Running) {
        self.lock().lab = Arc::new(lab);
    }

    /// Whether any page listens.
    pub(super) fn is_heard(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    pub(super) fn tell(&self, event: String) {
        let event: Arc<str> = event.into();
        let mut inner = self.lock();
        inner.events.push_back(Arc::clone(&event));
        if inner.events.len() > REMEMBERED {
            inner.events.pop_front();
        }
        // Nobody listens, or all hear it: as `listen` does, under the lock.
        let _heard = self.sender.send(News::Event(event));
    }

    pub(super) fn show(&self, state: String) {
        let state: Arc<str> = state.into();
        let mut inner = self.lock();
        inner.state = Some(Arc::clone(&state));
        let _heard = self.sender.send(News::State(state));
    }

    pub(super) fn end(&self, why: Ending) {
        self.lock().end = Some(why);
        let _heard = self.sender.send(News::End(why));
    }

    /// What was told so far, and what tells of the rest: nothing falls between.
    pub(super) fn listen(&self) -> (Vec<News>, Receiver<News>) {
        let inner = self.lock();
        let receiver = self.sender.subscribe();
        let events = inner.events.iter().cloned().map(News::Event);
        let state = inner.state.clone().map(News::State);
        (events.chain(state).chain(inner.end.map(News::End)).collect(), receiver)
    }
}
