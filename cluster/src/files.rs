//! Atomic file writes: a file is whole or absent.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

use crate::ClusterError;

/// Writes a file that only root can read; after a crash either the old or the new content is there.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), ClusterError> {
    let write = || {
        replace(path, content, File::sync_all)?;
        path.parent()
            .map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    };
    write().map_err(|source| failed("write", path, source))
}

/// As [`write()`], without waiting for the disk: after a power cut the content may be old, or cut
/// short.
pub(crate) fn hand_over(path: &Path, content: &[u8]) -> Result<(), ClusterError> {
    replace(path, content, |_| Ok(())).map_err(|source| failed("write", path, source))
}

fn replace(path: &Path, content: &[u8], sync: fn(&File) -> io::Result<()>) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(content)?;
    sync(&file)?;
    fs::rename(&draft, path)
}

/// The content of a file; `None` where there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, ClusterError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed("read", path, source)),
    }
}

/// Makes a directory that only root can enter.
pub(crate) fn make_directory(path: &Path) -> Result<(), ClusterError> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o700)))
        .map_err(|source| failed("make directory", path, source))
}

/// Removes a file or a whole directory; it is fine if there is none.
pub(crate) fn remove(path: &Path) -> Result<(), ClusterError> {
    let result = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(|source| failed("remove", path, source)),
    }
}

/// Whether a directory's file system takes this many bytes.
pub(crate) fn take(directory: &Path, bytes: u64) -> io::Result<()> {
    let probe = directory.join("probe.new");
    let written = File::create(&probe).and_then(|file| {
        match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        (&file).write_all(&[0; 4096])?;
        file.sync_all()
    });
    let removed = fs::remove_file(&probe);
    written.and(removed)
}

/// A failed operation on a file.
pub(crate) fn failed(operation: &'static str, path: &Path, source: io::Error) -> ClusterError {
    ClusterError::Disk {
        operation,
        path: path.to_owned(),
        source,
    }
}
