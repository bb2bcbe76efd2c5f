//! Which system calls a task may make: Docker's default profile, as filters of the kernel
//! (seccomp(2)). They are inherited, for good, by whatever the task starts. Without them a task
//! could have all capabilities in a user namespace of its own, and with them netfilter.

use std::{collections::BTreeMap, env::consts::ARCH};

use model::{Failure, Kind};
use nix::errno::Errno;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};
use syscalls::Sysno;

use super::error::TaskError;

/// Names, and comments.
const ALLOWED: &str = include_str!("seccomp.txt");
/// The flags of clone(2) that make namespaces (`include/uapi/linux/sched.h`).
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// Address families whose sockets lead out of the task's network, or into the kernel's
/// cryptography (`include/linux/socket.h`).
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;
/// Execution domains of personality(2): Linux, UNAME26, PER_LINUX32 and both, and the question
/// which one it is.
const PERSONALITIES: [u64; 5] = [0, 0x2_0000, 0x8, 0x2_0008, 0xffff_ffff];

/// Rules by the number of a system call; none means always.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Confines the calling thread and what it starts. Sets no_new_privs, too.
pub(super) fn filter_system_calls() -> Result<(), TaskError> {
    for filter in filters().map_err(refused)? {
        seccompiler::apply_filter(&filter).map_err(refused)?;
    }
    Ok(())
}

fn refused(reason: impl std::fmt::Display) -> TaskError {
    let cause = format!("cannot filter the task's system calls: {reason}");
    let next = "boot a kernel with CONFIG_SECCOMP_FILTER there";
    TaskError::Refused(Failure::new(Kind::Precondition, cause, next))
}

/// In the order of their installation: where two refuse a call, the later one says with what.
fn filters() -> Result<[BpfProgram; 2], BackendError> {
    let missing = SeccompAction::Errno(Errno::ENOSYS as u32);
    let denied = SeccompAction::Errno(Errno::EPERM as u32);
    // Its flags are in memory, which no filter can read. libc then uses clone.
    let unreadable = Rules::from([(Sysno::clone3.id().into(), Vec::new())]);
    let program = |rules, others, listed| -> Result<BpfProgram, BackendError> {
        SeccompFilter::new(rules, others, listed, ARCH.try_into()?)?.try_into()
    };
    Ok([
        program(allowed()?, denied, SeccompAction::Allow)?,
        program(unreadable, SeccompAction::Allow, missing)?,
    ])
}

fn allowed() -> Result<Rules, BackendError> {
    let mut rules: Rules = listed()
        .map(|call| (i64::from(call.id()), Vec::new()))
        .collect();
    let makes_no_namespace = argument(SeccompCmpOp::MaskedEq(NEW_NAMESPACES), 0)?;
    let conditional = [
        (
            Sysno::clone,
            vec![SeccompRule::new(vec![makes_no_namespace])?],
        ),
        (
            Sysno::socket,
            vec![SeccompRule::new(vec![
                argument(SeccompCmpOp::Ne, AF_ALG)?,
                argument(SeccompCmpOp::Ne, AF_VSOCK)?,
            ])?],
        ),
        (
            Sysno::personality,
            PERSONALITIES
                .iter()
                .map(|&domain| SeccompRule::new(vec![argument(SeccompCmpOp::Eq, domain)?]))
                .collect::<Result<_, _>>()?,
        ),
    ];
    rules.extend(conditional.map(|(call, conditions)| (call.id().into(), conditions)));
    Ok(rules)
}

/// A condition of the first argument. The kernel looks at its lower half only.
fn argument(operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, value)
}

/// Those of [`ALLOWED`] that this machine has.
fn listed() -> impl Iterator<Item = Sysno> {
    let names = ALLOWED.lines().filter(|line| !line.starts_with('#'));
    names
        .flat_map(str::split_whitespace)
        .filter_map(|name| name.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_a_typing_error_shortens_is_noticed() {
        assert_eq!(filters().unwrap().len(), 2);
        assert!(listed().count() > 250, "{}", listed().count());
    }

    #[test]
    fn no_call_that_changes_the_system_is_listed() {
        let refused = [
            Sysno::unshare,
            Sysno::setns,
            Sysno::clone3,
            Sysno::mount,
            Sysno::open_tree,
            Sysno::bpf,
            Sysno::keyctl,
            Sysno::add_key,
            Sysno::request_key,
            Sysno::io_uring_setup,
            Sysno::userfaultfd,
            Sysno::perf_event_open,
            Sysno::open_by_handle_at,
            Sysno::kexec_load,
            Sysno::finit_module,
            Sysno::reboot,
        ];
        for call in refused {
            assert!(!listed().any(|listed| listed == call), "{call}");
        }
    }
}
