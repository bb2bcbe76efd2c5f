//! A node's view, in memory and on disk. It is written to the page cache before it is used, and
//! fsynced soon after. A power cut may lose the last view, but it also wipes the kernel state that
//! the view described.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use model::{Level, NodeConfig, NodeId, RecordError, level};
use tokio::sync::watch;

use crate::{ClusterError, files};

/// The newest view, which a power cut may damage, and the newest fsynced one.
const FILES: [&str; 2] = ["view.new.json", "view.json"];

/// This node's view.
pub struct View {
    directory: PathBuf,
    current: watch::Sender<Arc<NodeConfig>>,
    /// The disk did not take the last one.
    unsaved: AtomicBool,
}

impl View {
    /// The newest view of the files. Without one, or with none that can be understood, an empty
    /// one: they are only copies, and the leader sends another. Errors: the disk's, and a file that
    /// a later version wrote.
    pub fn open(directory: &Path, node: NodeId, known: Level) -> Result<Self, ClusterError> {
        let mut view = NodeConfig::empty(node);
        for path in FILES.map(|name| directory.join(name)) {
            let Some(bytes) = files::read(&path)? else {
                continue;
            };
            let opened = level::open(&path.display().to_string(), &bytes, known);
            if let Err(RecordError::TooNew(error)) = opened {
                return Err(error.into());
            }
            let body = opened.map_err(|error| error.to_string());
            match body.and_then(|(_, body)| parse(node, body)) {
                Ok(saved) if saved.generation >= view.generation => view = saved,
                Ok(_) => {}
                Err(reason) => {
                    tracing::warn!(path = %path.display(), reason,
                        "a copy of this node's view is lost")
                }
            }
        }
        let current = watch::Sender::new(Arc::new(view));
        Ok(Self {
            directory: directory.to_owned(),
            current,
            unsaved: AtomicBool::new(false),
        })
    }

    /// Removes what is on disk.
    pub fn remove(directory: &Path) -> Result<(), ClusterError> {
        FILES
            .iter()
            .try_for_each(|name| files::remove(&directory.join(name)))
    }

    pub fn get(&self) -> Arc<NodeConfig> {
        self.current.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<Arc<NodeConfig>> {
        self.current.subscribe()
    }

    /// Publishes the view once it is written. If the disk is full the view is published all the
    /// same, and a restart begins from an older one.
    pub async fn set(&self, view: NodeConfig) {
        let view = Arc::new(view);
        self.write(FILES[0], view.clone(), files::hand_over).await;
        self.current.send_replace(view);
    }

    /// Has the disk keep each view, or the one after it, until dropped.
    pub async fn keep(&self) {
        let mut changes = self.watch();
        changes.mark_changed();
        while changes.changed().await.is_ok() {
            let view = changes.borrow_and_update().clone();
            self.write(FILES[1], view, files::write).await;
        }
    }

    async fn write(
        &self,
        name: &str,
        view: Arc<NodeConfig>,
        write: impl FnOnce(&Path, &[u8]) -> Result<(), ClusterError> + Send + 'static,
    ) {
        let path = self.directory.join(name);
        let written = tokio::task::spawn_blocking(move || {
            let body = serde_json::to_vec(&view.snapshot()).map_err(|error| error.to_string())?;
            write(&path, &level::seal(view.level, body)).map_err(|error| error.to_string())
        });
        let reason = written
            .await
            .map_err(|error| error.to_string())
            .flatten()
            .err();
        let failed_before = self.unsaved.swap(reason.is_some(), Ordering::Relaxed);
        match reason {
            Some(reason) if !failed_before => {
                tracing::warn!(reason, "this node's view is not kept on its disk")
            }
            None if failed_before => tracing::info!("this node's view is kept on its disk again"),
            _ => {}
        }
    }
}

fn parse(node: NodeId, bytes: &[u8]) -> Result<NodeConfig, String> {
    let snapshot = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    NodeConfig::empty(node)
        .apply(&snapshot)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn of_generation(generation: u64) -> NodeConfig {
        NodeConfig {
            generation,
            ..NodeConfig::empty(NodeId(1))
        }
    }

    #[tokio::test]
    async fn a_view_that_the_disk_does_not_take_is_shown_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let view = View::open(&directory.path().join("missing"), NodeId(1), Level::NEWEST).unwrap();
        view.set(of_generation(7)).await;
        assert_eq!(*view.get(), of_generation(7));
    }

    #[tokio::test]
    async fn a_view_survives_a_crash_and_a_spoilt_one_falls_back() {
        let directory = tempfile::tempdir().unwrap();
        let opened = || View::open(directory.path(), NodeId(1), Level::NEWEST).unwrap();
        let generation = || opened().get().generation;
        let view = opened();
        let [newest, kept] = FILES.map(|name| directory.path().join(name));
        let written = async {
            view.set(of_generation(7)).await;
            let is_kept = || {
                fs::read(&kept).is_ok_and(|bytes| parse(NodeId(1), &bytes) == Ok(of_generation(7)))
            };
            while !is_kept() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = view.keep() => {}
            () = written => {}
        }
        view.set(of_generation(8)).await;
        assert_eq!(generation(), 8);
        let whole = fs::read(&newest).unwrap();
        for spoilt in [&whole[..whole.len() / 2], b""] {
            fs::write(&newest, spoilt).unwrap();
            assert_eq!(generation(), 7);
        }
        fs::write(&kept, b"{").unwrap();
        assert_eq!(*opened().get(), NodeConfig::empty(NodeId(1)));
        View::remove(directory.path()).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
