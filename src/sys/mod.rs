//! The only unsafe code: one system call, one SAFETY sentence, one owner. Typed arguments go in, owned
//! descriptors or `io::Result` come out. It never decides anything.

pub mod bpf;
pub mod carrier;
pub mod child;
pub mod environment;
pub mod filter;
pub mod limits;
pub mod link_socket;
pub mod mount;
pub mod packet_socket;
pub mod pidfd;
pub mod rights;
pub mod signals;
pub mod socket;
pub mod tap;
pub mod tun;
pub mod userns;
