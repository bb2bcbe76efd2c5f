//! Simulated hosts on one machine, each with namespaces, a disk and a netd of its own. All that a
//! lab has in the kernel lives and dies with its processes: one per host, and one that holds the
//! switch between them. Needs root.

mod binary;
mod cable;
mod cgroup;
mod down;
mod enter;
mod host;
mod name;
mod place;
mod power;
mod processes;
mod roster;
mod up;

pub(crate) use cable::switch;
pub(crate) use host::{boot, host};
pub(crate) use name::{HostName, LabName};

use anyhow::Result;
use model::{Kind, Refusal};

use crate::arguments::{Lab, LabVerb};
use place::Place;

/// `lab …`.
pub(crate) fn run(lab: Lab) -> Result<u8> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Refusal::new(
            Kind::Denied,
            "a lab needs root: its hosts are namespaces",
            "repeat it with sudo",
        )
        .into());
    }
    let place = Place::of(lab.name);
    match lab.verb {
        LabVerb::Up {
            hosts,
            managers,
            netd,
            keep,
        } => {
            let incomplete = if keep {
                up::Incomplete::Kept
            } else {
                up::Incomplete::Removed
            };
            up::up(&place, &up::Plan::new(hosts, managers, &netd)?, incomplete)?
        }
        LabVerb::Down => down::down(&place)?,
        LabVerb::Ls { output } => roster::ls(output)?,
        LabVerb::Exec { host, argv } => return enter::exec(&place, host, &argv),
        LabVerb::Kill { host } => power::kill(&place, host)?,
        LabVerb::Start { host } => power::start(&place, host)?,
        LabVerb::Crash { host } => power::crash(&place, host)?,
        LabVerb::Upgrade { host, netd } => power::upgrade(&place, host, &netd)?,
        LabVerb::Logs { host } => roster::logs(&place, host)?,
    }
    Ok(0)
}
