//! The userspace fast path: what nested kernel ipip devices do, in one process and one pass. A [`Config`] and the
//! packets of TUN devices and base nodes go in; packets with the same bytes that nested ipip devices would send
//! come out. What is rare goes to the kernel of the partition, and what is dropped increments a counter with a name; it
//! answers only what an ipip device answers itself, a packet too big for it.
//!
//! [`forward`] decides, without I/O; [`fib`] is what the kernel's routes say; [`engine`] moves the packets;
//! [`control`] reads counters, switches the strong-host rule and changes impairments; `shaped` impairs devices of the
//! kernel; `fragments` cuts link packets and puts them together; `join` makes one packet of datagrams in a row; [`spread`] and [`health`] are about links over parallel
//! underlays.

mod answer;
pub mod config;
pub mod control;
pub mod counters;
pub mod engine;
pub mod fib;
pub mod follow;
pub mod forward;
mod fragments;
pub mod frame;
pub mod health;
mod injector;
mod join;
mod protection;
mod shaped;
pub mod spread;

pub use config::Config;
pub use counters::{Count, Counters, Reason};
pub use engine::run;
pub use spread::{PROBE_EVERY, StrandState};
