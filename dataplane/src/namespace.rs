//! Named network namespaces as of `ip netns`: an nsfs mount below `NAMESPACE_DIRECTORY`. `setns` is
//! per thread: work inside a namespace takes its own thread there and back.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    process,
};

use model::names::{NAMESPACE_DIRECTORY, Namespace};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{NSFS_MAGIC, statfs},
};
use tracing::error;

/// Tells two namespaces apart that had the same name one after the other: the inode of nsfs.
pub type Identity = u64;

/// Runs `work` inside the named namespace. Sockets made there stay in it wherever they are used.
/// Errors: there is no such namespace, or it cannot be entered.
pub fn within<R>(namespace: &str, work: impl FnOnce() -> R) -> io::Result<R> {
    within_file(&File::open(path(namespace))?, work)
}

/// As [`within`], for an open namespace file.
pub fn within_file<R>(namespace: &File, work: impl FnOnce() -> R) -> io::Result<R> {
    away(|| {
        enter(namespace)?;
        Ok(work())
    })
}

/// The namespace of the calling thread.
pub fn current() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

/// Makes one without a name: it lasts as long as somebody has it open.
pub fn unnamed() -> io::Result<File> {
    away(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        current()
    })
}

/// Takes the calling thread into a namespace. Nothing brings it back, unless it is [`away`].
pub fn enter(namespace: &File) -> io::Result<()> {
    Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?)
}

/// Runs `work`, which may take the calling thread into namespaces, and brings it back.
// A thread of its own would do the same, and costs more than all that is done there.
pub fn away<R>(work: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
    let _home = Home(current()?);
    work()
}

/// Where a thread belongs.
struct Home(File);

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = enter(&self.0) {
            // It would go on in a namespace that is another's.
            error!(%error, "a thread cannot return to its network namespace");
            process::abort();
        }
    }
}

/// Opens a namespace of ours, with its identity.
pub fn open(namespace: Namespace) -> io::Result<(File, Identity)> {
    let file = File::open(path(&namespace.name()))?;
    let identity = file.metadata()?.ino();
    Ok((file, identity))
}

/// The namespaces that are ours by name and really are namespaces.
pub fn list() -> io::Result<BTreeMap<Namespace, Identity>> {
    let entries = match fs::read_dir(NAMESPACE_DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries?,
    };
    let file_system = file_system()?;
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        let Some(namespace) = entry.file_name().to_str().and_then(Namespace::parse) else {
            continue;
        };
        // Gone between the two calls, or the bare file of a creation that was cut short.
        let Ok(metadata) = fs::metadata(entry.path()) else {
            continue;
        };
        if metadata.dev() == file_system {
            found.insert(namespace, metadata.ino());
        }
    }
    Ok(found)
}

/// The one of this name; `None` where its file is no namespace. Errors: there is no such file.
pub fn identity(namespace: Namespace) -> io::Result<Option<Identity>> {
    let metadata = fs::metadata(path(&namespace.name()))?;
    let is_namespace = metadata.dev() == file_system()?;
    Ok(is_namespace.then(|| metadata.ino()))
}

/// That of namespaces.
fn file_system() -> io::Result<u64> {
    Ok(current()?.metadata()?.dev())
}

/// Makes a namespace. One that is there already stays.
pub fn create(name: &str) -> io::Result<()> {
    give_name(name, || Ok(unshare(CloneFlags::CLONE_NEWNET)?))
}

/// Gives a namespace that lost its name the name back. One that is there already stays.
pub fn restore(name: &str, namespace: &File) -> io::Result<()> {
    give_name(name, || enter(namespace))
}

/// Names the namespace that `go` takes its thread to.
fn give_name(name: &str, go: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    share_directory()?;
    let path = path(name);
    if is_namespace(&path) {
        return Ok(());
    }
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o000)
        .open(&path)?;
    away(|| {
        go()?;
        bind(
            Path::new("/proc/thread-self/ns/net"),
            &path,
            MsFlags::MS_BIND,
        )
    })
}

/// Takes a namespace's name away; the kernel removes it once no process or socket is in it. Absent
/// is fine.
pub fn remove(name: &str) -> io::Result<()> {
    let path = path(name);
    unmount(&path)?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn path(name: &str) -> PathBuf {
    Path::new(NAMESPACE_DIRECTORY).join(name)
}

/// Whether a namespace is mounted there.
pub(crate) fn is_namespace(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

/// Makes the directory a shared mount, as iproute2 does: names appear and vanish in every mount
/// namespace alike, and no copy elsewhere keeps an unmounted namespace busy.
fn share_directory() -> io::Result<()> {
    let directory = Path::new(NAMESPACE_DIRECTORY);
    fs::create_dir_all(directory)?;
    let share = || {
        mount(
            None::<&str>,
            directory,
            None::<&str>,
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            None::<&str>,
        )
    };
    match share() {
        Err(Errno::EINVAL) => {
            let covered = File::open(directory)?;
            let spreads = is_shared(&covered)?;
            bind(directory, directory, MsFlags::MS_BIND | MsFlags::MS_REC)?;
            share()?;
            // With propagation an unmount above also unmounts below, and vice versa.
            if spreads {
                Ok(())
            } else {
                unmount_below(&covered)
            }
        }
        shared => Ok(shared?),
    }
}

/// Unmounts the namespaces of others that now lie below a copy of themselves: as long as they did
/// their files would be busy, and containerd's pods could not be stopped.
fn unmount_below(covered: &File) -> io::Result<()> {
    let directory = PathBuf::from(format!("/proc/self/fd/{}", covered.as_raw_fd()));
    for entry in fs::read_dir(&directory)? {
        unmount(&directory.join(entry?.file_name()))?;
    }
    Ok(())
}

/// Whether the mount that this was opened in is a shared one (proc(5), "mountinfo").
fn is_shared(file: &File) -> io::Result<bool> {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let id = about
        .lines()
        .find_map(|line| line.strip_prefix("mnt_id:"))
        .unwrap_or_default()
        .trim();
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mount = mounts
        .lines()
        .find(|line| line.split(' ').next() == Some(id));
    let fields = mount
        .into_iter()
        .flat_map(|line| line.split(' ').skip(6))
        .take_while(|field| *field != "-");
    Ok(fields.into_iter().any(|field| field.starts_with("shared:")))
}

/// Takes every namespace off a file: more than one mount may lie there where several daemons raced.
fn unmount(path: &Path) -> io::Result<()> {
    while is_namespace(path) {
        umount2(path, MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

fn bind(from: &Path, to: &Path, flags: MsFlags) -> io::Result<()> {
    Ok(mount(Some(from), to, None::<&str>, flags, None::<&str>)?)
}
