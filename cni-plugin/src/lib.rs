//! The plugins that container runtimes start: `netd-cni` (CNI specification 1.1) and
//! `netd-netavark` (netavark's plugin API 1.0.0, of Podman 5). Each translates what a runtime says
//! into a request to the local netd, and the reply into what the runtime expects. They decide
//! nothing and exit within milliseconds. Whatever both need they share.

#![warn(unreachable_pub)]

mod call;
mod cni;
mod config;
mod environment;
mod error;
mod input;
mod namespace;
mod netavark;
mod result;
#[cfg(test)]
mod tests;
mod version;

pub use cni::main as cni;
pub use netavark::main as netavark;
