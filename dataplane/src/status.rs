//! What the data plane could not do, and how far it is. Pure.

use std::{collections::BTreeSet, io};

use model::{
    Capability, Kind, NetworkId, NodeConfig, NodeId, SandboxId, Spi, Subnet,
    names::{self, LinkName, Namespace},
};
use nix::errno::Errno;

use super::{desired::Desired, plan::Op, state::Place};

/// Why a change that was made without complaint is still missing.
const UNDONE: &str = "the kernel accepted it, but it is missing when read back";
const FIND_UNDOER: &str = "find the program that removes it: watch `ip monitor` and `nft monitor`";

/// The next step where it is no person's.
pub(crate) const AGAIN: &str = "netd tries again by itself";

/// Whose work something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plane {
    /// Links, addresses, routes and neighbours: this operation.
    Links(Box<Op>),
    /// The rules of nftables and the balancers of one place.
    Rules(Place),
    /// IPsec of the host: this operation, where it is about one.
    Ipsec(Option<String>),
    /// Another one: published ports, addresses in use on a LAN, or the view itself.
    Other,
}

/// What could not be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Whose work it was.
    pub plane: Plane,
    /// The one task that it keeps from running; `None` where it is the host's.
    pub sandbox: Option<SandboxId>,
    /// The one network that it holds up; `None` where it is a task's or the host's.
    pub network: Option<NetworkId>,
    /// What it was about, why it failed, and what to do next.
    pub why: model::Failure,
}

impl Failure {
    /// An operation on links that failed.
    pub(crate) fn of_op(op: &Op, of: Held, why: model::Failure) -> Self {
        Self {
            plane: Plane::Links(Box::new(op.clone())),
            sandbox: of.sandbox(),
            network: of.network(),
            why: why.about(op.to_string()),
        }
    }

    /// A failure that concerns one network of the host.
    pub(crate) fn of_network(network: NetworkId, why: model::Failure) -> Self {
        Self {
            network: Some(network),
            ..Self::of_host(why)
        }
    }

    /// What it holds up.
    pub(crate) fn holds(&self) -> Held {
        let sandbox = self.sandbox.map(Held::Sandbox);
        sandbox
            .or(self.network.map(Held::Network))
            .unwrap_or(Held::Host)
    }

    /// A failure that concerns the host as a whole.
    pub(crate) fn of_host(why: model::Failure) -> Self {
        Self {
            plane: Plane::Other,
            sandbox: None,
            network: None,
            why,
        }
    }
}

/// What a failure holds up, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Held {
    /// One task or container.
    Sandbox(SandboxId),
    /// One network.
    Network(NetworkId),
    /// The host as a whole.
    Host,
}

impl Held {
    /// What an operation holds up for as long as it is left to do.
    pub(crate) fn by(config: &NodeConfig, desired: &Desired, op: &Op) -> Self {
        let link = op.change.link();
        let sandbox = link.and_then(|link| desired.sandbox_of(op.place, link));
        if let Some(sandbox) = sandbox {
            return Self::Sandbox(sandbox);
        }
        let network = match op.place {
            Place::Inside(Namespace::Network(network)) => Some(network),
            Place::Inside(_) => None,
            Place::Host => link.and_then(|link| network_on_host(config, link)),
        };
        network.map_or(Self::Host, Self::Network)
    }

    /// What failures of the rules of a place hold up.
    pub(crate) fn at(place: Place) -> Self {
        match place {
            Place::Inside(Namespace::Network(network)) => Self::Network(network),
            place => place.sandbox().map_or(Self::Host, Self::Sandbox),
        }
    }

    pub(crate) fn sandbox(self) -> Option<SandboxId> {
        match self {
            Self::Sandbox(sandbox) => Some(sandbox),
            Self::Network(_) | Self::Host => None,
        }
    }

    pub(crate) fn network(self) -> Option<NetworkId> {
        match self {
            Self::Network(network) => Some(network),
            Self::Sandbox(_) | Self::Host => None,
        }
    }
}

/// The network that a link of the host leads into.
fn network_on_host(config: &NodeConfig, link: &LinkName) -> Option<NetworkId> {
    let is_its = |vni| names::uplink_link(vni) == *link || names::vxlan_link(vni) == *link;
    let mut networks = config.networks.iter();
    networks.find_map(|(id, network)| is_its(network.vni).then_some(*id))
}

/// The kernel took it and does not show it.
pub(crate) fn undone() -> model::Failure {
    model::Failure::new(Kind::Conflict, UNDONE, FIND_UNDOER)
}

/// The kind of what the kernel refuses.
pub(crate) fn kind_of(errno: i32) -> Kind {
    match Errno::from_raw(errno) {
        Errno::EPERM | Errno::EACCES => Kind::Denied,
        Errno::EEXIST | Errno::EBUSY | Errno::EADDRINUSE => Kind::Conflict,
        Errno::ENOSPC | Errno::ENOMEM | Errno::ENOBUFS | Errno::EMFILE => Kind::Exhausted,
        Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::ENETDOWN => Kind::Precondition,
        _ => Kind::Unavailable,
    }
}

