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
