//! vilab builds base networks and stacked Virtual Internets on one Linux machine.
//!
//! A lab file goes in at [`spec`] and passes through pure stages, [`expand`], [`model`], [`routing`] and
//! [`plan`], until it is one ordered list of kernel operations; [`apply`] carries them out inside the lab's own
//! namespaces, which [`lab`] owns; [`fastpath`] forwards packets where the kernel's tunnels are not used, and holds
//! them back where [`shape`] says so; [`strands`] watches over what the kernel spreads over several Virtual Internets;
//! [`isis`] carries IS-IS over virtual links; [`recursion`] finds the way through routers that are Virtual Internets
//! themselves; [`graph`] draws a lab; and [`observe`] measures what the pure stages predicted; [`capture`] writes down
//! what passes devices; [`view`] serves a page of a running lab. Only [`cli`] prints or chooses
//! exit codes.
//!
//! The architecture is that of Touch, Wang, Eggert and Finn, "A Virtual Internet Architecture",
//! ISI-TR-2003-570, 2003.

pub mod apply;
pub mod capture;
pub mod cli;
pub mod error;
pub mod expand;
pub mod fastpath;
pub mod graph;
pub mod isis;
pub mod lab;
pub mod model;
pub mod names;
pub mod netlink;
pub mod observe;
pub mod packet;
pub mod plan;
pub mod process;
pub mod recursion;
pub mod routing;
pub mod shape;
pub mod spec;
pub mod strands;
pub mod sys;
pub mod view;
