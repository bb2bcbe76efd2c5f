//! The replicated log and its members: Raft on disk, certificates, join tokens, mutual TLS, and
//! each node's view, streamed to it and kept on its disk. Knows commands and bytes, never networks.

#![warn(unreachable_pub)]

mod admission;
mod bare;
mod bounds;
mod buckets;
mod comparison;
mod dispatcher;
mod drive;
mod election;
mod error;
mod fanout;
mod files;
mod following;
mod gate;
mod history;
mod identity;
mod joining;
mod leader;
mod link;
mod member;
mod message;
mod panic;
mod pki;
mod places;
mod raft;
mod reach;
mod server;
mod services;
mod session;
mod streams;
#[cfg(test)]
mod tests;
mod timing;
mod tls;
mod token;
mod view;
mod visitors;
mod vouching;
mod watching;

pub use bare::Bare;
pub use error::ClusterError;
pub use history::Limits;
pub use joining::{Config, Host, JoinOptions};
pub use link::LinkError;
pub use member::{Halt, Member};
pub use message::{Downward, JoinAnswer, JoinCall, Leadership, Upward};
pub use panic::note_panics;
pub use pki::PeerIdentity;
pub use raft::StateDigest;
pub use streams::{Messages, paged, told};
pub use token::{Token, TokenError};
pub use watching::Told;
