//! Sysctls of the calling thread's network namespace.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

const ROOT: &str = "/proc/sys";
/// No number is longer, in bytes.
const LONGEST: usize = 32;
const IPV6_LINKS: &str = "/proc/sys/net/ipv6/conf";

/// Turns a host that listens to router advertisements away from them (see
/// [`keep_router_advertisements`]).
pub(crate) const IPV6_FORWARDING: &str = "net/ipv6/conf/all/forwarding";

/// Namespaces whose values are read or written in one instance of /proc.
const NAMESPACES_PER_TREE: usize = 32;

/// Instances of /proc, one after the other. In one that lasts, such as the machine's, the values of
/// all namespaces have the same names, so a look-up takes the longer the more namespaces were read.
#[derive(Default)]
pub(crate) struct Trees {
    tree: Option<Tree>,
    /// Namespaces that it has been used for.
    visits: usize,
}

impl Trees {
    /// The one for the values of the next namespace.
    pub(crate) fn next(&mut self) -> io::Result<&Tree> {
        if self.visits >= NAMESPACES_PER_TREE {
            *self = Self::default();
        }
        self.visits += 1;
        match &mut self.tree {
            Some(tree) => Ok(tree),
            none => Ok(none.insert(Tree::fresh()?)),
        }
    }
}

/// An instance of /proc of our own.
pub(crate) struct Tree {
    /// Its directory `sys`.
    root: OwnedFd,
}

impl Tree {
    /// A fresh one; the machine's own where none can be had (Linux before 5.8 has one for all).
    fn fresh() -> io::Result<Self> {
        let own = || open(CWD, ROOT, OFlags::PATH | OFlags::DIRECTORY);
        let root =
            mount().and_then(|proc| open(proc.as_fd(), "sys", OFlags::PATH | OFlags::DIRECTORY));
        Ok(Self {
            root: root.or_else(|_| own())?,
        })
    }

    /// The number; `None` where it cannot be read, because its link or the feature is absent, or is
    /// none.
    pub(crate) fn read(&self, path: &str) -> Option<i64> {
        let file = open(self.root.as_fd(), path, OFlags::RDONLY).ok()?;
        let mut text = [0; LONGEST];
        let length = rustix::io::read(file, &mut text).ok()?;
        str::from_utf8(&text[..length])
            .ok()?
            .trim_end()
            .parse()
            .ok()
    }

    /// Writes a number.
    pub(crate) fn write(&self, path: &str, value: i64) -> io::Result<()> {
        let file = open(self.root.as_fd(), path, OFlags::WRONLY)?;
        Ok(rustix::io::write(file, value.to_string().as_bytes()).map(drop)?)
    }
}

fn open(from: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(openat(from, path, flags | OFlags::CLOEXEC, Mode::empty())?)
}

/// At no place of the file system: it is gone with its descriptor.
fn mount() -> io::Result<OwnedFd> {
    let proc = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&proc)?;
    Ok(fsmount(
        &proc,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?)
}

/// Links that take router advertisements go on doing so when the host forwards: 1 means "unless
/// forwarding", 2 means always (Linux, Documentation/networking/ip-sysctl.rst). A host that got its
/// address so would lose it otherwise.
pub(crate) fn keep_router_advertisements() -> io::Result<()> {
    for link in fs::read_dir(IPV6_LINKS)? {
        let value = link?.path().join("accept_ra");
        if fs::read_to_string(&value).is_ok_and(|text| text.trim_end() == "1") {
            fs::write(&value, "2")?;
        }
    }
    Ok(())
}
