//! Values below /proc/sys, of the network namespace that the calling thread is in.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

const ROOT: &str = "/proc/sys";
const IPV6_LINKS: &str = "/proc/sys/net/ipv6/conf";

/// Turns a host that listens to router advertisements away from them (see [`keep_router_advertisements`]).
pub const IPV6_FORWARDING: &str = "net/ipv6/conf/all/forwarding";

/// An instance of /proc: one finds the values of all namespaces under the same names, one after the other, so that a
/// look-up in the machine's own takes the longer the more namespaces have been looked at.
pub struct Tree {
    root: PathBuf,
    /// Keeps the instance.
    _mount: Option<OwnedFd>,
}

impl Tree {
    /// A fresh one; the machine's own where none can be had (Linux before 5.8 has one for all).
    pub fn fresh() -> Self {
        match mount() {
            Ok(mount) => {
                Self { root: format!("/proc/thread-self/fd/{}/sys", mount.as_raw_fd()).into(), _mount: Some(mount) }
            }
            Err(_) => Self { root: ROOT.into(), _mount: None },
        }
    }

    /// The value, without the line's end; `None` where it cannot be read, because its link or the feature is absent.
    pub fn read(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.root.join(path)).ok()?;
        Some(text.trim_end().to_owned())
    }

    /// Writes a value.
    pub fn write(&self, path: &str, value: &str) -> io::Result<()> {
        fs::write(self.root.join(path), value)
    }
}

/// At no place of the file system: it is gone with its descriptor.
fn mount() -> io::Result<OwnedFd> {
    let proc = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&proc)?;
    Ok(fsmount(&proc, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

/// Links that take router advertisements go on doing so when the host forwards: 1 means "unless forwarding", 2 means
/// always (Linux, Documentation/networking/ip-sysctl.rst). A host that got its address so would lose it otherwise.
pub fn keep_router_advertisements() -> io::Result<()> {
    for link in fs::read_dir(IPV6_LINKS)? {
        let value = link?.path().join("accept_ra");
        if fs::read_to_string(&value).is_ok_and(|text| text.trim_end() == "1") {
            fs::write(&value, "2")?;
        }
    }
    Ok(())
}
