//! The running lab: its init process, its namespaces, its state, and how a node is entered.

mod file;
pub mod namespaces;

pub use file::load;
pub use namespaces::Namespaces;
