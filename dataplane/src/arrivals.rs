//! Network namespaces of containers that are yet to come. Docker Engine before 28 makes a
//! container's after netd was asked for its device, and starts the container within some 100 ms:
//! inotify(7) tells as soon as the file is made that the namespace is mounted on.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
};
use tokio::{io::unix::AsyncFd, time::sleep};
use tracing::debug;

use super::namespace::is_namespace;

/// How long a file may stay without its namespace. Inotify does not tell of mounts.
const MOUNTED: Duration = Duration::from_secs(1);
/// Interval at which it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(1);

/// The paths that are waited for.
#[derive(Default)]
pub(crate) struct Arrivals {
    watch: Option<Watch>,
    paths: BTreeSet<PathBuf>,
    /// Those whose files are there, and until when a namespace is expected on them.
    begun: BTreeMap<PathBuf, Instant>,
}

struct Watch {
    inotify: AsyncFd<Descriptor>,
    directories: BTreeMap<PathBuf, WatchDescriptor>,
}

struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Arrivals {
    /// Waits for namespaces at these paths, and no others. On a thread with a tokio runtime.
    pub(crate) fn expect(&mut self, paths: BTreeSet<PathBuf>) {
        self.begun.retain(|path, _| paths.contains(path));
        self.paths = paths;
        if self.paths.is_empty() {
            self.watch = None;
            return;
        }
        if let Err(error) = self.follow() {
            debug!(%error, "namespaces of containers are looked for at intervals only");
            self.watch = None;
        }
        self.look();
    }

    /// Watches the directories of all paths; where one is missing, the nearest above it.
    // `AsyncFd::register` is unsafe for what it asks: that the descriptor stays its owner's. It
    // does: nothing takes it out of `Descriptor`.
    #[allow(deprecated)]
    fn follow(&mut self) -> io::Result<()> {
        let watch = match &mut self.watch {
            Some(watch) => watch,
            none => {
                let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
                none.insert(Watch {
                    inotify: AsyncFd::new(Descriptor(inotify))?,
                    directories: BTreeMap::new(),
                })
            }
        };
        let directories: BTreeSet<PathBuf> = self
            .paths
            .iter()
            .filter_map(|path| existing(path))
            .collect();
        let inotify = &watch.inotify.get_ref().0;
        watch.directories.retain(|directory, descriptor| {
            let stays = directories.contains(directory);
            if !stays {
                // One that is gone is not watched any more.
                let _ = inotify.rm_watch(*descriptor);
            }
            stays
        });
        for directory in directories {
            let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
            let descriptor = inotify.add_watch(&directory, flags)?;
            watch.directories.insert(directory, descriptor);
        }
        Ok(())
    }

    /// Notes the files that are there.
    fn look(&mut self) {
        for path in self.paths.iter().filter(|path| path.exists()) {
            let until = Instant::now() + MOUNTED;
            self.begun.entry(path.clone()).or_insert(until);
        }
    }

    /// Completes when one of them may be there. Cancel-safe.
    pub(crate) async fn arrived(&mut self) {
        loop {
            let now = Instant::now();
            let there = self.begun.keys().find(|path| is_namespace(path)).cloned();
            if let Some(path) = there {
                self.begun.remove(&path);
                return;
            }
            if self.begun.values().any(|until| now < *until) {
                sleep(LOOK).await;
                continue;
            }
            let Some(watch) = &self.watch else {
                return std::future::pending().await;
            };
            let Ok(mut ready) = watch.inotify.readable().await else {
                return std::future::pending().await;
            };
            let heard = watch.inotify.get_ref().0.read_events();
            if matches!(heard, Err(Errno::EAGAIN)) {
                ready.clear_ready();
                continue;
            }
            drop(ready);
            let found = self.begun.len();
            self.begun.retain(|_, until| now < *until);
            self.look();
            // A directory above is there now: it is to be watched.
            if self.begun.len() <= found && self.follows_above() {
                return;
            }
        }
    }

    fn follows_above(&self) -> bool {
        let watched = self.watch.iter().flat_map(|watch| watch.directories.keys());
        let watched: BTreeSet<&Path> = watched.map(PathBuf::as_path).collect();
        let mut parents = self.paths.iter().filter_map(|path| path.parent());
        parents.any(|parent| !watched.contains(parent))
    }
}

/// The nearest directory above a path that there is.
fn existing(path: &Path) -> Option<PathBuf> {
    let above = path.ancestors().skip(1);
    let mut there = above.filter(|directory| directory.is_dir());
    there.next().map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_namespace_is_heard_of_wherever_its_directory_is() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("docker/netns/one");
        let mut arrivals = Arrivals::default();
        arrivals.expect(BTreeSet::from([path.clone()]));
        let early = tokio::time::timeout(Duration::from_millis(50), arrivals.arrived());
        assert!(early.await.is_err(), "nothing has come");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        arrivals.arrived().await;
        arrivals.expect(BTreeSet::from([path.clone()]));
        let made = std::fs::File::create(&path);
        made.unwrap();
        let bare = tokio::time::timeout(Duration::from_millis(50), arrivals.arrived());
        assert!(bare.await.is_err(), "a bare file is no namespace");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/proc/self/ns/net", &path).unwrap();
        arrivals.arrived().await;
    }
}
