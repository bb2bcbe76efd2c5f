//! The daemon of every host, as a library: the binary in `main.rs` only parses arguments and starts
//! it.

#![warn(unreachable_pub)]

mod callers;
mod cluster;
mod containers;
pub mod daemon;
pub mod docker;
mod examine;
mod exchanged;
mod local;
mod names;
mod notify;
mod relay;
pub mod run;
mod start;
pub mod whoami;
