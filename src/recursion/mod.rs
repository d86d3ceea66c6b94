//! Network recursion: a router of one VI that is played by a whole other VI, the emulated router. What its ports lead to
//! goes in, the exit of each destination comes out. It never forwards a packet.

pub mod config;
mod edge;
pub mod exchange;
mod serve;

pub use config::Config;
pub use serve::run;
