//! Where a lab keeps its files: logs below /run, disks below /var/lib.

use std::{
    fs::{self, File, TryLockError},
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use model::{Kind, Refusal};

use super::{HostName, LabName};

const RUNTIME: &str = "/run/netd-lab";
/// Every lab's disks.
pub(crate) const DISKS: &str = "/var/lib/netd-lab";

/// A lab's files.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The lab.
    pub lab: LabName,
}

impl Place {
    /// The files of this lab.
    pub(crate) fn of(lab: LabName) -> Self {
        Self { lab }
    }

    /// Every lab that has a directory.
    pub(crate) fn all() -> Result<Vec<Self>> {
        let mut labs: Vec<LabName> =
            [entries(Path::new(RUNTIME))?, entries(Path::new(DISKS))?].concat();
        labs.sort();
        labs.dedup();
        Ok(labs.into_iter().map(Self::of).collect())
    }

    /// Logs; gone after a reboot of the machine.
    pub(crate) fn runtime(&self) -> PathBuf {
        Path::new(RUNTIME).join(self.lab.to_string())
    }

    /// What survives a power cut.
    pub(crate) fn disks(&self) -> PathBuf {
        Path::new(DISKS).join(self.lab.to_string())
    }

    /// A host's /var/lib/netd.
    pub(crate) fn disk(&self, host: HostName) -> PathBuf {
        self.disks().join(host.to_string())
    }

    /// A host's own [`DISKS`]: of labs inside it.
    pub(crate) fn inner_disks(&self, host: HostName) -> PathBuf {
        self.disks().join("labs").join(host.to_string())
    }

    /// What the hosts find in /usr/local/bin on top of the machine's own.
    pub(crate) fn binaries(&self) -> PathBuf {
        self.disks().join("bin")
    }

    /// What a host has instead of those: `netd`, or nothing.
    pub(crate) fn own_binaries(&self, host: HostName) -> PathBuf {
        self.disks().join("own").join(host.to_string())
    }

    /// A host's netd writes here.
    pub(crate) fn log(&self, host: HostName) -> PathBuf {
        self.runtime().join(host.to_string()).join("netd.log")
    }

    /// The switch writes here.
    pub(crate) fn switch_log(&self) -> PathBuf {
        self.runtime().join("switch.log")
    }

    /// The hosts that it has, powered on or not.
    pub(crate) fn hosts(&self) -> Result<Vec<HostName>> {
        let mut hosts: Vec<HostName> = entries(&self.disks())?;
        hosts.sort();
        Ok(hosts)
    }

    /// Refuses a host that the lab does not have.
    pub(crate) fn expect(&self, host: HostName) -> Result<()> {
        let found = self.hosts()?.contains(&host);
        let cause = format!("lab {} has no host {host}", self.lab);
        if found {
            Ok(())
        } else {
            Err(Refusal::new(
                Kind::NotFound,
                cause,
                "`swarmctl lab ls` lists what there is",
            )
            .into())
        }
    }

    /// Whether anything of it is on disk.
    pub(crate) fn exists(&self) -> bool {
        self.runtime().exists() || self.disks().exists()
    }

    /// Keeps other commands from changing this lab, until dropped. Waits for those that are at it.
    pub(crate) fn lock(&self) -> Result<File> {
        let path = self.lock_path();
        loop {
            fs::create_dir_all(RUNTIME).with_context(|| format!("making {RUNTIME}"))?;
            let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    eprintln!(
                        "another command is at work on lab {}: waiting for it",
                        self.lab
                    );
                    file.lock()
                        .with_context(|| format!("locking {}", path.display()))?;
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("locking {}", path.display()));
                }
            }
            // `lab down` removes the file while it holds the lock: then this lock keeps nobody out.
            if fs::metadata(&path)
                .is_ok_and(|there| file.metadata().is_ok_and(|ours| there.ino() == ours.ino()))
            {
                return Ok(file);
            }
        }
    }

    /// Removes every file of the lab. The caller holds its lock.
    pub(crate) fn remove(&self) -> Result<()> {
        for directory in [self.runtime(), self.disks()] {
            match fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("removing {}", directory.display()));
                }
                _ => {}
            }
        }
        fs::remove_file(self.lock_path())
            .with_context(|| format!("removing {}", self.lock_path().display()))
    }

    fn lock_path(&self) -> PathBuf {
        // No lab's name holds a dot.
        Path::new(RUNTIME).join(format!("{}.lock", self.lab))
    }
}

/// The entries of a directory whose names parse; none where there is no directory.
fn entries<T: std::str::FromStr>(directory: &Path) -> Result<Vec<T>> {
    let listing = match fs::read_dir(directory) {
        Ok(listing) => listing,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("reading {}", directory.display()));
        }
    };
    Ok(listing
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect())
}
