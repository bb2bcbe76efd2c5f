//! Confinement of a task's processes: Docker's default capabilities, and no_new_privs.

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;

use super::error::{Doing, TaskError};

/// Docker's default set (moby `oci/caps/defaults.go`).
const KEPT: [Capability; 14] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FSETID,
    Capability::CAP_FOWNER,
    Capability::CAP_MKNOD,
    Capability::CAP_NET_RAW,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETPCAP,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_KILL,
    Capability::CAP_AUDIT_WRITE,
];

/// Gives up all but [`KEPT`], for the calling thread and what it starts, for good.
pub(crate) fn confine() -> Result<(), TaskError> {
    drop_capabilities()
        .map_err(|reason| TaskError::refused(format!("cannot drop capabilities: {reason}")))?;
    prctl::set_no_new_privs().doing(|| "set no_new_privs".to_owned())
}

fn drop_capabilities() -> Result<(), caps::errors::CapsError> {
    let kept = CapsHashSet::from(KEPT);
    for capability in caps::all().difference(&kept) {
        // An error means that this kernel does not know the capability: nobody can have it.
        if caps::has_cap(None, CapSet::Bounding, *capability).unwrap_or(false) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    let permitted = caps::read(None, CapSet::Permitted)?
        .intersection(&kept)
        .copied()
        .collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &permitted)?;
    caps::set(None, CapSet::Permitted, &permitted)
}
