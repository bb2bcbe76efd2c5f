//! Which netd a host runs: the lab's, or one of its own, as another version of the package would
//! install it.

use std::{
    fs::{self, Metadata},
    io::ErrorKind,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use model::{Kind, Refusal};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
};

use super::{HostName, place::Place};

/// Inside a host: the directory of the binaries that are this host's own. What happens to it
/// outside is seen here, too.
pub(crate) const OWN: &str = "/run/lab-binaries";
/// Inside a host: what runs.
pub(crate) const NETD: &str = "/usr/local/bin/netd";

/// A file that can be executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binary(PathBuf);

impl Binary {
    /// Refuses what is no executable file.
    pub(crate) fn at(path: &Path) -> Result<Self> {
        let refuse = |kind, what: &str| {
            let cause = format!("{} {what}", path.display());
            let next = "give the path of a netd, as `cargo build -p netd` makes it";
            Refusal::new(kind, cause, next)
        };
        let found = match fs::canonicalize(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(refuse(Kind::NotFound, "does not exist").into());
            }
            found => found.with_context(|| format!("looking for {}", path.display()))?,
        };
        let metadata =
            fs::metadata(&found).with_context(|| format!("looking at {}", path.display()))?;
        if !metadata.is_file() {
            return Err(refuse(Kind::Invalid, "is no file").into());
        }
        if metadata.permissions().mode() & 0o111 == 0 {
            return Err(refuse(Kind::Invalid, "is not executable").into());
        }
        Ok(Self(found))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A second name where the file system allows it, a copy elsewhere.
    pub(crate) fn copy(&self, to: &Path) -> Result<()> {
        fs::hard_link(&self.0, to)
            .or_else(|_| fs::copy(&self.0, to).map(|_| ()))
            .with_context(|| format!("copying {} to {}", self.0.display(), to.display()))
    }
}

/// Makes this binary a host's netd, from its next start on. The caller holds the lab's lock.
pub(crate) fn give(place: &Place, host: HostName, netd: &Binary) -> Result<()> {
    let directory = place.own_binaries(host);
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    // Another file takes the old one's place at once: its first process may be starting netd now.
    let new = directory.join("netd.new");
    remove(&new)?;
    netd.copy(&new)?;
    fs::rename(&new, directory.join("netd"))
        .with_context(|| format!("replacing netd in {}", directory.display()))?;
    // Two names of one file are left both.
    remove(&new)
}

/// Whether a process of this host runs the binary that was given to it.
pub(crate) fn is_run_by(place: &Place, host: HostName, pid: i32) -> bool {
    let given = fs::metadata(place.own_binaries(host).join("netd"));
    let run = fs::metadata(format!("/proc/{pid}/exe"));
    given.is_ok_and(|given| run.is_ok_and(|run| same(&given, &run)))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// In a host, before its netd starts: lays the host's own netd, if it has one, over the lab's or
/// the one that it had before.
pub(crate) fn lay() -> Result<()> {
    let own = Path::new(OWN).join("netd");
    let Some(metadata) = present(&own)? else {
        return Ok(());
    };
    if present(Path::new(NETD))?.is_some_and(|there| same(&there, &metadata)) {
        return Ok(());
    }
    // Nothing can be mounted over a file that has lost its name, as the one before has. Tasks have
    // mounts of their own.
    match umount2(NETD, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL) => {}
        Err(error) => return Err(error).with_context(|| format!("unmounting {NETD}")),
    }
    mount(
        Some(&own),
        NETD,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .with_context(|| format!("laying the host's own netd over {NETD}"))
}

fn present(path: &Path) -> Result<Option<Metadata>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        found => found
            .map(Some)
            .with_context(|| format!("looking at {}", path.display())),
    }
}

fn same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_executable_file_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("netd");
        let why = |path: &Path| Binary::at(path).unwrap_err().to_string();
        assert!(why(&file).contains("does not exist"), "{}", why(&file));
        assert!(why(directory.path()).contains("is no file"));
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(why(&file).contains("is not executable"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Binary::at(&file).is_ok());
    }
}
