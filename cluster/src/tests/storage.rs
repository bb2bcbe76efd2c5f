//! openraft's own tests of a log store and state machine, on ours.

use model::{Batch, Command, Level, NetworkCommand, RequestId};
use openraft::{
    Entry, EntryPayload, RaftLogReader, StorageError, StorageIOError, Vote,
    storage::{RaftLogStorage, RaftLogStorageExt},
    testing::{StoreBuilder, Suite, blank_ent, log_id},
};
use tempfile::TempDir;

use super::{directory, toy::Toy};
use crate::raft::{Log, Machine, Types};

struct OnDisk;

impl StoreBuilder<Types, Log, Machine<Toy>, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, Log, Machine<Toy>), StorageError<u64>> {
        let home = directory();
        let failed = |error| StorageError::from(StorageIOError::write(&error));
        let log = Log::open(&home.path().join("log.redb"), Level::NEWEST).map_err(failed)?;
        let machine =
            Machine::open(&home.path().join("snapshot"), Level::NEWEST).map_err(failed)?;
        Ok((home, log, machine))
    }
}

#[test]
fn the_storage_does_what_raft_needs() {
    Suite::test_all(OnDisk).unwrap();
}

#[tokio::test]
async fn an_acknowledged_entry_is_in_a_log_that_was_never_closed() {
    let home = directory();
    let (running, crashed) = (
        home.path().join("log.redb"),
        home.path().join("crashed.redb"),
    );
    let mut log = Log::open(&running, Level::NEWEST).unwrap();
    log.save_vote(&Vote::new(3, 7)).await.unwrap();
    log.blocking_append((1..=20).map(|index| blank_ent::<Types>(3, 7, index)))
        .await
        .unwrap();
    log.save_committed(Some(log_id(3, 7, 20))).await.unwrap();
    std::fs::copy(&running, &crashed).unwrap();

    let mut log = Log::open(&crashed, Level::NEWEST).unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(3, 7)));
    assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 20);
    assert_eq!(
        log.get_log_state().await.unwrap().last_log_id,
        Some(log_id(3, 7, 20))
    );
}

#[tokio::test]
async fn one_request_to_another_manager_carries_what_arrives_in_time() {
    let home = directory();
    let mut log = Log::open(&home.path().join("log.redb"), Level::NEWEST).unwrap();
    let large = |index| {
        let command = Command::Network(NetworkCommand::Remove {
            network: "x".repeat(100 << 10),
        });
        let entry = model::Entry {
            request: RequestId(index),
            now: 0,
            chance: None,
            command,
        };
        Entry {
            log_id: log_id(1, 1, index),
            payload: EntryPayload::Normal(Batch {
                level: Level::FIRST,
                entries: vec![entry],
            }),
        }
    };
    log.blocking_append((1..=20).map(large)).await.unwrap();
    let first = log.limited_get_log_entries(1, 21).await.unwrap();
    assert_eq!(
        first
            .iter()
            .map(|entry| entry.log_id.index)
            .collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(log.try_get_log_entries(1..21).await.unwrap().len(), 20);
}

#[test]
fn a_log_is_open_once() {
    let home = directory();
    let path = home.path().join("log.redb");
    let _open = Log::open(&path, Level::NEWEST).unwrap();
    assert!(matches!(
        Log::open(&path, Level::NEWEST).err(),
        Some(crate::ClusterError::InUse(_))
    ));
}
