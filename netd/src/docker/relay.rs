//! The process of the managed plugin: forwards every connection of the engine to the host's netd.

use std::{fs, path::Path};

use model::Failure;
use tokio::{
    io::copy_bidirectional,
    net::{UnixListener, UnixStream},
};

use crate::start;

/// What to do about a plugin whose own files are wrong.
const REINSTALL: &str = "remove the plugin from the engine and install it again";

/// Passes connections to `inside`, where an engine looks in the plugin, on to `host`. Ends with its
/// listener only.
///
/// # Errors
/// A socket that cannot be made.
pub async fn relay(inside: &Path, host: &Path) -> Result<(), Failure> {
    if let Some(directory) = inside.parent() {
        let failed = |error| start::cannot("make", directory, &error, REINSTALL);
        fs::create_dir_all(directory).map_err(failed)?;
    }
    let _ = fs::remove_file(inside);
    let failed = |error| start::cannot("listen at", inside, &error, REINSTALL);
    let listener = UnixListener::bind(inside).map_err(failed)?;
    loop {
        let accepted = listener.accept().await;
        let (mut engine, _) = accepted
            .map_err(|error| start::refused("accept a connection of the engine", &error))?;
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
