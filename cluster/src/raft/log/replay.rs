//! What the records of the log's files amount to. No I/O.

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
};

use model::{Level, RecordError, TooNew, level};
use openraft::Vote;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    LogId,
    record::{self, Kind, Record},
    segment::Segment,
};
use crate::ClusterError;

/// Where the record of an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The number of the segment.
    pub segment: u64,
    pub offset: u32,
    /// Bytes of the record.
    pub bytes: u32,
}

/// What is remembered beside the entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marks {
    pub vote: Option<Vote<u64>>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
}

/// What a segment begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// The number of this segment.
    pub segment: u64,
    /// The length of the segment before, without the record that closes it.
    pub previous: u32,
    /// The index of the next entry, where it is settled.
    pub next: Option<u64>,
    pub marks: Marks,
}

/// What the records read so far amount to.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub marks: Marks,
    /// The index of the next entry; any may come first.
    pub next: Option<u64>,
    /// Where the entries are.
    pub entries: BTreeMap<u64, Place>,
    /// The newest level of a record.
    pub level: Level,
    /// Of each segment, in their order: its number and the index of its first entry.
    pub segments: VecDeque<(u64, Option<u64>)>,
    /// Where the last segment ends.
    pub end: u32,
    /// The last segment says that another follows.
    closed: bool,
}

/// Why a log is not opened.
#[derive(Debug)]
pub(super) enum Unreadable {
    TooNew(TooNew),
    Damaged {
        offset: u64,
        reason: String,
    },
    /// The segment of this number is not there.
    Missing(u64),
}

impl Unreadable {
    /// Of this segment in this directory.
    pub(super) fn of(self, directory: &Path, segment: u64) -> ClusterError {
        let damaged = |segment, offset, reason| ClusterError::Damaged {
            path: Segment::path_of(directory, segment),
            offset,
            reason,
        };
        match self {
            Self::TooNew(error) => ClusterError::TooNew(TooNew {
                what: Segment::path_of(directory, segment).display().to_string(),
                ..error
            }),
            Self::Damaged { offset, reason } => damaged(segment, offset, reason),
            Self::Missing(segment) => damaged(segment, 0, "this segment is missing".to_owned()),
        }
    }
}

fn damaged(offset: usize, reason: impl Into<String>) -> Unreadable {
    Unreadable::Damaged {
        offset: offset as u64,
        reason: reason.into(),
    }
}

impl Replay {
    /// Reads a segment, up to the first record that is none. Errors name a place in it.
    pub(super) fn segment(
        &mut self,
        number: u64,
        bytes: &[u8],
        known: Level,
    ) -> Result<(), Unreadable> {
        let mut at = 0;
        self.closed = false;
        while let Ok(record) = record::read(&bytes[at..]) {
            if (at == 0) != (record.kind == Kind::Head) {
                return Err(damaged(
                    at,
                    "a segment has its head elsewhere than in front",
                ));
            }
            if record.kind == Kind::Closed {
                self.closed = true;
                break;
            }
            self.record(number, at, &record, known)?;
            at += record.bytes();
        }
        self.end = u32::try_from(at).map_err(|_| damaged(at, "the file has more than 4 GiB"))?;
        if at == 0 {
            return Err(damaged(0, "the head of the segment cannot be read"));
        }
        Ok(())
    }

