//! The userspace fast path.

pub mod config;

pub use config::Config;
