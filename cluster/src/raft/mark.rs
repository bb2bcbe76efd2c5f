//! What a manager remembers of its log outside of it. A log that is missing, another one, or an
//! older copy, would let it vote again on what it has acknowledged: an acknowledged write could be
//! lost (Raft's dissertation, 3.8).
//!
//! The log's directory has a name of random bits. Beside the identity stands that name, with a term
//! and an index that the log has reached.

use std::path::{Path, PathBuf};

use model::level::{self, FileError};
use openraft::Vote;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{ClusterError, files};

/// Of the log that is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached {
    /// The term of its vote.
    pub term: u64,
    /// The index that was applied, or is in a snapshot.
    pub index: u64,
}

impl Reached {
    pub(super) fn of(vote: Option<Vote<u64>>, index: u64) -> Self {
        let term = vote.map_or(0, |vote| vote.leader_id.term);
        Self { term, index }
    }
}

/// What is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The name of the log.
    log: String,
    term: u64,
    index: u64,
}

/// What is in the log's directory.
#[derive(Clone, Serialize, Deserialize)]
struct Name {
    log: String,
    /// Why the log is not to be used any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disowned: Option<String>,
}

/// Where a manager remembers its log.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    /// The log's directory.
    directory: PathBuf,
    /// The file beside the identity.
    path: PathBuf,
}

impl Mark {
    /// Of a member with this directory.
    pub(crate) fn of(home: &Path) -> Self {
        Self {
            directory: home.join("raft"),
            path: home.join("identity").join("log.json"),
        }
    }

    /// Whether the log that is here is the one that is remembered, before it is opened: an empty
    /// one would be made in place of one that is missing.
    pub(super) fn check_name(&self) -> Result<(), ClusterError> {
        let name = self.name()?;
        if let Some(reason) = name.as_ref().and_then(|name| name.disowned.as_ref()) {
            return Err(self.lost(reason));
        }
        let Some(known) = self.record()? else {
            return Ok(());
        };
        match name {
            Some(name) if name.log == known.log => Ok(()),
            Some(_) => Err(self.lost("it is that of another manager, or of another time")),
            None => Err(self.lost("it is missing")),
        }
    }

    /// Whether the log has all that it is remembered to have had.
    pub(super) fn check(&self, here: Reached) -> Result<(), ClusterError> {
        match self.record()? {
            Some(known) if here.term < known.term || here.index < known.index => {
                Err(self.lost(&format!(
                    "it ends in term {} at index {}, and had reached term {} and index {}",
                    here.term, here.index, known.term, known.index
                )))
            }
            _ => Ok(()),
        }
    }

    /// Remembers a log that counts from now on.
    pub(super) fn keep(&self, here: Reached) -> Result<(), ClusterError> {
        let name = match self.name()? {
            Some(name) => name,
            None => self.new_name()?,
        };
        let Reached { term, index } = here;
        let log = name.log;
        let record = Record { log, term, index };
        if self.record()?.as_ref() == Some(&record) {
            return Ok(());
        }
        files::write(&self.path, &json(&record))
    }

    /// The log is not to be used any more.
    pub(super) fn disown(&self, reason: &str) -> Result<(), ClusterError> {
        let name = match self.name()? {
            Some(name) => name,
            None => self.new_name()?,
        };
        let disowned = Some(reason.to_owned());
        files::write(&self.name_path(), &json(&Name { disowned, ..name }))
    }

    fn new_name(&self) -> Result<Name, ClusterError> {
        let name = Name {
            log: format!("{:032x}", rand::random::<u128>()),
            disowned: None,
        };
        files::write(&self.name_path(), &json(&name))?;
        Ok(name)
    }

    fn name_path(&self) -> PathBuf {
        self.directory.join("name.json")
    }

    fn name(&self) -> Result<Option<Name>, ClusterError> {
        read(&self.name_path())
    }

    fn record(&self) -> Result<Option<Record>, ClusterError> {
        read(&self.path)
    }

    fn lost(&self, reason: &str) -> ClusterError {
        ClusterError::LogLost {
            path: self.directory.clone(),
            reason: reason.to_owned(),
        }
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ClusterError> {
    let Some(bytes) = files::read(path)? else {
        return Ok(None);
    };
    match level::read(path, &bytes) {
        Ok(value) => Ok(Some(value)),
        Err(FileError::TooNew(error)) => Err(error.into()),
        Err(FileError::Malformed(reason)) => Err(ClusterError::Corrupt {
            path: path.to_owned(),
            reason,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(home: &tempfile::TempDir) -> Mark {
        let mark = Mark::of(home.path());
        for name in ["raft", "identity"] {
            files::make_directory(&home.path().join(name)).unwrap();
        }
        mark
    }

    fn at(term: u64, index: u64) -> Reached {
        Reached { term, index }
    }

    fn is_lost(checked: Result<(), ClusterError>) -> bool {
        matches!(checked, Err(ClusterError::LogLost { .. }))
    }

    #[test]
    fn a_log_that_was_never_remembered_passes() {
        let home = tempfile::tempdir().unwrap();
        let mark = mark(&home);
        mark.check_name().unwrap();
        mark.check(at(0, 0)).unwrap();
    }

    #[test]
    fn a_remembered_log_may_only_have_grown() {
        let home = tempfile::tempdir().unwrap();
        let mark = mark(&home);
        mark.keep(at(3, 70)).unwrap();
        mark.check_name().unwrap();
        mark.check(at(3, 70)).unwrap();
        mark.check(at(4, 71)).unwrap();
        assert!(is_lost(mark.check(at(2, 71))));
        assert!(is_lost(mark.check(at(3, 69))));
        mark.keep(at(4, 80)).unwrap();
        assert!(is_lost(mark.check(at(3, 70))));
    }

    #[test]
    fn a_mark_of_a_later_version_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let mark = mark(&home);
        let later = level::seal(model::Level::NEWEST.next(), b"{}".to_vec());
        std::fs::write(&mark.path, later).unwrap();
        assert!(matches!(mark.check_name(), Err(ClusterError::TooNew(_))));
    }

    #[test]
    fn a_log_that_was_disowned_is_lost_with_its_reason() {
        let home = tempfile::tempdir().unwrap();
        let mark = mark(&home);
        mark.keep(at(3, 70)).unwrap();
        mark.disown("its state differs").unwrap();
        let lost = mark.check_name().unwrap_err().to_string();
        assert!(lost.contains("its state differs"), "{lost}");
    }

    #[test]
    fn a_log_that_is_missing_or_anothers_is_lost() {
        let home = tempfile::tempdir().unwrap();
        let mark = mark(&home);
        mark.keep(at(3, 70)).unwrap();
        let other = tempfile::tempdir().unwrap();
        let others = self::mark(&other);
        others.keep(at(9, 90)).unwrap();
        std::fs::copy(others.name_path(), mark.name_path()).unwrap();
        assert!(is_lost(mark.check_name()));
        std::fs::remove_dir_all(&mark.directory).unwrap();
        assert!(is_lost(mark.check_name()));
    }
}