/// What the kernel said, and what to do about it.
pub(crate) fn kernel_said(error: &io::Error, next: &str) -> model::Failure {
    let errno = error.raw_os_error();
    let kind = errno.map_or(Kind::Unavailable, kind_of);
    model::Failure::new(kind, error.to_string(), next).with_errno(errno)
}

/// How far the kernel is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whose configuration was last attempted in full; a host that joins anew is another node.
    pub node: Option<NodeId>,
    /// Its generation.
    pub generation: u64,
    /// Whether the kernel was read and holds all of it, tasks aside that cannot be on this host.
    pub settled: bool,
    /// Where it does not: the networks alone that lack something; `None` where the host as a whole
    /// does.
    pub behind: Option<BTreeSet<NetworkId>>,
    /// What does not hold.
    pub failures: Vec<Failure>,
    /// The tasks whose sandboxes and endpoints are as they should be.
    pub ready: BTreeSet<SandboxId>,
    /// The containers of others whose network namespaces are there.
    pub entered: BTreeSet<SandboxId>,
    /// What networks may ask for and this kernel has.
    pub capabilities: BTreeSet<Capability>,
    /// Associations with these peers that the kernel has lost.
    pub lost: BTreeSet<(NodeId, Spi)>,
    /// The prefixes that links of the host's own are on.
    pub on_link: BTreeSet<Subnet>,
}

impl Status {
    /// Adds what could not be done, and what it holds up.
    pub(crate) fn add(&mut self, failure: Failure) {
        self.hold(failure.holds());
        self.failures.push(failure);
    }

    fn hold(&mut self, held: Held) {
        match held {
            // It is on no host as it should be, which its managers are told otherwise.
            Held::Sandbox(_) => {}
            Held::Network(network) => {
                self.settled = false;
                self.behind.as_mut().map(|behind| behind.insert(network));
            }
            Held::Host => (self.settled, self.behind) = (false, None),
        }
    }

    /// What keeps this task from running here.
    pub fn failure_of(&self, sandbox: SandboxId) -> Option<&model::Failure> {
        let mut failures = self.failures.iter();
        let of_it = failures.find(|failure| failure.sandbox == Some(sandbox))?;
        Some(&of_it.why)
    }
}

pub(crate) fn judge(
    config: &NodeConfig,
    desired: &Desired,
    plan: &[Op],
    mut failures: Vec<Failure>,
) -> Status {
    if plan.is_empty() {
        failures.clear();
    } else if failures.is_empty() {
        let undone = |op: &Op| Failure::of_op(op, Held::by(config, desired, op), undone());
        failures.extend(plan.iter().map(undone));
    }
    failures.extend(desired.failures.iter().cloned());
    let ready = desired
        .sandboxes
        .keys()
        .copied()
        .filter(|&task| is_ready(task, desired, plan))
        .collect();
    let entered = desired.spaces.keys().filter_map(|place| match place {
        Place::Inside(Namespace::Container(sandbox)) => Some(*sandbox),
        _ => None,
    });
    let mut status = Status {
        node: Some(config.node),
        generation: config.generation,
        settled: true,
        behind: Some(BTreeSet::new()),
        ready,
        entered: entered.collect(),
        on_link: desired.on_link.clone(),
        ..Status::default()
    };
    failures.into_iter().for_each(|failure| status.add(failure));
    if !status.settled {
        // What is left to do for others may wait for what failed.
        let left = plan.iter().map(|op| Held::by(config, desired, op));
        left.for_each(|held| status.hold(held));
    }
    status
}

/// A task is ready when nothing is left to do in its sandbox, nor in its networks save on others'
/// endpoints, and when it may be on all of them.
fn is_ready(task: SandboxId, desired: &Desired, plan: &[Op]) -> bool {
    let joints = desired.sandboxes.get(&task);
    let concerns = |op: &Op| match op.place {
        Place::Host => {
            let handed = op
                .change
                .link()
                .and_then(|link| names::parse_handed_link(link.as_str()));
            joints
                .into_iter()
                .flatten()
                .any(|(_, endpoint)| handed == Some(*endpoint))
        }
        Place::Inside(Namespace::Sandbox(other) | Namespace::Container(other)) => other == task,
        Place::Inside(Namespace::Network(network)) => {
            joints.into_iter().flatten().any(|(joint, endpoint)| {
                let of = op
                    .change
                    .link()
                    .and_then(|link| names::parse_endpoint_link(link.as_str()));
                *joint == network && of.is_none_or(|of| of == *endpoint)
            })
        }
    };
    let refused = desired
        .failures
        .iter()
        .any(|failure| failure.sandbox == Some(task));
    let unanswered = desired
        .questions
        .values()
        .any(|question| question.sandbox == task && question.open);
    !refused && !unanswered && !plan.iter().any(concerns)
}
