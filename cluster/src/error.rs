//! Errors of becoming, being and ceasing to be a member.

use std::{io, net::SocketAddr, path::PathBuf};

use model::{Failure, Kind, Refusal, TooNew};

use crate::{LinkError, TokenError};

/// A failed operation of membership.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The directory already holds an identity.
    #[error("this host already belongs to a cluster: {0} holds its identity")]
    AlreadyMember(PathBuf),
    /// A file operation failed.
    #[error("cannot {operation} {path}: {source}")]
    Disk {
        /// `read`, `write`, …
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file holds what this version cannot read.
    #[error("{path} cannot be understood: {reason}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of the log lacks what it had acknowledged.
    #[error("{path} is damaged at byte {offset}: {reason}")]
    Damaged {
        /// The file or directory.
        path: PathBuf,
        /// Where the damage begins.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The log is not the one that this manager has voted by.
    #[error("the log in {path} is not the one by which this manager has voted: {reason}")]
    LogLost {
        /// The log's directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A later version wrote what is here, or speaks to this host.
    #[error(transparent)]
    TooNew(#[from] TooNew),
    /// Another process has the log open.
    #[error("{0} is in use: another netd runs with the same directory")]
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
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The address that others are to use is none.
    #[error("{0} is not an address that other hosts can reach")]
    Advertise(SocketAddr),
    /// Not a join token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The token was made by another cluster.
    #[error("the manager at {manager} belongs to another cluster than the token")]
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

impl ClusterError {
    /// What to do about it. None where there is nothing that a person could do.
    pub fn next(&self) -> Option<String> {
        let next = match self {
            Self::AlreadyMember(_) => "`swarmctl leave` takes it out first",
            Self::Disk { .. } => "check the file system's space and permissions",
            Self::Corrupt { .. } => {
                "restore it from a backup; or remove netd's whole directory, take this host out \
                 with `swarmctl node rm` on a manager, and join again"
            }
            Self::Damaged { .. } => {
                "look for errors of the disk (`dmesg`); bring the file back from a backup; or, \
                 while most managers run: `swarmctl node rm` this node there, move netd's \
                 directory aside, keep it, and join again"
            }
            Self::LogLost { .. } => {
                "bring netd's whole directory back as it was; or, while most managers run: \
                 `swarmctl node rm --force` this node there, `swarmctl leave --force` here, and \
                 join again"
            }
            Self::InUse(_) => "stop the other one, or give this one its own `--directory`",
            Self::Listen { .. } => {
                "`ss -ltnp` shows who holds the port; `--listen-addr` takes another"
            }
            Self::Advertise(_) => "give one of this host's own addresses with `--advertise-addr`",
            Self::OtherCluster { .. } => {
                "check the address, or take the token that `swarmctl token worker` prints on that \
                 cluster"
            }
            Self::Raft { .. } => {
                "try again; `swarmctl node ls` on a manager shows whether most managers answer"
            }
            Self::TooNew(_) => TooNew::NEXT,
            Self::Token(error) => return Some(error.next()),
            Self::Link(error) => return error.next(),
            Self::Refused(refusal) => {
                return Some(refusal.next.clone()).filter(|next| !next.is_empty());
            }
            // A library that cannot make a key is nothing that a person could mend.
            Self::Certificate { .. } => return None,
        };
        Some(next.to_owned())
    }

    /// What it is about.
    pub fn object(&self) -> String {
        match self {
            Self::AlreadyMember(_) => "this host".to_owned(),
            Self::Disk { path, .. }
            | Self::Corrupt { path, .. }
            | Self::Damaged { path, .. }
            | Self::LogLost { path, .. }
            | Self::InUse(path) => format!("file {}", path.display()),
            Self::Listen { address, .. } | Self::Advertise(address) => format!("address {address}"),
            Self::OtherCluster { manager } => format!("manager {manager}"),
            Self::Token(_) => "join token".to_owned(),
            Self::Link(error) => format!("host {}", error.to()),
            Self::Certificate { .. } => "certificate".to_owned(),
            Self::TooNew(_) => "level of the cluster".to_owned(),
            Self::Raft { .. } => "cluster".to_owned(),
            Self::Refused(refusal) => refusal.object.clone(),
        }
    }

    /// Whether only the log or the state of a manager is out of order: the rest of its host can go
    /// on.
    pub(crate) fn is_of_the_log(&self) -> bool {
        matches!(
            self,
            Self::Disk { .. } | Self::Corrupt { .. } | Self::Damaged { .. } | Self::LogLost { .. }
        )
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Refused(refusal) => refusal.kind,
            Self::AlreadyMember(_) | Self::InUse(_) => Kind::Conflict,
            Self::Token(_) | Self::Advertise(_) => Kind::Invalid,
            Self::OtherCluster { .. } => Kind::Denied,
            Self::TooNew(_) => Kind::Precondition,
            Self::Disk { .. }
            | Self::Corrupt { .. }
            | Self::Damaged { .. }
            | Self::LogLost { .. }
            | Self::Certificate { .. }
            | Self::Listen { .. }
            | Self::Link(_)
            | Self::Raft { .. } => Kind::Unavailable,
        }
    }

    fn errno(&self) -> Option<i32> {
        match self {
            Self::Disk { source, .. } | Self::Listen { source, .. } => source.raw_os_error(),
            Self::Link(LinkError::Unreachable { reason, .. }) => reason.raw_os_error(),
            _ => None,
        }
    }
}

impl From<ClusterError> for Failure {
    fn from(error: ClusterError) -> Self {
        if let ClusterError::Refused(refusal) = error {
            return refusal;
        }
        Failure::new(
            error.kind(),
            error.to_string(),
            error.next().unwrap_or_default(),
        )
        .about(error.object())
        .with_errno(error.errno())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_of_each() -> Vec<ClusterError> {
        let to: SocketAddr = ([192, 0, 2, 1], 2377).into();
        let file = || PathBuf::from("/var/lib/netd/log");
        let denied = || io::Error::from_raw_os_error(13);
        let reason = || "so it is".to_owned();
        vec![
            ClusterError::AlreadyMember(file()),
            ClusterError::Disk {
                operation: "read",
                path: file(),
                source: denied(),
            },
            ClusterError::Corrupt {
                path: file(),
                reason: reason(),
            },
            ClusterError::Damaged {
                path: file(),
                offset: 7,
                reason: reason(),
            },
            ClusterError::InUse(file()),
            ClusterError::Certificate {
                operation: "make a key",
                reason: reason(),
            },
            ClusterError::Listen {
                address: to,
                source: denied(),
            },
            ClusterError::Advertise(to),
            ClusterError::Token("nonsense".parse::<crate::Token>().unwrap_err()),
            ClusterError::OtherCluster { manager: to },
            ClusterError::Link(LinkError::Unreachable {
                to,
                reason: denied(),
            }),
            ClusterError::Link(LinkError::Foreign { to }),
            ClusterError::Link(LinkError::Impostor {
                to,
                expected: reason(),
            }),
            ClusterError::Link(LinkError::Tls {
                to,
                reason: reason(),
            }),
            ClusterError::Link(LinkError::Session {
                to,
                reason: reason(),
            }),
            ClusterError::Raft {
                operation: "begin",
                reason: reason(),
            },
            ClusterError::Refused(Failure::new(Kind::Denied, "no", "ask").about("node h1")),
        ]
    }

    #[test]
    fn errors_name_their_cause_object_and_next_step() {
        for error in one_of_each() {
            let has_no_next = matches!(error, ClusterError::Certificate { .. });
            assert_eq!(error.next().is_none(), has_no_next, "{error:?}");
            let cause = error.to_string();
            assert!(!cause.contains('\n') && !cause.contains("next:"), "{cause}");
            let failure = Failure::from(error);
            assert_eq!(failure.cause, cause);
            assert!(!failure.object.is_empty(), "{failure:?}");
        }
    }

    #[test]
    fn the_errno_of_the_kernel_is_passed_on() {
        let errnos = one_of_each().into_iter().map(Failure::from);
        assert_eq!(errnos.filter(|found| found.errno == Some(13)).count(), 3);
    }
}
