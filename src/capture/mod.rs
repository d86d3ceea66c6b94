//! What passes the devices of a lab, in one pcapng file. Namespaces and what is wanted go in; one interface block for each
//! device, named `node:device@layer`, and the packets of all of them in one order of time come out. It changes nothing
//! in the lab, and never says less than it knows: what the kernel dropped is counted, for each device.

mod devices;
mod filter;
mod merge;
mod point;
mod session;
mod writer;

use std::time::Duration;

pub use devices::points;
pub use filter::{Filter, WHOLE};
pub use point::{Fault, Point, Selection};
pub use session::{End, Ended, Session};

/// What is captured, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub selection: Selection,
    pub filter: Filter,
    /// Packets in the file at most.
    pub count: Option<u64>,
    pub duration: Option<Duration>,
}
