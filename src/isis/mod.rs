//! IS-IS on virtual links. PDUs that FRR's isisd sends on a virtual link's device go in; IPv4 packets of protocol 124
//! to the other end of that link come out, and the other way round. It never looks at what isisd decides, keeps no
//! state of the protocol, and no packet of a user ever passes through it.
//!
//! IS-IS runs on the link layer (ISO 10589), and the links of a VI are IP tunnels, which carry nothing but IP. On a
//! point-to-point device isisd sends PDUs with the protocol of ISO over GRE. Two filters of traffic control connect each
//! virtual link's device with a TUN device beside it: PDUs that isisd sends come out there before the tunnel sees them,
//! and PDUs written there arrive at isisd as if the tunnel had carried them. Between the nodes PDUs travel in IPv4 of
//! protocol 124, "ISIS over IPv4" in IANA's registry (draft-ietf-isis-wg-over-ip).
//!
//! ```text
//! isisd ── device of the virtual link ──(filter)── TUN ── adapter ── raw socket of protocol 124 ── the same device
//! ```

mod adapter;
pub mod config;
mod ears;
mod pdu;

pub use adapter::run;
pub use config::Config;
pub use pdu::PROTOCOL;
