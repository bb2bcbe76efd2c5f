//! The log as files that are appended to. Each append is one write and one flush.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use model::{Level, level};
use openraft::{Entry, Vote};

use super::{
    Encoded, LogId, Types, decode, encode,
    record::{self, Kind, Record},
    replay::{Head, Marks, Place, Replay, Unreadable},
    segment::{Segment, sync_directory},
};
use crate::{ClusterError, files};

/// Bytes of a segment; one that a larger append begins has that append.
pub(crate) const SEGMENT_BYTES: u32 = 16 << 20;
/// Bytes of the newest entries that are kept in memory, for other managers and the state machine.
const CACHED_BYTES: usize = 16 << 20;

/// The log's files.
pub(super) struct Store {
    directory: PathBuf,
    known: Level,
    segment_bytes: u32,
    writer: Mutex<Writer>,
    /// Locked for moments only, while the writer may wait for the disk.
    noted: Mutex<Noted>,
    index: RwLock<Index>,
}

struct Noted {
    /// As they are or, of `committed`, will be on the disk.
    marks: Marks,
    /// The mark of what is committed goes with the next write.
    committed_waits: bool,
}

struct Writer {
    segment: Arc<Segment>,
    number: u64,
    /// Where the segment ends. All of it is on the disk.
    end: u32,
    /// The segment has nothing but its head.
    is_fresh: bool,
    /// A write failed. What is on the disk is not known from then on.
    failed: Option<String>,
}

struct Index {
    log: Replay,
    open: BTreeMap<u64, Arc<Segment>>,
    /// The newest entries and their bytes on disk.
    cached: BTreeMap<u64, (Entry<Types>, usize)>,
    cached_bytes: usize,
}

/// What a write says, in order: kind, index, and the body with its level.
type Said<'a> = (Kind, u64, &'a [u8]);

impl Store {
    /// Makes an empty log in an empty directory.
    pub(super) fn create(
        directory: &Path,
        level: Level,
        segment_bytes: u32,
    ) -> Result<(), ClusterError> {
        let head = Head {
            segment: 1,
            previous: 0,
            next: None,
            marks: Marks::default(),
        };
        begin(directory, &head, level, segment_bytes)
            .map(drop)
            .map_err(|source| files::failed("write", directory, source))
    }

    /// Opens a log. What a power cut or crash left half written is cut off.
    pub(super) fn open(
        directory: &Path,
        known: Level,
        segment_bytes: u32,
    ) -> Result<Self, ClusterError> {
        let numbers = Segment::numbers(directory)?;
        let mut log = Replay::default();
        let mut open = BTreeMap::new();
        let mut before: Option<(u64, Vec<u8>)> = None;
        for number in numbers {
            let path = Segment::path_of(directory, number);
            let failed = |source| files::failed("read", &path, source);
            let segment = Segment::open(directory, number).map_err(failed)?;
            let content = segment.content().map_err(failed)?;
            if let Some((before, bytes)) = before {
                let follows = log.followed_by(&bytes, number, &content);
                follows.map_err(|error| error.of(directory, before))?;
            }
            let read = log.segment(number, &content, known);
            read.map_err(|error| error.of(directory, number))?;
            open.insert(number, Arc::new(segment));
            before = Some((number, content));
        }
        let Some((number, bytes)) = before else {
            return Err(Unreadable::Missing(1).of(directory, 1));
        };
        let path = Segment::path_of(directory, number);
        log.ended(&bytes)
            .map_err(|error| error.of(directory, number))?;
        let segment = open[&number].clone();
        // What a netd wrote that was killed before its flush counts from here on.
        let kept = segment.sync().and_then(|()| sync_directory(directory));
        kept.map_err(|source| files::failed("write", &path, source))?;
        let cut = record::used(&bytes).saturating_sub(log.end as usize);
        if cut > 0 {
            tracing::info!(path = %path.display(), offset = log.end, bytes = cut,
                "cut off what was being written when netd ended");
            let cut = segment.cut(log.end, segment_bytes);
            cut.map_err(|source| files::failed("write", &path, source))?;
        }
        let writer = Writer {
            segment,
            number,
            end: log.end,
            is_fresh: false,
            failed: None,
        };
        let noted = Noted {
            marks: log.marks.clone(),
            committed_waits: false,
        };
        let index = Index {
            log,
            open,
            cached: BTreeMap::new(),
            cached_bytes: 0,
        };
        Ok(Self {
            directory: directory.to_owned(),
            known,
            segment_bytes,
            writer: Mutex::new(writer),
            noted: Mutex::new(noted),
            index: RwLock::new(index),
        })
    }

    /// The newest level of a record.
    pub(super) fn level(&self) -> Level {
        self.index(|index| index.log.level)
    }

    pub(super) fn marks(&self) -> Marks {
        self.noted().marks.clone()
    }

    /// The last entry.
    pub(super) fn last(&self) -> io::Result<Option<Entry<Types>>> {
        let last = self.index(|index| index.log.entries.keys().next_back().copied());
        let range = last.map_or(0..0, |last| last..last + 1);
        Ok(self.read(range, usize::MAX)?.pop())
    }

