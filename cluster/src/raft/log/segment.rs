//! A file of the log.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FallocateFlags, fallocate};

use crate::{ClusterError, files};

const EXTENSION: &str = "log";

/// An open segment.
pub(super) struct Segment {
    file: File,
    path: PathBuf,
}

impl Segment {
    pub(super) fn path_of(directory: &Path, number: u64) -> PathBuf {
        directory.join(format!("{number:020}.{EXTENSION}"))
    }

    /// The numbers of a directory's segments, in order.
    pub(super) fn numbers(directory: &Path) -> Result<Vec<u64>, ClusterError> {
        let list = || -> io::Result<Vec<u64>> {
            let mut numbers = Vec::new();
            for entry in fs::read_dir(directory)? {
                let path = entry?.path();
                let is_segment = path.extension().is_some_and(|found| found == EXTENSION);
                let number: Option<u64> = path
                    .file_stem()
                    .and_then(|stem| stem.to_str()?.parse().ok());
                numbers.extend(number.filter(|_| is_segment));
            }
            numbers.sort_unstable();
            Ok(numbers)
        };
        list().map_err(|source| files::failed("read", directory, source))
    }

    /// Makes a segment that begins with these bytes. It has its name once it is on the disk.
    pub(super) fn create(
        directory: &Path,
        number: u64,
        begin: &[u8],
        room: u32,
    ) -> io::Result<Self> {
        let path = Self::path_of(directory, number);
        let draft = path.with_extension("new");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        let segment = Self { file, path };
        segment.make_room(room);
        segment.file.write_all_at(begin, 0)?;
        segment.file.sync_all()?;
        fs::rename(&draft, &segment.path)?;
        sync_directory(directory)?;
        Ok(segment)
    }

    pub(super) fn open(directory: &Path, number: u64) -> io::Result<Self> {
        let path = Self::path_of(directory, number);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        Ok(Self { file, path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file.
    pub(super) fn content(&self) -> io::Result<Vec<u8>> {
        fs::read(&self.path)
    }

    pub(super) fn read(&self, offset: u32, bytes: u32) -> io::Result<Vec<u8>> {
        let mut content = vec![0; bytes as usize];
        self.file.read_exact_at(&mut content, offset.into())?;
        Ok(content)
    }

    /// Returns once the bytes are on the disk.
    pub(super) fn write(&self, offset: u32, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset.into())?;
        self.file.sync_data()
    }

    /// Returns once the file is on the disk as it is read.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Removes what stands from an offset on.
    pub(super) fn cut(&self, offset: u32, room: u32) -> io::Result<()> {
        self.file.set_len(offset.into())?;
        self.make_room(room);
        self.file.sync_all()
    }

    /// Has the file system reserve the file's blocks, so that a flush writes less of its own. One
    /// that cannot does without, and one that is full says so when it is written to.
    fn make_room(&self, room: u32) {
        let _unsupported = fallocate(&self.file, FallocateFlags::empty(), 0, room.into());
    }

    /// Removes the file.
    pub(super) fn remove(directory: &Path, number: u64) -> io::Result<()> {
        match fs::remove_file(Self::path_of(directory, number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            // The next one may only be gone after this one.
            _ => sync_directory(directory),
        }
    }
}

/// Has the disk keep the names of a directory.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
