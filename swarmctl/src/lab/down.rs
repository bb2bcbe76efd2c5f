//! `lab down`: removes everything of a lab, whatever its state, and nothing else.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};

use super::{cgroup, place::Place, processes};
use crate::output;

/// Removes a lab. There being none is no failure.
pub(crate) fn down(place: &Place) -> Result<()> {
    let _lock = place.lock()?;
    let there = place.exists() || !processes::of(&place.lab)?.is_empty();
    clear(place)?;
    output::print(&if there {
        format!("lab {} is gone", place.lab)
    } else {
        format!("there is no lab {}", place.lab)
    })
}

/// Removes whatever there is of a lab. The caller holds its lock.
pub(crate) fn clear(place: &Place) -> Result<()> {
    loop {
        let processes = processes::of(&place.lab)?;
        if processes.is_empty() {
            break;
        }
        // A process that was booting may have started another one meanwhile.
        processes::end(&processes)?;
    }
    cgroup::remove(&place.lab, None)?;
    // The lab mounts nothing outside its own namespaces. What someone else mounted here must not be
    // emptied.
    for mount in mounts_below(&[place.runtime(), place.disks()])? {
        umount2(&mount, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            .with_context(|| format!("unmounting {}", mount.display()))?;
    }
    place.remove()
}

/// Mount points below these directories, the innermost first.
fn mounts_below(directories: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let table =
        fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    let points = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(Path::new);
    let mut below: Vec<_> = points
        .filter(|point| {
            directories
                .iter()
                .any(|directory| point.starts_with(directory))
        })
        .collect();
    below.reverse();
    Ok(below.into_iter().map(Path::to_owned).collect())
}
