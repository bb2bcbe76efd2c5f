//! Which namespaces of ours there are. A directory of thousands takes milliseconds to list, so
//! inotify(7) tells what has come and gone in between. It does not tell of mounts: after any of the
//! machine's mounts has changed (proc(5), "mountinfo") the directory is listed, at the pace of what
//! is read in turn.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    os::fd::AsFd,
    sync::Arc,
    time::Instant,
};

use model::names::{NAMESPACE_DIRECTORY, Namespace};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent},
};

use super::{
    namespace::{self, Identity},
    turn::Turn,
};

/// The mounts that the calling thread sees.
const MOUNTS: &str = "/proc/thread-self/mountinfo";

/// The namespaces of ours, each with its identity.
pub(crate) type Present = BTreeMap<Namespace, Identity>;

/// Keeps the list.
#[derive(Default)]
pub(crate) struct Listing {
    watch: Option<Inotify>,
    present: Arc<Present>,
    /// Named files that are no namespaces: a namespace is mounted after its file is made.
    unfinished: BTreeSet<Namespace>,
    mounts: Option<File>,
    /// Whether mounts have changed since the directory was listed.
    remounted: bool,
    turn: Turn,
}

impl Listing {
    /// Those that there are now, as far as the kernel tells.
    pub(crate) fn present(&mut self) -> io::Result<Arc<Present>> {
        match self.heard() {
            Some(named) if !self.is_due() => self.look_at(named),
            _ => self.list()?,
        }
        Ok(self.present.clone())
    }

    /// All are listed the next time.
    pub(crate) fn doubt(&mut self) {
        self.watch = None;
    }

    fn is_due(&mut self) -> bool {
        self.remounted |= self.mounts.as_ref().is_none_or(have_changed);
        self.remounted && self.turn.is_due()
    }

    fn list(&mut self) -> io::Result<()> {
        let start = Instant::now();
        // What happens from here on is told.
        if self.mounts.is_none() {
            self.mounts = File::open(MOUNTS).ok();
        }
        self.remounted = self.mounts.is_none();
        if self.watch.is_none() {
            self.watch = watch();
        }
        let found = namespace::list()?;
        self.unfinished.clear();
        if *self.present != found {
            self.present = Arc::new(found);
        }
        self.turn.took(start.elapsed());
        Ok(())
    }

    fn look_at(&mut self, named: BTreeSet<Namespace>) {
        let named: BTreeSet<Namespace> = named
            .into_iter()
            .chain(std::mem::take(&mut self.unfinished))
            .collect();
        for namespace in named {
            match namespace::identity(namespace) {
                Ok(Some(identity)) if self.present.get(&namespace) == Some(&identity) => {}
                Ok(Some(identity)) => {
                    Arc::make_mut(&mut self.present).insert(namespace, identity);
                }
                found => {
                    if found.is_ok() {
                        self.unfinished.insert(namespace);
                    }
                    if self.present.contains_key(&namespace) {
                        Arc::make_mut(&mut self.present).remove(&namespace);
                    }
                }
            }
        }
    }

    /// What has been named since the last call; `None` where nothing tells, or not all.
    fn heard(&mut self) -> Option<BTreeSet<Namespace>> {
        let mut named = BTreeSet::new();
        loop {
            match self.watch.as_ref()?.read_events() {
                Ok(events) if events.iter().all(tells_name) => {
                    let names = events
                        .iter()
                        .filter_map(|event| event.name.as_ref()?.to_str());
                    named.extend(names.filter_map(Namespace::parse));
                }
                Err(Errno::EAGAIN) => return Some(named),
                // Some were lost, or the directory is another.
                Ok(_) | Err(_) => {
                    self.watch = None;
                    return None;
                }
            }
        }
    }
}

/// Whether mounts have changed since this was asked last; where nobody tells, they may have.
fn have_changed(mounts: &File) -> bool {
    let asked = PollFd::new(mounts.as_fd(), PollFlags::POLLPRI);
    poll(&mut [asked], PollTimeout::ZERO).map_or(true, |changed| changed > 0)
}

fn tells_name(event: &InotifyEvent) -> bool {
    let lost = AddWatchFlags::IN_Q_OVERFLOW
        | AddWatchFlags::IN_IGNORED
        | AddWatchFlags::IN_UNMOUNT
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF;
    !event.mask.intersects(lost)
}

/// Where there is no directory yet, or no watch to be had, each call lists.
fn watch() -> Option<Inotify> {
    let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok()?;
    let named = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR;
    watch.add_watch(NAMESPACE_DIRECTORY, named).ok()?;
    Some(watch)
}
