//! Errors of tasks, and the one place that maps errnos to them.

use std::io;

use model::{Failure, Kind};

/// A task could not be run or entered.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The kernel refused an operation.
    #[error("cannot {action}: {reason}")]
    Os {
        /// The operation and its object, as in `mount /proc`.
        action: String,
        /// The kernel's reason.
        reason: io::Error,
    },
    /// Something does not hold that has to.
    #[error("{}", .0.in_one_line())]
    Refused(Failure),
}

impl TaskError {
    /// Something does not hold, and nobody has to do anything about it.
    pub(super) fn refused(cause: impl Into<String>) -> Self {
        Self::Refused(Failure::new(Kind::Precondition, cause, ""))
    }
}

impl From<TaskError> for Failure {
    fn from(error: TaskError) -> Self {
        match error {
            TaskError::Os { ref reason, .. } => {
                let (errno, next) = (reason.raw_os_error(), next(reason));
                Self::new(Kind::Unavailable, error.to_string(), next).with_errno(errno)
            }
            TaskError::Refused(why) => why,
        }
    }
}

/// What to do on the host, where the kernel's reason tells.
fn next(reason: &io::Error) -> &'static str {
    match reason.kind() {
        io::ErrorKind::PermissionDenied => {
            "let netd run as root there, with all capabilities, as its systemd unit does"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on that disk",
        io::ErrorKind::ReadOnlyFilesystem => "make that file system writable",
        io::ErrorKind::OutOfMemory => "make memory free on that host",
        _ => "",
    }
}

/// Names the operation that failed.
pub(super) trait Doing<T> {
    /// The error, as the failure to do `action`.
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, TaskError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, TaskError> {
        self.map_err(|reason| TaskError::Os {
            action: action(),
            reason: reason.into(),
        })
    }
}
