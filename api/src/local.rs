//! Client connection to the local netd over its Unix socket.

use std::{
    error::Error,
    path::{Path, PathBuf},
};

use hyper_util::rt::TokioIo;
use model::{Failure, Kind};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Default path of the local netd's Unix socket.
pub const SOCKET: &str = "/run/netd/netd.sock";

/// The local daemon does not answer.
#[derive(Debug, thiserror::Error)]
#[error("netd does not answer at {}: {reason}", .path.display())]
pub struct LocalError {
    path: PathBuf,
    reason: String,
    errno: Option<i32>,
}

impl LocalError {
    /// What to do about it.
    pub fn next(&self) -> &'static str {
        "`systemctl start netd`, or run `netd` as root; `--socket` names another one"
    }
}

impl From<LocalError> for Failure {
    fn from(error: LocalError) -> Self {
        Failure::new(Kind::Unavailable, error.to_string(), error.next())
            .about(format!("netd at {}", error.path.display()))
            .with_errno(error.errno)
    }
}

/// A channel to the daemon at this socket.
pub async fn connect(path: &Path) -> Result<Channel, LocalError> {
    let socket = path.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // tonic needs an address, but the connector ignores it and dials the socket.
    Endpoint::from_static("http://netd.local")
        .connect_with_connector(connector)
        .await
        .map_err(|error| refused(path, &error))
}

fn refused(path: &Path, error: &(dyn Error + 'static)) -> LocalError {
    let mut innermost = error;
    while let Some(deeper) = innermost.source() {
        innermost = deeper;
    }
    let kernel = innermost.downcast_ref::<std::io::Error>();
    LocalError {
        path: path.to_owned(),
        reason: innermost.to_string(),
        errno: kernel.and_then(std::io::Error::raw_os_error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_daemon_is_a_failure_with_cause_next_step_and_errno() {
        let error = connect(Path::new("/nonexistent/netd.sock"))
            .await
            .unwrap_err();
        let failure = Failure::from(error);
        assert_eq!(failure.object, "netd at /nonexistent/netd.sock");
        assert!(
            failure
                .cause
                .starts_with("netd does not answer at /nonexistent/netd.sock: "),
            "{failure}"
        );
        assert!(failure.next.contains("systemctl start netd"));
        assert_eq!(failure.errno, Some(2));
    }
}