    fn record(
        &mut self,
        segment: u64,
        at: usize,
        record: &Record,
        known: Level,
    ) -> Result<(), Unreadable> {
        let opened = level::open("the log", record.body, known);
        let (level, body) = opened.map_err(|error| match error {
            RecordError::TooNew(error) => Unreadable::TooNew(error),
            error => damaged(at, error.to_string()),
        })?;
        self.level = self.level.max(level);
        match record.kind {
            Kind::Head => self.begin(segment, parse(at, body)?)?,
            Kind::Entry => {
                if self.next.is_some_and(|next| next != record.index) {
                    let next = self.next.unwrap_or_default();
                    let reason = format!("entry {} stands where {next} belongs", record.index);
                    return Err(damaged(at, reason));
                }
                let place = |offset, bytes| Place {
                    segment,
                    offset,
                    bytes,
                };
                let place = u32::try_from(at)
                    .and_then(|offset| Ok(place(offset, u32::try_from(record.bytes())?)));
                let place = place.map_err(|error| damaged(at, error.to_string()))?;
                self.entries.insert(record.index, place);
                self.next = Some(record.index + 1);
            }
            Kind::Vote => self.marks.vote = parse(at, body)?,
            Kind::Committed => self.marks.committed = parse(at, body)?,
            Kind::Purged => self.purge(parse(at, body)?),
            Kind::Truncated => self.truncate(record.index),
            Kind::Closed => {}
        }
        Ok(())
    }

    fn begin(&mut self, segment: u64, head: Head) -> Result<(), Unreadable> {
        if head.segment != segment {
            let reason = format!("this is segment {} under another name", head.segment);
            return Err(damaged(0, reason));
        }
        if self.segments.is_empty() {
            self.next = head.next;
        }
        if self.next != head.next {
            return Err(damaged(0, "entries are missing before this segment"));
        }
        self.marks = head.marks;
        self.segments.push_back((segment, head.next));
        Ok(())
    }

    /// Entries up to this one are gone.
    pub(super) fn purge(&mut self, upto: LogId) {
        self.entries = self.entries.split_off(&(upto.index + 1));
        self.marks.purged = Some(upto);
        self.next = self.next.max(Some(upto.index + 1));
    }

    /// Entries from this one on are gone, and it comes next.
    pub(super) fn truncate(&mut self, from: u64) {
        self.entries.split_off(&from);
        self.next = Some(from);
    }

    /// Whether a segment has ended where the head of the next one says. Errors name a place in the
    /// segment before.
    pub(super) fn followed_by(
        &self,
        bytes: &[u8],
        number: u64,
        following: &[u8],
    ) -> Result<(), Unreadable> {
        let last = self.segments.back().map_or(0, |(number, _)| *number);
        if number != last + 1 {
            return Err(Unreadable::Missing(last + 1));
        }
        let Ok(Record {
            kind: Kind::Head,
            body,
            ..
        }) = record::read(following)
        else {
            return Ok(());
        };
        // What cannot be parsed is told of with its own place.
        let Ok((_, body)) = level::open("the log", body, Level(u16::MAX)) else {
            return Ok(());
        };
        let Ok(Head { previous, .. }) = serde_json::from_slice(body) else {
            return Ok(());
        };
        if self.end == previous {
            return Ok(());
        }
        Err(self.flaw(bytes, "the next segment says that it is longer, or shorter"))
    }

    /// Whether the last segment ends with a write that was cut short, and nothing that was
    /// acknowledged is missing.
    pub(super) fn ended(&self, bytes: &[u8]) -> Result<(), Unreadable> {
        let end = self.end as usize;
        let last = self.segments.back().map_or(0, |(number, _)| *number);
        if self.closed {
            return Err(Unreadable::Missing(last + 1));
        }
        if let Some(later) = record::acknowledgement(bytes, end) {
            let reason = format!("the record at byte {later} was written after it was on the disk");
            return Err(self.flaw(bytes, &reason));
        }
        let purged = self.marks.purged.map_or(0, |purged| purged.index + 1);
        match self.segments.front() {
            Some((first, Some(next))) if *next > purged => Err(Unreadable::Missing(first - 1)),
            _ => Ok(()),
        }
    }

    fn flaw(&self, bytes: &[u8], reason: &str) -> Unreadable {
        let end = self.end as usize;
        match record::read(&bytes[end..]) {
            Err(flaw) => damaged(end, format!("{flaw}, and {reason}")),
            Ok(_) => damaged(end, reason),
        }
    }
}

fn parse<T: DeserializeOwned>(at: usize, body: &[u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(body).map_err(|error| damaged(at, error.to_string()))
}
