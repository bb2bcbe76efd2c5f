//! Containers that others run: their network namespaces on this host.

pub(crate) mod cni;
mod inside;
pub(crate) mod liveness;
pub(crate) mod roster;

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::OnceLock,
};

use model::Sandbox;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

/// Where the kernel tells one boot from another.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Opens the namespace at this path if it still is the one that is meant.
pub(crate) fn open(path: &str, identity: Option<&str>) -> Option<File> {
    let file = File::open(path).ok()?;
    // Its runtime makes a file and mounts the namespace on it in a second step.
    if fstatfs(&file).ok()?.filesystem_type() != NSFS_MAGIC {
        return None;
    }
    let is_meant = identity.is_none_or(|identity| identify(&file).as_deref() == Some(identity));
    is_meant.then_some(file)
}

/// Tells the namespace at this path from all others that have been there: `<boot id>/<inode>`.
pub(crate) fn identity(path: &Path) -> Option<String> {
    identify(&File::open(path).ok()?)
}

/// Whether a namespace is certainly gone: its path does not exist, or is another namespace. In
/// doubt it counts as living.
fn is_gone(sandbox: &Sandbox) -> bool {
    match File::open(&sandbox.path) {
        Ok(file) => identify(&file).is_some_and(|found| {
            sandbox
                .identity
                .as_ref()
                .is_some_and(|meant| *meant != found)
        }),
        Err(error) => matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        ),
    }
}

/// Normalises a path without following links: `/proc/PID/ns/net` does not resolve to a file.
fn real_path(path: &str) -> String {
    let real = || {
        let path = Path::new(path);
        Some(
            path.parent()?
                .canonicalize()
                .ok()?
                .join(path.file_name()?)
                .to_str()?
                .to_owned(),
        )
    };
    real().unwrap_or_else(|| path.to_owned())
}

fn identify(file: &File) -> Option<String> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let boot = BOOT.get_or_init(|| fs::read_to_string(BOOT_ID).ok());
    Some(format!(
        "{}/{}",
        boot.as_ref()?.trim(),
        file.metadata().ok()?.ino()
    ))
}
