//! A running lab as a page for a browser on the same machine: its picture, what happens in it, and what may be done to it. A
//! lab goes in; HTTP on the loopback address comes out, and changes of the lab that the page asks for. It never listens
//! elsewhere, never answers a request without the token, and never makes a request itself.
//!
//! One thread listens to the lab ([`Live`]) and tells the pages; another runs the server. What asks the kernel does so on
//! threads beside it.

mod access;
mod assets;
mod deeds;
mod facts;
mod hub;
mod routes;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread;

use tokio::sync::oneshot;

use self::access::Access;
use self::hub::{Ending, Hub};
use crate::error::{Context as _, Error, Kind, Result};
use crate::lab::Running;
use crate::observe::events::{Live, What};

/// A page that can be reached, and is not served yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    access: Access,
}

/// Why serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The lab went down.
    LabDown,
    /// What was attended to beside it was ready: a signal.
    Told,
}

impl Server {
    /// Listens on 127.0.0.1, on a port of its choice or the kernel's, with a token of its own.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn bind(port: Option<u16>) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.unwrap_or(0)));
        let what = || format!("cannot listen at {address}");
        let listener = TcpListener::bind(address).doing(Kind::Environment, what);
        let listener = listener.map_err(|e| match port {
            Some(_) => e.hint("choose another with --port, or leave the choice to the kernel"),
            None => e,
        })?;
        listener.set_nonblocking(true).doing(Kind::Environment, what)?;
        let port = listener.local_addr().doing(Kind::Environment, what)?.port();
        Ok(Self { listener, access: Access::new(port)? })
    }

    /// Where the page is, with the token that opens it.
    #[must_use]
    pub fn url(&self) -> String {
        self.access.url()
    }

    /// Serves a lab, whose user namespace the caller has joined, until it goes down or `signals` can be read.
    ///
    /// # Errors
    /// If the lab can no longer be listened to, or no server can be started.
    pub fn serve(self, running: Running, signals: BorrowedFd<'_>) -> Result<Ended> {
        let lab = running.again()?;
        let mut live = Live::open(running)?;
        live.attend(signals, true)?;
        let hub = Arc::new(Hub::new(lab));
        let (stop, stopped) = oneshot::channel();
        let (listener, access, shared) = (self.listener, self.access, Arc::clone(&hub));
        let http = thread::spawn(move || routes::serve(listener, access, shared, stopped));
        let ended = relay(&mut live, &hub);
        hub.end(match ended {
            Ok(Ended::LabDown) => Ending::LabDown,
            Ok(Ended::Told) | Err(_) => Ending::Stopped,
        });
        // Who served has gone where nobody hears it.
        let _gone = stop.send(());
        let served = http.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        served.and(ended)
    }
}

/// Tells the pages what happens, until the lab goes down or something else is to be heard.
fn relay(live: &mut Live, hub: &Hub) -> Result<Ended> {
    loop {
        let woken = live.wait(None)?;
        let changed = |what: &What| matches!(what, What::Applied(_) | What::Impairment { .. });
        if woken.events.iter().any(|event| changed(&event.what))
            && let Ok(now) = live.running().again()
        {
            hub.is_now(now);
        }
        for event in &woken.events {
            let text =
                serde_json::to_string(event).map_err(|e| Error::bug("cannot write JSON").because(e))?;
            hub.tell(text);
        }
        if woken.ended {
            return Ok(Ended::LabDown);
        }
        if woken.other {
            return Ok(Ended::Told);
        }
    }
}
