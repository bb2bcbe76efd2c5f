//! A file of records: a snapshot, and changes that are appended. A record is its length and a
//! checksum, each four bytes, little end first, and its body. A power cut may tear the last ones.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

const HEADER: usize = 8;
/// Changes may take this many bytes, however small the snapshot is.
pub(super) const LEAST: usize = 64 << 10;

/// Why a record is not in the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    /// The disk did not take it.
    #[error(transparent)]
    Disk(#[from] io::Error),
    /// Its length does not fit into a record.
    #[error("the view has 4 GiB")]
    TooLarge,
}

/// The file that is appended to.
pub(super) struct Log {
    file: Arc<File>,
    snapshot: usize,
    appended: usize,
    /// The disk has not been waited for since it was begun: the file before it is still there.
    is_draft: bool,
}

impl Log {
    /// Begins anew, at the path of drafts, and hands the snapshot over to the kernel.
    pub(super) fn begin(draft: &Path, snapshot: &[u8]) -> Result<Self, LogError> {
        let record = framed(snapshot)?;
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(draft)?;
        file.set_len(0)?;
        (&file).write_all(&record)?;
        Ok(Self {
            file: Arc::new(file),
            snapshot: record.len(),
            appended: 0,
            is_draft: true,
        })
    }

    /// Whether another change is not more than reading the whole again would cost.
    pub(super) fn has_room(&self) -> bool {
        self.appended < self.snapshot.max(LEAST)
    }

    /// Hands a change over to the kernel.
    pub(super) fn append(&mut self, body: &[u8]) -> Result<(), LogError> {
        let record = framed(body)?;
        (&*self.file).write_all(&record)?;
        self.appended += record.len();
        Ok(())
    }
}

/// Has the disk keep what was appended. A draft takes the place of the file before it, then.
/// Returns whether one has.
pub(super) fn keep(log: &Mutex<Option<Log>>, draft: &Path, path: &Path) -> io::Result<bool> {
    let lock = || log.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(file) = lock().as_ref().map(|log| log.file.clone()) else {
        return Ok(false);
    };
    file.sync_data()?;
    let mut log = lock();
    let is_same = |log: &&mut Log| log.is_draft && Arc::ptr_eq(&log.file, &file);
    let Some(log) = log.as_mut().filter(is_same) else {
        return Ok(false);
    };
    fs::rename(draft, path)?;
    log.is_draft = false;
    Ok(true)
}

fn framed(body: &[u8]) -> Result<Vec<u8>, LogError> {
    let length = u32::try_from(body.len()).map_err(|_| LogError::TooLarge)?;
    let mut record = Vec::with_capacity(HEADER + body.len());
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(&checksum(length, body).to_le_bytes());
    record.extend_from_slice(body);
    Ok(record)
}

fn checksum(length: u32, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// The bodies of the whole records that a file begins with.
pub(super) fn records(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk()?;
        let (sum, rest) = rest.split_first_chunk()?;
        let length = u32::from_le_bytes(*length);
        let (body, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        if checksum(length, body) != u32::from_le_bytes(*sum) {
            return None;
        }
        bytes = rest;
        Some(body)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_end_where_one_is_cut_or_changed() {
        let whole = [framed(b"one").unwrap(), framed(b"two").unwrap()].concat();
        let found = |bytes: &[u8]| records(bytes).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(found(&whole), [b"one", b"two"]);
        assert_eq!(found(&[0; 64]).len(), 0);
        for at in 0..whole.len() {
            let before = at / (HEADER + 3);
            assert_eq!(found(&whole[..at]).len(), before);
            let mut spoilt = whole.clone();
            spoilt[at] ^= 1;
            assert_eq!(found(&spoilt).len(), before);
        }
    }

    #[test]
    fn the_format_does_not_change() {
        let expected = [1, 0, 0, 0, 99, 143, 247, 193, b'a'];
        assert_eq!(framed(b"a").unwrap(), expected);
    }
}
