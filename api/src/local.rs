//! Client connection to the local netd over its Unix socket.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Default path of the local netd's Unix socket.
pub const SOCKET: &str = "/run/netd/netd.sock";

/// The local daemon does not answer.
#[derive(Debug, thiserror::Error)]
#[error(
    "netd does not answer at {path}: {reason}\n  next: `systemctl start netd`, or run `netd` as \
     root; `--socket` names another one"
)]
pub struct LocalError {
    path: PathBuf,
    reason: String,
}

/// A channel to the daemon at this socket.
pub async fn connect(path: &Path) -> Result<Channel, LocalError> {
    let refuse = |reason: String| LocalError {
        path: path.to_owned(),
        reason,
    };
    let socket = path.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // tonic needs an address, but the connector ignores it and dials the socket.
    Endpoint::from_static("http://netd.local")
        .connect_with_connector(connector)
        .await
        .map_err(|error| {
            let mut source: &dyn std::error::Error = &error;
            while let Some(deeper) = source.source() {
                source = deeper;
            }
            refuse(source.to_string())
        })
}
