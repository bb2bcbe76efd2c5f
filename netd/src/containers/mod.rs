//! Containers that others run: their network namespaces on this host.

pub mod cni;

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::Path,
};

/// Where the kernel tells one boot from another.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Opens the namespace at this path if it still is the one that is meant.
pub fn open(path: &str, identity: Option<&str>) -> Option<File> {
    let file = File::open(path).ok()?;
    let is_meant = identity.is_none_or(|identity| identify(&file).as_deref() == Some(identity));
    is_meant.then_some(file)
}

/// Tells the namespace at this path from all others that have been there: `<boot id>/<inode>`.
pub fn identity(path: &Path) -> Option<String> {
    identify(&File::open(path).ok()?)
}

fn identify(file: &File) -> Option<String> {
    let boot = fs::read_to_string(BOOT_ID).ok()?;
    Some(format!("{}/{}", boot.trim(), file.metadata().ok()?.ino()))
}
