//! Nodes by what the command line says: see [`crate::model::called`].

pub(super) use crate::model::called::{node as find, suggest};
