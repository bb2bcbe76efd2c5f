//! The DNS resolver of each network: a pure [`Table`] of the names of this host's networks, a
//! server that answers from it, and forwarding of all other names to other resolvers.

#![warn(unreachable_pub)]

mod answer;
mod cache;
mod client;
mod limit;
mod name_server;
mod order;
mod resolv_conf;
mod server;
mod table;
mod upstream;
mod wire;

pub use answer::{Outcome, Transport, reply};
pub use limit::Limits;
pub use name_server::{NameServer, NoTrust, Trust};
pub use resolv_conf::ResolvConf;
pub use server::{Audience, Listener, ServerHandle, serve};
pub use table::{ANSWER_TTL, Client, Table};
pub use upstream::{Enter, MAX_RESOLVERS, Upstream};
