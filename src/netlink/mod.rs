//! Every request to the kernel's netlink: routing, and security. Typed messages go in, many at a time; an index and the kernel's
//! own words come out when one is refused. It never chooses what to create: [`crate::plan`] does.

mod del;
pub mod links;
pub mod monitor;
mod nexthop;
mod notices;
pub mod request;
pub mod socket;
mod tc;
pub mod xfrm;

pub use request::Request;
pub use socket::{Encoded, Refusal, Socket};
