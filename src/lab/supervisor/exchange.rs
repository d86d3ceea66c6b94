//! Other services in a lab that is up. The services that are wanted go in; those that are not end and are forgotten, those
//! that are new are taken on. It never touches a service that stays as it is.

use std::time::Instant;

use super::{Event, Reply, Service, State, Supervisor, carry_out};
use crate::plan;

/// A request that is answered when all services it is about have come to rest.
#[derive(Debug)]
pub(super) struct Exchange {
    client: u64,
    /// End, and are forgotten then.
    leaving: Vec<u64>,
    /// Start.
    coming: Vec<u64>,
}

impl Supervisor {
    pub(super) fn keep(&mut self, client: u64, wanted: &[plan::Service]) -> Option<Reply> {
        let unwanted = |s: &Service| s.in_node && !wanted.contains(&s.what);
        self.dismiss(client, unwanted);
        None
    }

    fn dismiss(&mut self, client: u64, unwanted: impl Fn(&Service) -> bool) {
        let mut leaving = Vec::new();
        for (id, service) in self.services.iter_mut().filter(|(_, s)| unwanted(s)) {
            let act = service.course.handle(Event::Stop, Instant::now());
            carry_out(service, act);
            leaving.push(*id);
        }
        self.exchanges.push(Exchange { client, leaving, coming: Vec::new() });
    }

    pub(super) fn take_on(&mut self, client: u64, wanted: &[plan::Service]) -> Option<Reply> {
        let mut coming = Vec::new();
        for what in wanted {
            if self.services.values().any(|s| s.in_node && s.what == *what) {
                continue;
            }
            match self.take(what.clone(), true) {
                Ok(id) => coming.push(id),
                Err(e) => return Some(Reply::Refused(format!("cannot start {}: {e}", what.name))),
            }
        }
        self.exchanges.push(Exchange { client, leaving: Vec::new(), coming });
        None
    }

    pub(super) fn answer_exchanges(&mut self) {
        for mut exchange in std::mem::take(&mut self.exchanges) {
            exchange.leaving.retain(|id| !self.forget_ended(*id));
            let coming = || exchange.coming.iter().filter_map(|id| self.services.get(id));
            let trouble = coming().find_map(|s| Some((s, s.trouble()?)));
            let reply = match trouble {
                Some((service, why)) => Reply::Refused(self.quote(service, &why).to_string()),
                None if exchange.leaving.is_empty() && coming().all(|s| s.course.settled()) => Reply::Done,
                None => {
                    self.exchanges.push(exchange);
                    continue;
                }
            };
            self.control.answer(exchange.client, &reply);
        }
    }

    /// Forgets a service that has ended; true if there is none of this number any more.
    fn forget_ended(&mut self, id: u64) -> bool {
        let Some(service) = self.services.get_mut(&id) else { return true };
        if !matches!(service.course.state(), State::Stopped | State::Ended) || service.pid.is_some() {
            return false;
        }
        service.read();
        // Closing it would do, were it not for the processes that hold it too.
        let _gone = self.epoll.delete(service.output());
        self.services.remove(&id);
        true
    }
}
