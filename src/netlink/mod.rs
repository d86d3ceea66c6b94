//! Every request to the kernel over netlink.

pub mod monitor;
