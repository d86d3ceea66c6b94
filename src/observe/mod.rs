//! observe

pub mod doctor;
