//! Confinement of a task's processes: keys of their own, Docker's default capabilities,
//! no_new_privs, and Docker's default system calls.

use std::io;

use caps::{CapSet, Capability, CapsHashSet};
use keyutils::Keyring;
use nix::{errno::Errno, sys::prctl};

use super::{
    error::{Doing, TaskError},
    seccomp,
};

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
    leave_the_keyring().doing(|| "make a keyring of the task's own".to_owned())?;
    drop_capabilities()
        .map_err(|reason| TaskError::refused(format!("cannot drop capabilities: {reason}")))?;
    prctl::set_no_new_privs().doing(|| "set no_new_privs".to_owned())?;
    seccomp::filter_system_calls()
}

/// The daemon's session keyring, or that of who started it, may hold keys of Kerberos or of file
/// systems, which the kernel would use for the task.
fn leave_the_keyring() -> io::Result<()> {
    match Keyring::join_anonymous_session() {
        Ok(_) => Ok(()),
        // A kernel without keys, or a host of netd that gives them to nobody.
        Err(errno) if [Errno::ENOSYS as i32, Errno::EPERM as i32].contains(&errno.0) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
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

#[cfg(test)]
mod tests {
    use keyutils::SpecialKeyring;

    use super::*;

    #[test]
    fn the_keyring_of_the_session_is_left() {
        let session = || Keyring::attach(SpecialKeyring::Session).unwrap();
        let before = session();
        leave_the_keyring().unwrap();
        assert_ne!(session(), before);
    }
}
