//! The daemon of every host, as a library: the binary in `main.rs` only parses arguments and starts
//! it.

pub mod agent;
mod containers;
pub mod daemon;
pub mod dataplane;
pub mod docker;
mod examine;
mod local;
mod names;
mod notify;
mod relay;
pub mod run;
pub mod whoami;
