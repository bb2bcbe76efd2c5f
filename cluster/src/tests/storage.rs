//! openraft's own tests of a log store and state machine, on ours.

use model::{Batch, Command, Level, NetworkCommand, RequestId};
use openraft::{
    Entry, EntryPayload, RaftLogReader, StorageError, StorageIOError, Vote,
    storage::{RaftLogStorage, RaftLogStorageExt},
    testing::{StoreBuilder, Suite, blank_ent, log_id},
};
use tempfile::TempDir;

use super::{directory, toy::Toy};
use crate::raft::{Log, Machine, Payload, Types};

/// Stores of a cluster of this level.
struct OnDisk(Level);

impl StoreBuilder<Types, Log, Machine<Toy>, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, Log, Machine<Toy>), StorageError<u64>> {
        let home = directory();
        let failed = |error| StorageError::from(StorageIOError::write(&error));
        let log = Log::open(home.path(), Level::NEWEST, self.0).map_err(failed)?;
        let machine =
            Machine::open(&home.path().join("snapshot"), Level::NEWEST).map_err(failed)?;
        Ok((home, log, machine))
    }
}

#[test]
fn the_storage_does_what_raft_needs() {
    Suite::test_all(OnDisk(Level::NEWEST)).unwrap();
}

#[test]
fn the_storage_of_earlier_levels_does_what_raft_needs() {
    Suite::test_all(OnDisk(Level::BATCHES)).unwrap();
}

#[tokio::test]
async fn an_acknowledged_entry_is_in_a_log_that_was_never_closed() {
    for level in [Level::BATCHES, Level::NEWEST] {
        let (running, crashed) = (directory(), directory());
        let mut log = Log::open(running.path(), Level::NEWEST, level).unwrap();
        log.save_vote(&Vote::new(3, 7)).await.unwrap();
        log.blocking_append((1..=20).map(|index| blank_ent::<Types>(3, 7, index)))
            .await
            .unwrap();
        log.save_committed(Some(log_id(3, 7, 20))).await.unwrap();
        copy(running.path(), crashed.path());

        let mut log = Log::open(crashed.path(), Level::NEWEST, level).unwrap();
        assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(3, 7)));
        assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 20);
        assert_eq!(
            log.get_log_state().await.unwrap().last_log_id,
            Some(log_id(3, 7, 20))
        );
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), &to).unwrap();
        }
    }
}

#[tokio::test]
async fn one_request_to_another_manager_carries_what_arrives_in_time() {
    for level in [Level::FIRST, Level::NEWEST] {
        let home = directory();
        let mut log = Log::open(home.path(), Level::NEWEST, level).unwrap();
        let entries = (1..=20).map(|index| large(level, index));
        log.blocking_append(entries).await.unwrap();
        let first = log.limited_get_log_entries(1, 21).await.unwrap();
        let indexes = first.iter().map(|entry| entry.log_id.index);
        assert_eq!(indexes.collect::<Vec<_>>(), [1, 2]);
        assert_eq!(log.try_get_log_entries(1..21).await.unwrap().len(), 20);
    }
}

fn large(level: Level, index: u64) -> Entry<Types> {
    let command = Command::Network(NetworkCommand::Remove {
        network: "x".repeat(100 << 10),
    });
    let entry = model::Entry {
        request: RequestId(index),
        now: 0,
        chance: None,
        command,
    };
    let entries = vec![entry];
    let payload = Payload::new(Batch { level, entries });
    Entry {
        log_id: log_id(1, 1, index),
        payload: EntryPayload::Normal(payload.unwrap()),
    }
}

#[test]
fn a_log_is_open_once() {
    let home = directory();
    let _open = Log::open(home.path(), Level::NEWEST, Level::NEWEST).unwrap();
    assert!(matches!(
        Log::open(home.path(), Level::NEWEST, Level::NEWEST).err(),
        Some(crate::ClusterError::InUse(_))
    ));
}
