//! The network namespace that a runtime names.

use std::{fs, io, os::unix::fs::MetadataExt};

use crate::error::{CniError, Code};

/// Refuses the host's own network namespace, and one that is not there: a plugin would change the
/// host's network. `field` is where the runtime names it.
pub(crate) fn refuse_own(field: &str, path: &str) -> Result<(), CniError> {
    let refuse = |cause: String, next: &str| CniError::new(Code::Namespace, cause, next);
    let gone = |error: io::Error| {
        refuse(
            format!("{field} {path}: {error}"),
            "the runtime makes it before it calls the plugin",
        )
    };
    let given = fs::metadata(path).map_err(gone)?;
    let own = fs::metadata("/proc/self/ns/net").map_err(gone)?;
    if (given.dev(), given.ino()) == (own.dev(), own.ino()) {
        let cause = format!("{field} {path} is the host's own network namespace");
        return Err(refuse(
            cause,
            "give the container one of its own, or call no plugin for it",
        ));
    }
    Ok(())
}
