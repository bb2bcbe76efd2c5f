//! Power cuts at every byte, damage at every byte, and the way over from the database.

use std::{
    fs,
    path::{Path, PathBuf},
};

use openraft::{storage::RaftLogStorageExt, testing::blank_ent};
use tempfile::TempDir;

use super::{
    record::{self, Kind},
    *,
};

const LEVEL: Level = Level::NEWEST;
/// Small enough for a few entries.
const SEGMENT: u32 = 700;

fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        return tempfile::tempdir_in(memory).unwrap();
    }
    tempfile::tempdir().unwrap()
}

fn open(directory: &Path) -> Result<Store, ClusterError> {
    Store::open(directory, LEVEL, SEGMENT)
}

fn id(index: u64) -> LogId {
    openraft::testing::log_id(index / 4 + 1, 1, index)
}

fn encoded(index: u64, term: u64) -> Encoded {
    encoded_at(LEVEL, index, term)
}

fn encoded_at(level: Level, index: u64, term: u64) -> Encoded {
    let entry = blank_ent::<Types>(term, 1, index);
    let bytes = encode(level, &entry).unwrap();
    Encoded {
        index,
        bytes,
        entry,
    }
}

/// What a log holds: marks, and each entry's index and term.
#[derive(Clone, Debug, Default, PartialEq)]
struct Content {
    marks: Marks,
    entries: Vec<(u64, u64)>,
}

