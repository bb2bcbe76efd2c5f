//! Levels: how a cluster outlives its version. Everything that is persisted or sent between
//! members says which level its reader must know, and semantic changes take effect when the whole
//! cluster has reached their level, never when one binary has.
//!
//! A binary knows all levels up to its newest. The cluster has one level, a record of the state.
//! The leader raises it, one level at a time, by a command of the log, once every member has said
//! that it knows the next one. [`crate::StateMachine::apply`] looks at the state's level only, so
//! managers of two versions make the same of the same log.
//!
//! Before levels there was no mark. What has none is of [`Level::FIRST`].

use std::{fmt, io, path::Path};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A number that grows by one with each change of a record's shape or of a command's meaning.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Level(pub u16);

impl Level {
    /// What there was before records said their level.
    pub const FIRST: Self = Self(0);
    /// See [`FEATURES`].
    pub const BATCHES: Self = Self(1);
    /// See [`FEATURES`].
    pub const SHARED_VIEWS: Self = Self(2);
    /// See [`FEATURES`].
    pub const TYPED_FAILURES: Self = Self(3);
    /// See [`FEATURES`].
    pub const DISTINCTIONS: Self = Self(4);
    /// See [`FEATURES`].
    pub const COMPOUNDS: Self = Self(5);
    /// See [`FEATURES`].
    pub const REACH: Self = Self(6);
    /// See [`FEATURES`].
    pub const KEYS: Self = Self(7);
    /// The newest level that this code knows.
    pub const NEWEST: Self = Self::KEYS;

    /// The level after this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Whether there was something before levels, for records that leave their level out.
    pub fn is_first(&self) -> bool {
        *self == Self::FIRST
    }
}

impl fmt::Display for Level {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// What each level brings, in order, from the one after [`Level::FIRST`] on.
pub const FEATURES: &[(Level, &str)] = &[
    (
        Level::BATCHES,
        "records say their level; one entry of the log carries many commands, each with a revision",
    ),
    (
        Level::SHARED_VIEWS,
        "views have a record per slot, from which hosts derive names and balancers; reports carry \
         what changed; every object has a version; the log is a file that is appended to",
    ),
    (
        Level::TYPED_FAILURES,
        "reports, nodes, tasks and the ends of tasks on disk carry their failures as kind, object, \
         cause and next step, where there was one line of text; what is told of services and \
         networks is their spec and their status",
    ),
    (
        Level::DISTINCTIONS,
        "marks of networks with published ports differ; a report says which networks a host is \
         behind with, and what the host is called now; a port at 0.0.0.0 or [::] is of one family",
    ),
    (
        Level::COMPOUNDS,
        "names of containers and aliases may have more than one label, and those of services and \
         stacks underscores; names of containers that do not resolve are told; a published range \
         of ports is as long as one likes",
    ),
    (
        Level::REACH,
        "networks say who outside of them may call their endpoints: the cluster's hosts, and \
         prefixes of other machines",
    ),
    (
        Level::KEYS,
        "nodes have the digest of their public key; a manager that is removed takes no valid join \
         token and no key of encrypted networks along; a host joins with addresses of its own; \
         snapshots have a checksum; tasks see the host's files where asked for only",
    ),
];

/// A record that a later version wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is of level {found}, and this netd knows levels up to {known}")]
pub struct TooNew {
    /// The file, message or entry.
    pub what: String,
    /// The level that the record says.
    pub found: Level,
    /// The newest level that the reader knows.
    pub known: Level,
}

impl TooNew {
    /// What to do about it.
    pub const NEXT: &str = "install the version of netd that the rest of the cluster runs, or a \
                            newer one, and start it; the data is whole, leave it where it is";
}

/// For fields that records of an earlier level do not have.
pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a framed record begins with. A record of the first level is bare JSON and never does.
const MARK: u8 = b'L';
const END_OF_MARK: u8 = b'\n';

/// A record's bytes with its level in front: `L`, the level in decimal digits, a line feed. A
/// record of [`Level::FIRST`] stays as it is, so that the version before levels can read it.
pub fn seal(level: Level, body: Vec<u8>) -> Vec<u8> {
    if level.is_first() {
        return body;
    }
    let mut record = format!("L{level}\n").into_bytes();
    record.extend_from_slice(&body);
    record
}

/// Why a record's level cannot be told or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A later version wrote it.
    #[error(transparent)]
    TooNew(#[from] TooNew),
    /// It begins as a framed record does and does not go on as one.
    #[error("{0} begins with no readable level")]
    Malformed(String),
}

/// The level of a record and its body. `what` names the record in errors.
///
/// # Errors
/// Its level is newer than `known`, or cannot be read.
pub fn open<'a>(
    what: &str,
    record: &'a [u8],
    known: Level,
) -> Result<(Level, &'a [u8]), RecordError> {
    if record.first() != Some(&MARK) {
        return Ok((Level::FIRST, record));
    }
    let malformed = || RecordError::Malformed(what.to_owned());
    let end = record
        .iter()
        .position(|&byte| byte == END_OF_MARK)
        .ok_or_else(malformed)?;
    let digits = std::str::from_utf8(&record[1..end]).map_err(|_| malformed())?;
    let found = Level(digits.parse().map_err(|_| malformed())?);
    check(what, found, known)?;
    Ok((found, &record[end + 1..]))
}

