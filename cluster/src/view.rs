//! A node's view, in memory and on disk. It is written to the page cache before it is used, and
//! fsynced soon after. A power cut may lose the last changes, but it also wipes the kernel state
//! that they described.
//!
//! On disk a view is a snapshot and the changes after it: what is written for a change is as large
//! as the change. Before [`Level::SHARED_VIEWS`] it is two whole copies, which earlier versions
//! read.

mod log;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use model::{Level, NodeConfig, NodeId, RecordError, ViewDelta, ViewError, level};
use tokio::{sync::watch, task::JoinError};

use crate::{ClusterError, files};
use log::{Log, LogError};

/// Whole copies: the newest view, which a power cut may damage, and the newest fsynced one.
const COPIES: [&str; 2] = ["view.new.json", "view.json"];
/// A snapshot and changes: one that a power cut may damage, until the disk has been waited for, and
/// the one that it replaces then.
const LOGS: [&str; 2] = ["view.new.log", "view.log"];

/// Why a view is not kept on disk, or what is kept there cannot be read.
#[derive(Debug, thiserror::Error)]
enum CopyError {
    /// A whole copy was not written or removed.
    #[error(transparent)]
    Copy(#[from] ClusterError),
    /// A change was not appended.
    #[error(transparent)]
    Log(#[from] LogError),
    /// What was appended is not on the disk.
    #[error(transparent)]
    Kept(#[from] io::Error),
    /// The thread that wrote it ended early.
    #[error(transparent)]
    Thread(#[from] JoinError),
    /// The level of what is kept cannot be told.
    #[error(transparent)]
    Level(#[from] RecordError),
    /// It is no change of a view.
    #[error(transparent)]
    Body(#[from] serde_json::Error),
    /// It does not follow on what stands before it.
    #[error(transparent)]
    Order(#[from] ViewError),
}

/// This node's view.
pub(crate) struct View {
    directory: PathBuf,
    current: watch::Sender<Arc<NodeConfig>>,
    /// The disk did not take the last one.
    unsaved: AtomicBool,
    /// What changes are appended to; none before the first change, and after one failed.
    log: Arc<Mutex<Option<Log>>>,
}

impl View {
    /// The newest view of the files. Without one, or with none that can be understood, an empty
    /// one: they are only copies, and the leader sends another. Errors: the disk's, and a file that
    /// a later version wrote.
    pub(crate) fn open(directory: &Path, node: NodeId, known: Level) -> Result<Self, ClusterError> {
        let mut view = NodeConfig::empty(node);
        for path in LOGS.map(|name| directory.join(name)) {
            let Some(bytes) = files::read(&path)? else {
                continue;
            };
            let mut saved = NodeConfig::empty(node);
            for record in log::records(&bytes) {
                match opened(&path, record, known, |body| changed(&saved, body))? {
                    Some(next) => saved = next,
                    None => break,
                }
            }
            take(&mut view, Some(saved));
        }
        for path in COPIES.map(|name| directory.join(name)) {
            if let Some(bytes) = files::read(&path)? {
                let change = |body: &[u8]| changed(&NodeConfig::empty(node), body);
                take(&mut view, opened(&path, &bytes, known, change)?);
            }
        }
        let current = watch::Sender::new(Arc::new(view));
        Ok(Self {
            directory: directory.to_owned(),
            current,
            unsaved: AtomicBool::new(false),
            log: Arc::default(),
        })
    }

    /// Removes what is on disk.
    pub(crate) fn remove(directory: &Path) -> Result<(), ClusterError> {
        COPIES
            .iter()
            .chain(&LOGS)
            .try_for_each(|name| files::remove(&directory.join(name)))
    }

    pub(crate) fn get(&self) -> Arc<NodeConfig> {
        self.current.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<NodeConfig>> {
        self.current.subscribe()
    }

    /// Publishes the view with this change once it is written. If the disk is full the view is
    /// published all the same, and a restart begins from an older one.
    ///
    /// # Errors
    /// The change does not follow on the view, which stays as it is.
    pub(crate) async fn change(&self, delta: ViewDelta) -> Result<(), ViewError> {
        let view = Arc::new(self.get().apply(&delta)?);
        if view.level < Level::SHARED_VIEWS {
            self.copy(COPIES[0], view.clone(), files::hand_over).await;
        } else {
            self.append(view.clone(), delta).await;
        }
        self.current.send_replace(view);
        Ok(())
    }

    /// Has the disk keep each view, or the one after it, until dropped.
    pub(crate) async fn keep(&self) {
        let mut changes = self.watch();
        changes.mark_changed();
        while changes.changed().await.is_ok() {
            let view = changes.borrow_and_update().clone();
            if view.level < Level::SHARED_VIEWS {
                self.copy(COPIES[1], view, files::write).await;
            } else {
                let log = self.log.clone();
                let [draft, path] = LOGS.map(|name| self.directory.join(name));
                let copies = COPIES.map(|name| self.directory.join(name));
                self.write(move || {
                    if log::keep(&log, &draft, &path)? {
                        let mut copies = copies.iter();
                        copies.try_for_each(|path| files::remove(path))?;
                    }
                    Ok(())
                })
                .await;
            }
        }
    }

    /// Writes a whole copy.
    async fn copy(
        &self,
        name: &str,
        view: Arc<NodeConfig>,
        write: impl FnOnce(&Path, &[u8]) -> Result<(), ClusterError> + Send + 'static,
    ) {
        let path = self.directory.join(name);
        self.write(move || Ok(write(&path, &snapshot(&view)?)?))
            .await;
    }

    /// Appends a change, or begins anew with a snapshot of the view that it leads to.
    async fn append(&self, view: Arc<NodeConfig>, delta: ViewDelta) {
        let (log, directory) = (self.log.clone(), self.directory.clone());
        self.write(move || {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            let appended = match log.as_mut() {
                Some(log) if log.has_room() && delta.from.is_some() => {
                    log.append(&sealed(&delta)?).is_ok()
                }
                _ => false,
            };
            if appended {
                return Ok(());
            }
            // What is behind a change that was half written could not be read.
            *log = None;
            *log = Some(Log::begin(&directory.join(LOGS[0]), &snapshot(&view)?)?);
            Ok(())
        })
        .await;
    }

    /// Says so when the disk begins or ceases to refuse views.
    async fn write(&self, work: impl FnOnce() -> Result<(), CopyError> + Send + 'static) {
        let written = tokio::task::spawn_blocking(work).await;
        let error = written.map_err(CopyError::from).flatten().err();
        let failed_before = self.unsaved.swap(error.is_some(), Ordering::Relaxed);
        match error {
            Some(error) if !failed_before => {
                tracing::warn!(%error, "this node's view is not kept on its disk")
            }
            None if failed_before => tracing::info!("this node's view is kept on its disk again"),
            _ => {}
        }
    }
}

/// Takes a saved view unless there is a newer one already.
fn take(view: &mut NodeConfig, saved: Option<NodeConfig>) {
    if let Some(saved) = saved.filter(|saved| saved.generation >= view.generation) {
        *view = saved;
    }
}

/// What a record of this file leads to; none where it cannot be understood, and all behind it is
/// lost.
fn opened(
    path: &Path,
    record: &[u8],
    known: Level,
    change: impl FnOnce(&[u8]) -> Result<NodeConfig, CopyError>,
) -> Result<Option<NodeConfig>, ClusterError> {
    let record = level::open(&path.display().to_string(), record, known);
    if let Err(RecordError::TooNew(error)) = record {
        return Err(error.into());
    }
    let body = record.map_err(CopyError::from);
    match body.and_then(|(_, body)| change(body)) {
        Ok(view) => Ok(Some(view)),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a copy of this node's view is lost");
            Ok(None)
        }
    }
}

fn changed(view: &NodeConfig, bytes: &[u8]) -> Result<NodeConfig, CopyError> {
    let delta: ViewDelta = serde_json::from_slice(bytes)?;
    Ok(view.apply(&delta)?)
}

fn snapshot(view: &NodeConfig) -> Result<Vec<u8>, CopyError> {
    sealed(&view.snapshot())
}

fn sealed(delta: &ViewDelta) -> Result<Vec<u8>, CopyError> {
    let body = serde_json::to_vec(delta)?;
    Ok(level::seal(delta.level, body))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A change to this generation, which has as many nodes as its number says.
    fn change(from: Option<u64>, to: u64, level: Level) -> ViewDelta {
        let view = NodeConfig {
            generation: to,
            level,
            ..NodeConfig::empty(NodeId(1))
        };
        ViewDelta {
            from,
            ..view.delta(&view)
        }
    }

    fn generation(directory: &Path) -> u64 {
        let opened = View::open(directory, NodeId(1), Level::NEWEST).unwrap();
        opened.get().generation
    }

    /// `tests/records/LEVEL` holds what a netd of that level wrote.
    #[test]
    fn a_view_of_every_level_is_read() {
        let records = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/records");
        for (level, node, generation) in [(0, "35yqivlqhe1jx", 31), (2, "18593bcyna8jz", 44)] {
            let directory = records.join(level.to_string());
            let view = View::open(&directory, node.parse().unwrap(), Level::NEWEST).unwrap();
            let view = view.get();
            assert_eq!((view.level, view.generation), (Level(level), generation));
            let held = (view.networks.len(), view.containers.len(), view.peers.len());
            assert_eq!(held, (1, 1, 1), "level {level}");
            assert!(
                !view.endpoints.is_empty() && !view.tasks.is_empty(),
                "level {level}"
            );
        }
    }

    #[tokio::test]
    async fn a_view_that_the_disk_does_not_take_is_shown_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        for level in [Level::FIRST, Level::NEWEST] {
            let view = View::open(&missing, NodeId(1), Level::NEWEST).unwrap();
            view.change(change(None, 7, level)).await.unwrap();
            assert_eq!(view.get().generation, 7);
        }
    }

    #[tokio::test]
    async fn whole_copies_survive_a_crash_and_a_spoilt_one_falls_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let view = View::open(path, NodeId(1), Level::NEWEST).unwrap();
        let [newest, kept] = COPIES.map(|name| path.join(name));
        let written = async {
            view.change(change(None, 7, Level::FIRST)).await.unwrap();
            let is_kept = |bytes: String| bytes.contains("\"to\":7");
            while !fs::read_to_string(&kept).is_ok_and(is_kept) {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = view.keep() => {}
            () = written => {}
        }
        view.change(change(Some(7), 8, Level::FIRST)).await.unwrap();
        assert_eq!(generation(path), 8);
        let whole = fs::read(&newest).unwrap();
        for spoilt in [&whole[..whole.len() / 2], b""] {
            fs::write(&newest, spoilt).unwrap();
            assert_eq!(generation(path), 7);
        }
        fs::write(&kept, b"{").unwrap();
        assert_eq!(generation(path), 0);
        View::remove(path).unwrap();
        assert_eq!(fs::read_dir(path).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn changes_are_appended_and_a_torn_one_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let (path, level) = (directory.path(), Level::SHARED_VIEWS);
        fs::write(path.join(COPIES[1]), b"{}").unwrap();
        let log = path.join(LOGS[1]);
        let view = View::open(path, NodeId(1), Level::NEWEST).unwrap();
        let written = async {
            view.change(change(None, 3, level)).await.unwrap();
            assert_eq!(generation(path), 3);
            while path.join(COPIES[1]).exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = view.keep() => {}
            () = written => {}
        }
        assert!(!path.join(LOGS[0]).exists());
        let snapshot = fs::read(&log).unwrap();
        for to in 4..8 {
            view.change(change(Some(to - 1), to, level)).await.unwrap();
        }
        let whole = fs::read(&log).unwrap();
        assert!(whole.starts_with(&snapshot));
        assert_eq!(generation(path), 7);
        for length in (snapshot.len()..whole.len()).step_by(7) {
            fs::write(&log, &whole[..length]).unwrap();
            assert!((3..7).contains(&generation(path)));
        }
        // What comes after a restart is readable, whatever the end of the file was.
        let view = View::open(path, NodeId(1), Level::NEWEST).unwrap();
        let from = view.get().generation;
        view.change(change(Some(from), 9, level)).await.unwrap();
        assert_eq!(generation(path), 9);
    }

    #[tokio::test]
    async fn a_log_that_outgrows_its_snapshot_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let view = View::open(directory.path(), NodeId(1), Level::NEWEST).unwrap();
        let (level, log) = (Level::SHARED_VIEWS, directory.path().join(LOGS[0]));
        view.change(change(None, 1, level)).await.unwrap();
        let mut before = 0;
        let mut to = 1;
        loop {
            to += 1;
            view.change(change(Some(to - 1), to, level)).await.unwrap();
            let now = fs::metadata(&log).unwrap().len();
            if now < before {
                break;
            }
            before = now;
        }
        assert!(before > log::LEAST as u64 / 2);
        assert_eq!(generation(directory.path()), to);
    }

    #[test]
    fn a_log_of_a_later_version_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let record = level::seal(Level(9), b"{}".to_vec());
        Log::begin(&directory.path().join(LOGS[1]), &record).unwrap();
        let opened = View::open(directory.path(), NodeId(1), Level::NEWEST);
        assert!(opened.is_err());
    }
}
