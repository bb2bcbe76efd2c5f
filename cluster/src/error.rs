//! Errors of becoming, being and ceasing to be a member.

use std::{io, net::SocketAddr, path::PathBuf};

use model::{Kind, Refusal, TooNew};

use crate::{LinkError, TokenError};

/// A failed operation of membership.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The directory already holds an identity.
    #[error(
        "this host already belongs to a cluster: {0} holds its identity\n  next: `swarmctl leave` takes it out first"
    )]
    AlreadyMember(PathBuf),
    /// A file operation failed.
    #[error(
        "cannot {operation} {path}: {source}\n  next: check the file system's space and permissions"
    )]
    Disk {
        /// `read`, `write`, …
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file holds what this version cannot read.
    #[error(
        "{path} cannot be understood: {reason}\n  next: restore it from a backup; or remove netd's whole directory, \
         take this host out with `swarmctl node rm` on a manager, and join again"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A later version wrote what is here, or speaks to this host.
    #[error("{0}\n  next: {next}", next = TooNew::NEXT)]
    TooNew(#[from] TooNew),
    /// Another process has the log open.
    #[error(
        "{0} is in use\n  next: another netd runs with the same directory; stop it, or give this one its own"
    )]
    InUse(PathBuf),
    /// A key or certificate could not be made or used.
    #[error("cannot {operation}: {reason}")]
    Certificate {
        /// What was attempted.
        operation: &'static str,
        /// The reason given by the library.
        reason: String,
    },
    /// The control plane's address cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}\n  next: `ss -ltnp` shows who holds the port; `--listen-addr` \
         takes another"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The address that others are to use is none.
    #[error(
        "{0} is not an address that other hosts can reach\n  next: give one of this host's own addresses with \
         `--advertise-addr`"
    )]
    Advertise(SocketAddr),
    /// Not a join token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The token was made by another cluster.
    #[error(
        "the manager at {manager} belongs to another cluster than the token\n  next: check the address, or take the \
         token that `swarmctl token worker` prints on that cluster"
    )]
    OtherCluster {
        /// The address that was tried.
        manager: SocketAddr,
    },
    /// A member cannot be reached.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Raft refused or stopped.
    #[error("cannot {operation}: {reason}")]
    Raft {
        /// What was attempted.
        operation: &'static str,
        /// The reason given by Raft.
        reason: String,
    },
    /// The cluster said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl From<ClusterError> for Refusal {
    fn from(error: ClusterError) -> Self {
        let kind = match error {
            ClusterError::Refused(refusal) => return refusal,
            ClusterError::AlreadyMember(_) => Kind::Conflict,
            ClusterError::Token(_) | ClusterError::Advertise(_) => Kind::Invalid,
            ClusterError::OtherCluster { .. } => Kind::Denied,
            _ => Kind::Unavailable,
        };
        let text = error.to_string();
        let (cause, next) = text.split_once("\n  next: ").unwrap_or((&text, ""));
        Refusal::new(kind, cause, next)
    }
}