    pub(super) fn append(&self, level: Level, entries: Vec<Encoded>) -> io::Result<()> {
        let records = entries.iter().map(|one| (one.index, one.bytes.as_slice()));
        self.copy(level, records)?;
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        for Encoded {
            index: at,
            entry,
            bytes,
        } in entries
        {
            index.keep(at, entry, bytes.len());
        }
        Ok(())
    }

    /// As [`Self::append`], of which only the records are at hand.
    pub(super) fn copy<'a>(
        &self,
        level: Level,
        records: impl Iterator<Item = (u64, &'a [u8])> + Clone,
    ) -> io::Result<()> {
        let empty = level::seal(level, Vec::new());
        let before = self.index(|index| index.log.next);
        let mut next = before;
        let mut said: Vec<Said> = Vec::new();
        for (index, body) in records {
            // Raft does not do this; openraft's tests do.
            if next.is_some_and(|next| next != index) {
                said.push((Kind::Truncated, index, &empty));
            }
            said.push((Kind::Entry, index, body));
            next = Some(index + 1);
        }
        let places = self.write(level, &said)?;
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        for ((kind, at, _), place) in said.into_iter().zip(places) {
            if kind == Kind::Truncated {
                index.log.truncate(at);
                index.forget();
            } else {
                index.log.entries.insert(at, place);
                index.log.next = Some(at + 1);
            }
        }
        Ok(())
    }

    pub(super) fn save_vote(&self, level: Level, vote: &Vote<u64>) -> io::Result<()> {
        let body = encode(level, vote)?;
        self.write(level, &[(Kind::Vote, 0, &body)])?;
        self.noted().marks.vote = Some(*vote);
        Ok(())
    }

    /// Goes to the disk with the next write: losing it only costs a replay from an older mark.
    pub(super) fn save_committed(&self, committed: Option<LogId>) {
        let mut noted = self.noted();
        noted.marks.committed = committed;
        noted.committed_waits = true;
    }

    pub(super) fn truncate(&self, level: Level, from: u64) -> io::Result<()> {
        let body = level::seal(level, Vec::new());
        self.write(level, &[(Kind::Truncated, from, &body)])?;
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.log.truncate(from);
        index.forget();
        Ok(())
    }

    /// Removes the entries up to one, and the segments that have no others.
    pub(super) fn purge(&self, level: Level, upto: LogId) -> io::Result<()> {
        let body = encode(level, &upto)?;
        self.write(level, &[(Kind::Purged, upto.index, &body)])?;
        self.noted().marks.purged = Some(upto);
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.log.purge(upto);
        index.forget();
        let idle = index.idle(upto.index);
        drop(index);
        for number in idle {
            Segment::remove(&self.directory, number)?;
        }
        Ok(())
    }

    /// Writes what waits for the next write.
    pub(super) fn close(&self, level: Level) -> io::Result<()> {
        let waits = self.noted().committed_waits;
        if waits {
            self.write(level, &[])?;
        }
        Ok(())
    }

    /// The entries of a range, as far as they fit into `limit` bytes; the first one always.
    pub(super) fn read(&self, range: Range<u64>, limit: usize) -> io::Result<Vec<Entry<Types>>> {
        let found = self.index(|index| index.find(range, limit));
        let mut entries = Vec::with_capacity(found.len());
        for found in found {
            entries.push(match found {
                Found::Cached(entry) => entry,
                Found::Stored(segment, place) => self.fetch(&segment, place)?,
            });
        }
        Ok(entries)
    }

    /// As [`Self::read`], where no entry has to be read from the disk.
    pub(super) fn read_cached(&self, range: Range<u64>, limit: usize) -> Option<Vec<Entry<Types>>> {
        let found = self.index(|index| index.find(range, limit));
        let cached = found.into_iter().map(|found| match found {
            Found::Cached(entry) => Some(entry),
            Found::Stored(..) => None,
        });
        cached.collect()
    }

    fn fetch(&self, segment: &Segment, place: Place) -> io::Result<Entry<Types>> {
        let bytes = segment.read(place.offset, place.bytes)?;
        let record = record::read(&bytes).map_err(|flaw| {
            let (path, offset) = (segment.path().display(), place.offset);
            io::Error::other(format!("{path} is damaged at byte {offset}: {flaw}"))
        })?;
        decode(record.body, self.known)
    }