impl Content {
    fn of(store: &Store) -> Self {
        let entries = store.read(0..u64::MAX, usize::MAX).unwrap();
        let summary = entries
            .iter()
            .map(|entry| (entry.log_id.index, entry.log_id.leader_id.term));
        Self {
            marks: store.marks(),
            entries: summary.collect(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Append { from: u64, to: u64, term: u64 },
    Vote { term: u64 },
    Committed { index: u64 },
    Truncate { from: u64 },
    Purge { upto: u64 },
}

impl Step {
    fn run(self, store: &Store, content: &mut Content) {
        match self {
            Self::Append { from, to, term } => {
                let entries = (from..=to).map(|index| encoded(index, term)).collect();
                store.append(LEVEL, entries).unwrap();
                content
                    .entries
                    .extend((from..=to).map(|index| (index, term)));
            }
            Self::Vote { term } => {
                let vote = Vote::new(term, 1);
                store.save_vote(LEVEL, &vote).unwrap();
                content.marks.vote = Some(vote);
            }
            Self::Committed { index } => {
                store.save_committed(Some(id(index)));
                content.marks.committed = Some(id(index));
            }
            Self::Truncate { from } => {
                store.truncate(LEVEL, from).unwrap();
                content.entries.retain(|(index, _)| *index < from);
            }
            Self::Purge { upto } => {
                store.purge(LEVEL, id(upto)).unwrap();
                content.entries.retain(|(index, _)| *index > upto);
                content.marks.purged = Some(id(upto));
            }
        }
    }
}

const STEPS: [Step; 16] = [
    Step::Vote { term: 1 },
    Step::Append {
        from: 1,
        to: 1,
        term: 1,
    },
    Step::Append {
        from: 2,
        to: 4,
        term: 1,
    },
    Step::Committed { index: 2 },
    Step::Append {
        from: 5,
        to: 7,
        term: 1,
    },
    Step::Truncate { from: 6 },
    Step::Vote { term: 2 },
    Step::Append {
        from: 6,
        to: 8,
        term: 2,
    },
    Step::Append {
        from: 9,
        to: 12,
        term: 2,
    },
    Step::Committed { index: 8 },
    Step::Purge { upto: 3 },
    Step::Truncate { from: 12 },
    Step::Append {
        from: 12,
        to: 13,
        term: 3,
    },
    Step::Purge { upto: 8 },
    Step::Append {
        from: 14,
        to: 17,
        term: 3,
    },
    Step::Purge { upto: 20 },
];

type Files = Vec<(PathBuf, Vec<u8>)>;

fn files_of(directory: &Path) -> Files {
    let entries = fs::read_dir(directory).unwrap();
    let mut files: Files = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let content = fs::read(&path).unwrap();
            (PathBuf::from(path.file_name().unwrap()), content)
        })
        .collect();
    files.sort();
    files
}

/// The files after each step, and what had been acknowledged. The first is an empty log.
fn recorded(steps: &[Step]) -> Vec<(Files, Content)> {
    let home = directory();
    Store::create(home.path(), LEVEL, SEGMENT).unwrap();
    let store = open(home.path()).unwrap();
    let mut content = Content::default();
    let mut moments = vec![(files_of(home.path()), content.clone())];
    for step in steps {
        step.run(&store, &mut content);
        assert_eq!(Content::of(&store), content, "{step:?}");
        moments.push((files_of(home.path()), content.clone()));
    }
    moments
}

fn opened(files: &Files) -> Result<Content, ClusterError> {
    let home = directory();
    for (name, bytes) in files {
        fs::write(home.path().join(name), bytes).unwrap();
    }
    let content = Content::of(&open(home.path())?);
    // What was cut off does not come back.
    assert_eq!(Content::of(&open(home.path())?), content);
    Ok(content)
}

/// Whether a log that was cut within a step is as before or after it, or has a part of its entries.
fn lies_between(found: &Content, before: &Content, after: &Content) -> bool {
    let marks = [&before.marks, &after.marks];
    let mut is_marked = marks.contains(&&found.marks);
    // The mark of what is committed goes to the disk with the next step's record.
    let committed = found.marks.committed;
    is_marked |= marks.iter().any(|marks| {
        let marks = Marks {
            committed,
            ..(*marks).clone()
        };
        marks == found.marks && committed <= after.marks.committed
    });
    let grows =
        after.entries.starts_with(&found.entries) && found.entries.starts_with(&before.entries);
    is_marked && (grows || found.entries == before.entries || found.entries == after.entries)
}

#[test]
fn a_power_cut_at_any_byte_keeps_what_was_acknowledged() {
    let moments = recorded(&STEPS);
    let mut cuts = 0;
    for pair in moments.windows(2) {
        let [(files, before), (later, after)] = pair else {
            unreachable!()
        };
        for state in torn(files, later) {
            cuts += 1;
            let found = opened(&state).unwrap();
            assert!(
                lies_between(&found, before, after),
                "{before:?}\n{found:?}\n{after:?}"
            );
        }
    }
    assert!(cuts > 1_500, "{cuts}");
}

/// What may be on the disk when the power is cut between two moments: of what was written last, any
/// number of bytes, the rest zero, or any part without the bytes before it.
fn torn(files: &Files, later: &Files) -> Vec<Files> {
    let mut states = vec![files.clone()];
    let mut base = files.clone();
    for (name, new) in later {
        if base.iter().all(|(found, _)| found != name) {
            // A segment has its name once its head is whole; then the one before it is closed.
            let mut begun = vec![0; new.len()];
            let head = record::read(new).unwrap().bytes();
            begun[..head].copy_from_slice(&new[..head]);
            base.push((name.clone(), begun));
            states.push(base.clone());
        }
    }
    for (name, new) in later {
        let place = base.iter().position(|(found, _)| found == name).unwrap();
        cut(&mut states, &mut base, place, new);
    }
    // The oldest segments go first, one by one.
    while base.len() > later.len() {
        base.sort();
        base.remove(0);
        states.push(base.clone());
    }
    states
}

fn cut(states: &mut Vec<Files>, base: &mut Files, place: usize, new: &[u8]) {
    let old = base[place].1.clone();
    let same = old.iter().zip(new).take_while(|(old, new)| old == new);
    let start = same.count();
    // A segment that is closed gives back its room.
    let end = record::used(new).max(start);
    for at in start..end {
        let mut part = new[..at].to_vec();
        part.resize(old.len().max(at), 0);
        base[place].1 = part;
        states.push(base.clone());
        base[place].1 = new[..at].to_vec();
        states.push(base.clone());
        let mut hole = new.to_vec();
        hole[start..=at].fill(0);
        base[place].1 = hole;
        states.push(base.clone());
    }
    base[place].1 = new.to_vec();
    states.push(base.clone());
}

#[test]
fn damage_before_the_last_write_stops_the_node_and_is_named() {
    let mut steps = STEPS[..10].to_vec();
    steps.push(Step::Vote { term: 9 });
    let (files, content) = recorded(&steps).pop().unwrap();
    assert!(files.len() > 2);
    for (position, (name, bytes)) in files.iter().enumerate() {
        let needed = needed(bytes, position + 1 == files.len());
        for at in 0..record::used(bytes) {
            let mut changed = files.clone();
            changed[position].1[at] ^= 0x20;
            let mut states = vec![changed];
            if position + 1 < files.len() {
                let mut short = files.clone();
                short[position].1.truncate(at);
                states.push(short);
            }
            for state in states {
                if at >= needed {
                    assert_eq!(
                        opened(&state).unwrap().entries,
                        content.entries,
                        "byte {at}"
                    );
                    continue;
                }
                let (path, offset) = damage(&state);
                assert!(path.ends_with(name), "{path:?}, byte {at}");
                assert!(offset <= at as u64, "{offset}, byte {at}");
            }
        }
    }
}

/// Where the part of a segment ends that is needed or, in the last one, that a later record says
/// was on the disk.
fn needed(bytes: &[u8], is_last: bool) -> usize {
    let mut at = 0;
    while let Ok(record) = record::read(&bytes[at..]) {
        if record.kind == Kind::Closed {
            break;
        }
        let next = at + record.bytes();
        if is_last && record::read(&bytes[next..]).is_err() {
            return record.flushed as usize;
        }
        at = next;
    }
    at
}

/// File and offset of the refusal.
fn damage(files: &Files) -> (PathBuf, u64) {
    match opened(files) {
        Err(ClusterError::Damaged { path, offset, .. }) => (path, offset),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_missing_segment_is_named() {
    let (files, content) = recorded(&STEPS[..13]).pop().unwrap();
    assert_eq!(opened(&files).unwrap(), content);
    assert!(files.len() > 2, "{}", files.len());
    for missing in 0..files.len() {
        let mut rest = files.clone();
        let (name, _) = rest.remove(missing);
        let (path, offset) = damage(&rest);
        assert!(path.ends_with(name), "{path:?}");
        assert_eq!(offset, 0);
    }
    assert!(damage(&Vec::new()).0.ends_with("00000000000000000001.log"));
}

#[test]
fn segments_that_are_purged_are_removed() {
    let moments = recorded(&STEPS);
    let most = moments.iter().map(|(files, _)| files.len()).max();
    assert!(most > Some(2));
    let (files, _) = moments.last().unwrap();
    assert!(files.len() <= 2, "{}", files.len());
}

#[test]
fn entries_are_read_from_memory_and_from_the_disk() {
    let home = directory();
    Store::create(home.path(), LEVEL, SEGMENT).unwrap();
    let store = open(home.path()).unwrap();
    let entries = (1..=9).map(|index| encoded(index, 1)).collect();
    store.append(LEVEL, entries).unwrap();
    let cached = store.read_cached(2..5, usize::MAX).unwrap();
    assert_eq!(cached.len(), 3);
    drop(store);
    let store = open(home.path()).unwrap();
    assert_eq!(store.read_cached(2..5, usize::MAX), None);
    assert_eq!(store.read(2..5, usize::MAX).unwrap(), cached);
    assert_eq!(store.read(2..5, 1).unwrap().len(), 1);
}

#[test]
fn a_log_of_a_later_level_is_refused_and_left_alone() {
    let home = directory();
    let log = Log::open(home.path(), LEVEL, LEVEL).unwrap();
    log.shared.append(vec![encoded(1, 1)]).unwrap();
    log.close();
    let before = files_of(&home.path().join(FILES));
    for known in [Level::FIRST, Level::BATCHES] {
        let refused = Log::open(home.path(), known, known).err().unwrap();
        let ClusterError::TooNew(error) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!((error.found, error.known), (LEVEL, known));
    }
    // A version that knows no files opens the database.
    let database = home.path().join(DATABASE);
    let refused = Old::open(&database, Level::BATCHES).err().unwrap();
    assert!(matches!(refused, ClusterError::TooNew(_)), "{refused:?}");
    assert_eq!(files_of(&home.path().join(FILES)), before);
}

/// A log of the level before, with marks and entries.
fn old_log(home: &Path) -> Content {
    let log = Log::open(home, LEVEL, Level::BATCHES).unwrap();
    let mut content = Content::default();
    let level = Level::BATCHES;
    log.shared
        .read(|form| {
            let Form::Database(old) = form else {
                panic!("not a database")
            };
            let entries: Vec<_> = (1..=30).map(|index| encoded_at(level, index, 1)).collect();
            old.append(&entries)?;
            old.purge(level, id(3))?;
            old.truncate(29)?;
            old.save_committed(level, Some(id(20)))?;
            old.save_vote(level, &Vote::new(9, 1))
        })
        .unwrap();
    content.entries = (4..29).map(|index| (index, 1)).collect();
    content.marks = Marks {
        vote: Some(Vote::new(9, 1)),
        committed: Some(id(20)),
        purged: Some(id(3)),
    };
    log.close();
    content
}

fn content_of(log: &Log) -> Content {
    let entries = log.shared.read(|form| form.read(0..u64::MAX, usize::MAX));
    let summary = entries.unwrap().into_iter().map(|entry| {
        let id = entry.log_id;
        (id.index, id.leader_id.term)
    });
    Content {
        entries: summary.collect(),
        marks: log.shared.read(Form::marks).unwrap(),
    }
}

#[test]
fn a_log_stays_in_its_database_until_the_level_needs_files() {
    let home = directory();
    let path = home.path();
    let mut content = old_log(path);
    let log = Log::open(path, LEVEL, Level::BATCHES).unwrap();
    assert_eq!(content_of(&log), content);
    assert!(!path.join(FILES).exists());
    log.raise(LEVEL);
    log.shared.append(vec![encoded(29, 2)]).unwrap();
    content.entries.push((29, 2));
    assert_eq!(content_of(&log), content);
    assert!(path.join(FILES).is_dir());
    log.close();
    let log = Log::open(path, LEVEL, LEVEL).unwrap();
    assert_eq!(content_of(&log), content);
}

#[test]
fn a_crash_while_the_log_moves_loses_nothing() {
    let (old, new) = (directory(), directory());
    let content = old_log(old.path());
    old_log(new.path());
    drop(Log::open(new.path(), LEVEL, LEVEL).unwrap());
    let database = fs::read(old.path().join(DATABASE)).unwrap();
    let word = fs::read(new.path().join(DATABASE)).unwrap();
    let segments = files_of(&new.path().join(FILES));
    let whole = &segments[0].1;
    // Before the files have their name: any part of them is made anew.
    let half = whole[..whole.len() / 2].to_vec();
    for part in [Vec::new(), half, whole.clone()] {
        let home = directory();
        fs::write(home.path().join(DATABASE), &database).unwrap();
        let draft = home.path().join("log.new");
        fs::create_dir(&draft).unwrap();
        fs::write(draft.join(&segments[0].0), part).unwrap();
        fs::write(home.path().join("log.redb.new"), &word[..99]).unwrap();
        let log = Log::open(home.path(), LEVEL, LEVEL).unwrap();
        assert_eq!(content_of(&log), content);
    }
    // After that, with the old database or with none.
    for left in [Some(&database), None] {
        let home = directory();
        if let Some(left) = left {
            fs::write(home.path().join(DATABASE), left).unwrap();
        }
        let place = home.path().join(FILES);
        fs::create_dir(&place).unwrap();
        fs::write(place.join(&segments[0].0), whole).unwrap();
        let log = Log::open(home.path(), LEVEL, LEVEL).unwrap();
        assert_eq!(content_of(&log), content);
        let said = Old::open(&home.path().join(DATABASE), Level::BATCHES);
        assert!(matches!(said.err(), Some(ClusterError::TooNew(_))));
    }
}

#[test]
fn files_that_are_missing_are_not_begun_anew() {
    let home = directory();
    drop(Log::open(home.path(), LEVEL, LEVEL).unwrap());
    fs::remove_dir_all(home.path().join(FILES)).unwrap();
    let refused = Log::open(home.path(), LEVEL, LEVEL).err().unwrap();
    let text = refused.to_string();
    assert!(
        text.contains("/log is damaged at byte 0: this directory"),
        "{text}"
    );
}

/// A vote of manager 1, which owns the log, as leader.
fn leading(term: u64) -> Vote<u64> {
    Vote::new_committed(term, 1)
}

/// A log of manager 1, where this many vote.
async fn log_of_leader(directory: &Path, voters: u64) -> Log {
    let log = Log::open(directory, LEVEL, LEVEL).unwrap();
    let known = Voters::default();
    let members: std::collections::BTreeSet<u64> = (1..=voters).collect();
    known.are(None, &Membership::new(vec![members], ()));
    log.belongs_to(1, known).await.unwrap();
    log
}

/// What a log holds that is opened from a copy of the files.
async fn crashed(directory: &Path) -> (Option<Vote<u64>>, Vec<u64>) {
    let copy = directory_of(directory);
    let mut log = Log::open(copy.path(), LEVEL, LEVEL).unwrap();
    let entries = log.try_get_log_entries(..).await.unwrap();
    let indexes = entries.iter().map(|entry| entry.log_id.index).collect();
    (log.read_vote().await.unwrap(), indexes)
}

/// A copy of Raft's directory.
fn directory_of(original: &Path) -> TempDir {
    let copy = directory();
    fs::create_dir(copy.path().join(FILES)).unwrap();
    for (name, bytes) in files_of(&original.join(FILES)) {
        fs::write(copy.path().join(FILES).join(name), bytes).unwrap();
    }
    copy
}

#[tokio::test]
async fn a_leader_has_its_entries_at_once_and_soon_on_disk() {
    let home = directory();
    let mut log = log_of_leader(home.path(), 3).await;
    log.save_vote(&Vote::new(7, 1)).await.unwrap();
    log.save_vote(&leading(7)).await.unwrap();
    for last in (5..=500).step_by(5) {
        let entries = (last - 4..=last).map(|index| blank_ent::<Types>(7, 1, index));
        log.blocking_append(entries).await.unwrap();
        let all = log.try_get_log_entries(..).await.unwrap();
        let indexes = all.iter().map(|entry| entry.log_id.index);
        assert!(indexes.eq(1..=last), "{last}");
        let some = log.limited_get_log_entries(last - 2, last + 1).await;
        assert_eq!(some.unwrap()[0].log_id.index, last - 2);
    }
    log.written(500).await.unwrap();
    let (vote, entries) = crashed(home.path()).await;
    assert!(entries.into_iter().eq(1..=500));
    // It does not lead on in that term after a crash, which may have cost it entries.
    assert_eq!(vote, Some(Vote::new(7, 1)));
    assert_eq!(log.read_vote().await.unwrap(), Some(leading(7)));
    log.close();
    assert_eq!(crashed(home.path()).await.0, Some(leading(7)));
    // A log that was closed has all, and its leader may lead on, but not after a crash then.
    let mut log = log_of_leader(home.path(), 3).await;
    assert_eq!(log.read_vote().await.unwrap(), Some(leading(7)));
    assert_eq!(crashed(home.path()).await.0, Some(Vote::new(7, 1)));
    log.save_vote(&Vote::new_committed(8, 2)).await.unwrap();
    let (vote, entries) = crashed(home.path()).await;
    assert_eq!(vote, Some(Vote::new_committed(8, 2)));
    assert_eq!(entries.len(), 500);
}

#[tokio::test]
async fn an_entry_that_counts_alone_is_on_disk_first() {
    let home = directory();
    let mut log = log_of_leader(home.path(), 1).await;
    log.save_vote(&leading(7)).await.unwrap();
    let plain = |index| blank_ent::<Types>(7, 1, index);
    log.blocking_append([plain(1)]).await.unwrap();
    assert_eq!(crashed(home.path()).await.1, [1]);
    // Others vote from now on, and then not any more.
    for (index, voters) in [(2, vec![1, 2, 3]), (4, vec![1])] {
        let members = vec![voters.into_iter().collect()];
        let entry = Entry {
            log_id: openraft::testing::log_id(7, 1, index),
            payload: EntryPayload::Membership(Membership::new(members, ())),
        };
        log.blocking_append([entry]).await.unwrap();
        assert!(crashed(home.path()).await.1.into_iter().eq(1..=index));
        log.blocking_append([plain(index + 1)]).await.unwrap();
    }
    assert!(crashed(home.path()).await.1.into_iter().eq(1..=5));
    // Entries of a leader whose term is over are as those of others.
    log.save_vote(&Vote::new_committed(8, 2)).await.unwrap();
    let late = blank_ent::<Types>(8, 2, 6);
    log.blocking_append([late]).await.unwrap();
    assert!(crashed(home.path()).await.1.into_iter().eq(1..=6));
}

#[tokio::test]
async fn a_leader_whose_disk_fails_confirms_nothing() {
    let home = directory();
    let mut log = log_of_leader(home.path(), 3).await;
    log.save_vote(&leading(7)).await.unwrap();
    log.close();
    let plain = |index| blank_ent::<Types>(7, 1, index);
    let _early = log.blocking_append([plain(1)]).await;
    assert!(log.written(1).await.is_err());
    assert!(log.prompt().await.is_err());
    assert!(log.blocking_append([plain(2)]).await.is_err());
}
