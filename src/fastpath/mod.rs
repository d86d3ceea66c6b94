//! The userspace fast path: what nested kernel ipip devices do, in one process and one pass. A [`Config`] and the
//! packets of TUN devices and base nodes go in; packets with the same bytes that nested ipip devices would send
//! come out. It never answers a packet itself: what is rare goes to the kernel of the partition, and what is
//! dropped increments a counter with a name.
//!
//! [`forward`] decides, without I/O; [`fib`] is what the kernel's routes say; [`engine`] moves the packets;
//! [`control`] reads counters, switches the strong-host rule and changes impairments; `shaped` impairs devices of the
//! kernel; `spread` and [`health`] are about links over parallel underlays.

pub mod config;
pub mod control;
pub mod counters;
pub mod engine;
pub mod fib;
pub mod follow;
pub mod forward;
pub mod frame;
pub mod health;
mod protection;
mod shaped;
mod spread;

pub use config::Config;
pub use counters::{Count, Counters, Reason};
pub use engine::run;
pub use spread::{PROBE_EVERY, StrandState};
