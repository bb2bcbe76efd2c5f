//! From the database of earlier versions to files that are appended to. A crash at any point leaves
//! one of them whole.
//!
//! The files are made in a directory of another name, which is renamed once they are on the disk.
//! From then on they are the log. A database stays in the old one's place that says so: a version
//! that knows no files must not begin with an empty log, because it would have forgotten its vote.

use std::{fs, io, path::Path};

use model::Level;

use super::{
    redb::Old,
    segment::sync_directory,
    store::{SEGMENT_BYTES, Store},
};
use crate::{ClusterError, files};

/// The database, in the directory of Raft.
pub(super) const DATABASE: &str = "log.redb";
/// The directory of the files.
pub(super) const FILES: &str = "log";
/// Bytes of entries copied at once.
const COPIED: usize = 4 << 20;

/// Copies the database and opens the files.
pub(super) fn move_over(
    directory: &Path,
    old: &Old,
    known: Level,
    level: Level,
) -> Result<Store, ClusterError> {
    let (draft, place) = (directory.join("log.new"), directory.join(FILES));
    files::remove(&draft)?;
    files::make_directory(&draft)?;
    Store::create(&draft, level, SEGMENT_BYTES)?;
    let store = Store::open(&draft, known, SEGMENT_BYTES)?;
    let failed = |source| files::failed("copy the log to", &draft, source);
    copy(old, &store, level).map_err(failed)?;
    drop(store);
    let renamed = fs::rename(&draft, &place).and_then(|()| sync_directory(directory));
    renamed.map_err(failed)?;
    leave_word(directory)?;
    tracing::info!(path = %place.display(), "moved the log out of its database");
    Store::open(&place, known, SEGMENT_BYTES)
}

fn copy(old: &Old, store: &Store, level: Level) -> io::Result<()> {
    let marks = old.marks()?;
    if let Some(purged) = marks.purged {
        store.purge(level, purged)?;
    }
    let mut next = 0;
    loop {
        let records = old.records(next..u64::MAX, COPIED)?;
        let Some((last, _)) = records.last() else {
            break;
        };
        next = last + 1;
        let records = records
            .iter()
            .map(|(index, bytes)| (*index, bytes.as_slice()));
        store.copy(level, records)?;
    }
    if let Some(vote) = marks.vote {
        store.save_vote(level, &vote)?;
    }
    store.save_committed(marks.committed);
    store.close(level)
}

/// Has the database say that the log has moved, unless it does.
pub(super) fn leave_word(directory: &Path) -> Result<(), ClusterError> {
    let path = directory.join(DATABASE);
    // What it says is no newer than the files, whose levels are looked at as they are read.
    let anything = Level(u16::MAX);
    let has_moved = |old: Old| old.has_moved().unwrap_or(false);
    if path.exists() && Old::open(&path, anything).is_ok_and(|(old, _)| has_moved(old)) {
        return Ok(());
    }
    let draft = directory.join("log.redb.new");
    files::remove(&draft)?;
    let write = || -> io::Result<()> {
        Old::write_moved(&draft)?;
        fs::rename(&draft, &path)?;
        sync_directory(directory)
    };
    write().map_err(|source| files::failed("write", &path, source))
}
