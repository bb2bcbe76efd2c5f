//! Why netd does not start, or does not go on: each failure names its object, its cause and the
//! next step.

use std::{io, path::Path};

use model::{Failure, Kind};

/// What to do about a part of the daemon that has ended by itself.
const READ_THE_LOG: &str =
    "read the log (`journalctl -u netd`) for the cause, and start netd again";

/// netd runs here already.
pub(crate) fn another(place: &str, next: &str) -> Failure {
    Failure::new(Kind::Conflict, format!("another netd {place}"), next).about("netd")
}

/// A file or directory that netd cannot do without.
pub(crate) fn cannot(action: &str, path: &Path, error: &io::Error, next: &str) -> Failure {
    let path = path.display();
    Failure::new(
        Kind::Unavailable,
        format!("cannot {action} {path}: {error}"),
        next,
    )
    .about(format!("file {path}"))
    .with_errno(error.raw_os_error())
}

/// The kernel refuses what has no path.
pub(crate) fn refused(action: &str, error: &io::Error) -> Failure {
    let cause = format!("cannot {action}: {error}");
    Failure::new(Kind::Unavailable, cause, "see that netd runs as root")
        .about("netd")
        .with_errno(error.raw_os_error())
}

/// A part of the daemon has ended, without which it is of no use.
pub(crate) fn ended(part: &str, reason: impl std::fmt::Display) -> Failure {
    let cause = format!("{part} has ended: {reason}");
    Failure::new(Kind::Unavailable, cause, READ_THE_LOG).about("netd")
}
