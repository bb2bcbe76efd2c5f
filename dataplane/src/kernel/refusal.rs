//! What the kernel refused, in words for people.

use std::io;

use nix::errno::Errno;

use super::{
    super::{
        AGAIN,
        channel::missing,
        kernel_said,
        plan::{Change, Op},
    },
    Refused,
};

/// Why an operation failed.
pub(super) fn failure(op: &Op, error: &io::Error) -> Refused {
    let next = match (error.raw_os_error().map(Errno::from_raw), &op.change) {
        (Some(Errno::EEXIST), Change::AddVxlan(..)) => {
            "another tunnel of this host has this VNI and port: find it by `ip -d link show type \
             vxlan` and remove it"
        }
        (Some(Errno::EEXIST), Change::SetRoute(..)) => {
            "this host has another route there already, `ip route` and `ip -6 route` show it: \
             remove it, or remove the network and create it with another subnet"
        }
        (Some(Errno::EBUSY | Errno::EINVAL), Change::AddStacked(..)) => {
            "its parent cannot carry it, because a bridge, a bond or devices of another kind or \
             mode use it: use another parent, such as a VLAN of it"
        }
        (Some(Errno::ENETDOWN), _) => "take its parent up: `ip link set PARENT up`",
        (Some(Errno::EADDRINUSE), Change::SetUp(_)) => {
            "another program has the UDP port of the tunnels, `ss -lunp` names it: stop it, or \
             create the cluster with another --data-path-port"
        }
        (Some(Errno::EPERM | Errno::EACCES), _) => "run netd with CAP_NET_ADMIN and CAP_SYS_ADMIN",
        (Some(Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT), _) => {
            "this kernel lacks the feature: IPv6 and the kind of device must be built in or \
             loadable"
        }
        _ => AGAIN,
    };
    Refused {
        op: op.clone(),
        why: kernel_said(error, next),
    }
}

/// Their namespace is not there.
pub(super) fn absent(ops: &[Op]) -> Vec<Refused> {
    ops.iter()
        .map(|op| failure(op, &missing(format!("{} is missing", op.place))))
        .collect()
}
