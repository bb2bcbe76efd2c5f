//! The replicated state of a cluster: `apply` of commands, `step` that proposes the next ones, and
//! the view of each host. Pure: no clock, no randomness, no I/O; every manager computes the same.

#![warn(unreachable_pub)]

mod acknowledged;
mod agenda;
mod answer;
mod apply;
mod capability;
mod check;
mod claims;
mod containers;
mod derived;
mod drain;
mod facts;
mod keys;
mod look;
mod lookup;
mod machine;
mod names;
mod ports;
mod project;
mod record;
mod request;
mod restart;
mod runs;
mod scheduler;
mod sections;
mod segment;
mod slots;
mod state;
mod step;
mod table;
mod update;
mod validate;

pub use agenda::Agenda;
pub use project::digests;
pub use sections::Sections;
pub use state::State;
pub use step::MAX_COMMANDS;
pub use validate::MAX_REPLICAS;
