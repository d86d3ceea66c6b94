//! The running lab: its init process, its namespaces, its state, and how a node is entered.

pub mod namespaces;

pub use namespaces::Namespaces;