/// The content of a file that is a record of JSON, for a reader that knows [`Level::NEWEST`].
///
/// # Errors
/// [`FileError::TooNew`] where a later version wrote it: it is to be left as it is.
pub fn read<T: DeserializeOwned>(path: &Path, record: &[u8]) -> Result<T, FileError> {
    let what = path.display().to_string();
    match open(&what, record, Level::NEWEST) {
        Ok((_, body)) => serde_json::from_slice(body)
            .map_err(|error| FileError::Malformed(format!("{what}: {error}"))),
        Err(RecordError::TooNew(error)) => Err(error.into()),
        Err(error) => Err(FileError::Malformed(error.to_string())),
    }
}

/// Why a file is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// A later version wrote it.
    #[error(transparent)]
    TooNew(#[from] TooNew),
    /// It is damaged, or another kind of file.
    #[error("{0}")]
    Malformed(String),
}

impl From<FileError> for io::Error {
    fn from(error: FileError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Refuses what is newer than the reader knows.
///
/// # Errors
/// `found` is above `known`.
pub fn check(what: &str, found: Level, known: Level) -> Result<(), TooNew> {
    if found <= known {
        return Ok(());
    }
    Err(TooNew {
        what: what.to_owned(),
        found,
        known,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_opens_to_the_level_and_body_it_was_sealed_with() {
        for level in [Level::FIRST, Level(1), Level(65_535)] {
            let record = seal(level, b"{}".to_vec());
            let opened = open("it", &record, Level(65_535)).unwrap();
            assert_eq!(opened, (level, &b"{}"[..]));
        }
        assert_eq!(seal(Level::FIRST, b"{}".to_vec()), b"{}");
    }

    #[test]
    fn a_newer_record_is_refused_with_both_levels() {
        let record = seal(Level(3), b"no JSON".to_vec());
        let refused = open("/var/lib/netd/x", &record, Level(2)).unwrap_err();
        let text = "/var/lib/netd/x is of level 3, and this netd knows levels up to 2";
        assert_eq!(refused.to_string(), text);
    }

    #[test]
    fn a_damaged_level_is_malformed() {
        for record in [
            &b"L"[..],
            b"L1",
            b"L\n{}",
            b"Lx\n{}",
            b"L70000\n{}",
            b"L\xff\n",
        ] {
            let refused = open("it", record, Level::NEWEST).unwrap_err();
            assert_eq!(refused, RecordError::Malformed("it".to_owned()));
        }
    }

    #[test]
    fn a_file_is_read_unless_a_later_version_wrote_it() {
        let path = Path::new("/var/lib/netd/x");
        assert_eq!(read::<u8>(path, b"7"), Ok(7));
        assert_eq!(read::<u8>(path, &seal(Level::NEWEST, b"7".to_vec())), Ok(7));
        let newer = seal(Level::NEWEST.next(), b"7".to_vec());
        let refused = read::<u8>(path, &newer);
        assert!(matches!(refused, Err(FileError::TooNew(_))), "{refused:?}");
        let damaged = read::<u8>(path, b"{");
        assert!(
            matches!(damaged, Err(FileError::Malformed(_))),
            "{damaged:?}"
        );
    }

    #[test]
    fn every_level_has_its_feature() {
        let levels: Vec<Level> = FEATURES.iter().map(|(level, _)| *level).collect();
        let expected: Vec<Level> = (1..=Level::NEWEST.0).map(Level).collect();
        assert_eq!(levels, expected);
    }
}
