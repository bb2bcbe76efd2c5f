//! The resolver of each network: a pure [`Table`] of what the names of this host's networks resolve to, the server that
//! answers from it, and the way to the host's own resolvers for everything else.

mod server;
mod table;
mod upstream;

pub use server::{Audience, Listener, ServerHandle, serve};
pub use table::{ANSWER_TTL, Client, Table, Verdict};
pub use upstream::Upstream;
