//! The record on disk of all associations that this host has had in its kernel: none may begin a
//! second time, not even after a reboot.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use model::{Epoch, NodeId, Spi, level};
use serde::{Deserialize, Serialize};

/// What has been in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose: a host that joins anew has other keys.
    node: Option<NodeId>,
    used: BTreeMap<(NodeId, Spi), Epoch>,
    /// The file was there and cannot be understood: anything may have been in use.
    doubtful: bool,
}

#[derive(Serialize, Deserialize)]
struct Content {
    node: NodeId,
    used: Vec<(NodeId, Spi, Epoch)>,
}

impl Record {
    /// Nothing has been in use.
    pub fn empty() -> Self {
        Self {
            node: None,
            used: BTreeMap::new(),
            doubtful: false,
        }
    }

    /// That of a file; without one, nothing has been in use.
    pub fn open(path: &Path) -> Self {
        let content = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::empty(),
            read => read.and_then(|bytes| Ok(level::read::<Content>(path, &bytes)?)),
        };
        match content {
            Ok(Content { node, used }) => {
                let used = used
                    .into_iter()
                    .map(|(peer, spi, epoch)| ((peer, spi), epoch))
                    .collect();
                Self {
                    node: Some(node),
                    used,
                    doubtful: false,
                }
            }
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, %error, "it is not known which keys were in use: all of them get replaced");
                Self {
                    doubtful: true,
                    ..Self::empty()
                }
            }
        }
    }

    /// Whether this has been in use, or may have been.
    pub fn has(&self, peer: NodeId, spi: Spi) -> bool {
        self.doubtful || self.used.contains_key(&(peer, spi))
    }

    /// Whether anything may have been in use.
    pub fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// The record for this node: another's counts for nothing.
    pub fn of(self, node: NodeId) -> Self {
        let stranger = self.node.is_some_and(|own| own != node);
        if stranger { Self::empty() } else { self }
    }

    /// With these, which are about to be in use, and without what is older than `oldest`, which
    /// never comes back.
    pub fn with(
        &self,
        node: NodeId,
        new: &BTreeMap<(NodeId, Spi), Epoch>,
        oldest: Option<Epoch>,
    ) -> Self {
        let mut used = self.used.clone();
        used.extend(new.iter().map(|(key, epoch)| (*key, *epoch)));
        used.retain(|_, epoch| oldest.is_none_or(|oldest| *epoch >= oldest));
        Self {
            node: Some(node),
            used,
            doubtful: false,
        }
    }

    /// Puts it on the disk: once this returns, it is there after a power cut too.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let Some(node) = self.node else { return Ok(()) };
        let used = self
            .used
            .iter()
            .map(|(&(peer, spi), &epoch)| (peer, spi, epoch))
            .collect();
        let draft: PathBuf = path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(&serde_json::to_vec(&Content { node, used })?)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        path.parent()
            .map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(numbers: &[(u32, u64)]) -> BTreeMap<(NodeId, Spi), Epoch> {
        numbers
            .iter()
            .map(|&(spi, epoch)| ((NodeId(2), Spi(spi)), Epoch(epoch)))
            .collect()
    }

    #[test]
    fn a_record_of_the_first_level_is_read_and_written_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("used");
        let written = r#"{"node":"0000000000001","used":[["0000000000002",7,1]]}"#;
        fs::write(&path, written).unwrap();
        let record = Record::open(&path);
        assert!(record.has(NodeId(2), Spi(7)) && !record.is_doubtful());
        record.save(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), written);
    }

    #[test]
    fn a_record_is_known_after_a_restart_until_its_key_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("used");
        let record = Record::open(&path).with(NodeId(1), &used(&[(7, 1), (8, 2)]), Some(Epoch(1)));
        record.save(&path).unwrap();
        let read = Record::open(&path);
        assert_eq!(read, record);
        assert!(
            read.has(NodeId(2), Spi(7))
                && !read.has(NodeId(3), Spi(7))
                && !read.has(NodeId(2), Spi(9))
        );
        let later = read.with(NodeId(1), &used(&[(9, 2)]), Some(Epoch(2)));
        assert!(
            !later.has(NodeId(2), Spi(7))
                && later.has(NodeId(2), Spi(8))
                && later.has(NodeId(2), Spi(9))
        );
        assert!(
            read.clone()
                .with(NodeId(1), &used(&[]), None)
                .has(NodeId(2), Spi(7)),
            "no view says that it is gone"
        );
        assert_eq!(read.of(NodeId(5)), Record::empty());
    }

    #[test]
    fn a_damaged_record_means_that_anything_may_have_been_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("used");
        fs::write(&path, "{\"node\":").unwrap();
        let record = Record::open(&path);
        assert!(record.is_doubtful() && record.has(NodeId(9), Spi(9)));
    }
}