    fn index<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        look(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes records. Returns their places, once they are on the disk.
    fn write(&self, level: Level, said: &[Said]) -> io::Result<Vec<Place>> {
        let mut writer = self.writer();
        if let Some(reason) = &writer.failed {
            return Err(io::Error::other(reason.clone()));
        }
        let written = self.put(&mut writer, level, said);
        written.inspect_err(|error| writer.failed = Some(error.to_string()))
    }

    fn put(&self, writer: &mut Writer, level: Level, said: &[Said]) -> io::Result<Vec<Place>> {
        let size: usize = said
            .iter()
            .map(|(.., body)| record::HEADER + body.len())
            .sum();
        let is_full = writer.end as usize + size > self.segment_bytes as usize;
        if is_full && !writer.is_fresh {
            self.turn_over(writer, level)?;
        }
        let mut bytes = Vec::with_capacity(size + 256);
        if let Some(committed) = self.noted().take_committed() {
            let body = encode(level, &committed)?;
            writer.put(&mut bytes, (Kind::Committed, 0, &body))?;
        }
        let mut places = Vec::with_capacity(said.len());
        for one in said {
            let offset = writer.end as usize + bytes.len();
            writer.put(&mut bytes, *one)?;
            let length = writer.end as usize + bytes.len() - offset;
            places.push(Place {
                segment: writer.number,
                offset: u32::try_from(offset).map_err(io::Error::other)?,
                bytes: u32::try_from(length).map_err(io::Error::other)?,
            });
        }
        let end = u32::try_from(writer.end as usize + bytes.len()).map_err(io::Error::other)?;
        writer.segment.write(writer.end, &bytes)?;
        (writer.end, writer.is_fresh) = (end, false);
        Ok(places)
    }

    /// Begins the next segment, and says so in this one.
    fn turn_over(&self, writer: &mut Writer, level: Level) -> io::Result<()> {
        let mut noted = self.noted();
        noted.committed_waits = false;
        let head = Head {
            segment: writer.number + 1,
            previous: writer.end,
            next: self.index(|index| index.log.next),
            marks: noted.marks.clone(),
        };
        drop(noted);
        let (segment, end) = begin(&self.directory, &head, level, self.segment_bytes)?;
        let mut closed = Vec::new();
        let body = level::seal(level, Vec::new());
        writer.put(&mut closed, (Kind::Closed, 0, &body))?;
        writer.segment.write(writer.end, &closed)?;
        let length = writer.end as usize + closed.len();
        writer
            .segment
            .cut(u32::try_from(length).map_err(io::Error::other)?, 0)?;
        let segment = Arc::new(segment);
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.open.insert(head.segment, segment.clone());
        index.log.segments.push_back((head.segment, head.next));
        (writer.segment, writer.number, writer.end) = (segment, head.segment, end);
        writer.is_fresh = true;
        Ok(())
    }
}

/// Makes a segment of a head. Returns its length, too.
fn begin(directory: &Path, head: &Head, level: Level, room: u32) -> io::Result<(Segment, u32)> {
    let record = Record {
        kind: Kind::Head,
        index: 0,
        flushed: 0,
        body: &encode(level, head)?,
    };
    let mut bytes = Vec::new();
    record.write(&mut bytes).map_err(io::Error::other)?;
    let end = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let segment = Segment::create(directory, head.segment, &bytes, room)?;
    Ok((segment, end))
}

impl Noted {
    /// The mark of what is committed, where it waits for a write.
    fn take_committed(&mut self) -> Option<Option<LogId>> {
        let waits = std::mem::replace(&mut self.committed_waits, false);
        waits.then_some(self.marks.committed)
    }
}

impl Writer {
    fn put(&self, to: &mut Vec<u8>, (kind, index, body): Said) -> io::Result<()> {
        let record = Record {
            kind,
            index,
            flushed: self.end,
            body,
        };
        record.write(to).map_err(io::Error::other)
    }
}

enum Found {
    Cached(Entry<Types>),
    Stored(Arc<Segment>, Place),
}

impl Index {
    /// Takes out the segments whose entries are purged, but the last.
    fn idle(&mut self, purged: u64) -> Vec<u64> {
        let mut idle = Vec::new();
        while let Some((_, first)) = self.log.segments.get(1)
            && first.is_none_or(|first| first <= purged + 1)
            && let Some((number, _)) = self.log.segments.pop_front()
        {
            self.open.remove(&number);
            idle.push(number);
        }
        idle
    }

    fn find(&self, range: Range<u64>, limit: usize) -> Vec<Found> {
        let (mut found, mut size) = (Vec::new(), 0);
        if range.is_empty() {
            return found;
        }
        for (index, place) in self.log.entries.range(range) {
            size += place.bytes as usize;
            if size > limit && !found.is_empty() {
                break;
            }
            found.push(match self.cached.get(index) {
                Some((entry, _)) => Found::Cached(entry.clone()),
                None => Found::Stored(self.open[&place.segment].clone(), *place),
            });
        }
        found
    }

    fn keep(&mut self, index: u64, entry: Entry<Types>, bytes: usize) {
        self.cached.insert(index, (entry, bytes));
        self.cached_bytes += bytes;
        while self.cached_bytes > CACHED_BYTES
            && let Some((_, (_, bytes))) = self.cached.pop_first()
        {
            self.cached_bytes -= bytes;
        }
    }

    /// Lets go of cached entries that the log has no longer.
    fn forget(&mut self) {
        let entries = &self.log.entries;
        self.cached.retain(|index, _| entries.contains_key(index));
        self.cached_bytes = self.cached.values().map(|(_, bytes)| bytes).sum();
    }
}
