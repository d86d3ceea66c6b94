//! Links over parallel underlays (DynaBone) whose ends the kernel carries. What the ends are goes in; rulesets that
//! spread packets over strands, and which strands are left out of them, come out. It never carries a packet of a user:
//! the kernel does, by these rules.
//!
//! ```text
//!   v.top.a       v-b  network address, MTU, netem         the link, as its node sees it
//!                  |   a pair of tunnels over lo
//!   s.top.a       v-b ---- spread ----+---------+          out: by flow, by packet, or a copy to each
//!                  |                  |         |
//!                  +-<- in <- s-0ab0  s-0cd1 s-0ef2        in: each strand; probes are taken out for the process
//!                             |         |         |
//!                          v.in1.x   v.in2.x   v.in3.x     where the strands are tunnels
//! ```
//!
//! The plan has the devices and the rules of strands that are all well; the process gives nft others when one is not.
//! What a probe is and when a strand is well is [`crate::fastpath::spread`]'s to say, as on the fast path: the two are
//! the ends of one link.

pub mod config;
mod rules;
mod serve;

pub use config::Config;
pub use rules::ruleset;
pub use serve::run;
