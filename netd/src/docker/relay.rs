//! The process of the managed plugin: forwards every connection of the engine to the host's netd.

use std::{fs, path::Path};

use anyhow::Context;
use tokio::{
    io::copy_bidirectional,
    net::{UnixListener, UnixStream},
};

/// Passes connections to `inside`, where an engine looks in the plugin, on to `host`. Ends with its
/// listener only.
///
/// # Errors
/// A socket that cannot be made.
pub async fn relay(inside: &Path, host: &Path) -> anyhow::Result<()> {
    if let Some(directory) = inside.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let _ = fs::remove_file(inside);
    let listener = UnixListener::bind(inside)
        .with_context(|| format!("cannot listen at {}", inside.display()))?;
    loop {
        let (mut engine, _) = listener
            .accept()
            .await
            .context("cannot accept a connection of the engine")?;
        let host = host.to_owned();
        tokio::spawn(async move {
            match UnixStream::connect(&host).await {
                // Either may hang up at any time.
                Ok(mut netd) => drop(copy_bidirectional(&mut engine, &mut netd).await),
                Err(error) => eprintln!(
                    "netd does not answer at {}: {error}: start it on the host",
                    host.display()
                ),
            }
        });
    }
}
