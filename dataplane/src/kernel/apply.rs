//! Makes changes: the operations of a plan, those of one stage and namespace at once.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

use model::{
    SandboxId,
    names::{self, LinkName, Namespace},
};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{RouteNetlinkMessage as Message, link::LinkAttribute};
use nix::errno::Errno;

use super::{
    super::{
        channel::{BATCH, missing},
        doubt::{Doubt, LinkRef},
        namespace,
        plan::{Change, Op},
        policy::PolicyChange,
        shape,
        state::Place,
        sysctl, wire,
    },
    Kernel, Refused,
    refusal::{absent, failure},
};

impl Kernel {
    /// Executes operations in order; goes on after failures and returns them.
    pub(crate) fn apply(&mut self, ops: &[Op]) -> Vec<Refused> {
        let alike = |a: &Op, b: &Op| a.place == b.place && a.change.stage() == b.change.stage();
        let apply = |ops: &[Op]| {
            // Before there are too many.
            self.hear();
            self.apply_alike(ops)
        };
        ops.chunk_by(alike).flat_map(apply).collect()
    }

    /// Operations of one stage in one namespace.
    fn apply_alike(&mut self, ops: &[Op]) -> Vec<Refused> {
        let Some(Op { place, change }) = ops.first() else {
            return Vec::new();
        };
        let result = match (place, change) {
            (Place::Inside(namespace), Change::CreateNamespace) => {
                let made = namespace::create(&namespace.name());
                let followed = made.and_then(|()| self.follow(*namespace));
                // No earlier netd has left anything there.
                if let Some(channel) = self.channels.get_mut(place) {
                    (channel.has_policies, channel.has_shapes) = (false, false);
                }
                followed
            }
            (Place::Inside(namespace), Change::DeleteNamespace) => {
                self.leave(*place);
                namespace::remove(&namespace.name())
            }
            (
                Place::Inside(Namespace::Sandbox(sandbox) | Namespace::Container(sandbox)),
                Change::AddStacked(..),
            ) => {
                return ops
                    .iter()
                    .filter_map(|op| Some(failure(op, &self.bear(*sandbox, op).err()?)))
                    .collect();
            }
            (_, Change::SetSysctl(..)) => return self.write_sysctls(*place, ops),
            (_, Change::DeleteLink(_)) if ops.len() > 1 => {
                self.delete_together(*place, ops);
                // It finds most of them gone.
                return self.send(*place, ops);
            }
            _ => return self.send(*place, ops),
        };
        result
            .err()
            .map(|error| failure(&ops[0], &error))
            .into_iter()
            .collect()
    }

    /// Deletes links as a group: the kernel waits for an RCU grace period once per group instead of
    /// once per link.
    fn delete_together(&mut self, place: Place, ops: &[Op]) {
        let Some(channel) = self.channels.get_mut(&place) else {
            return;
        };
        let indices: Vec<u32> = ops
            .iter()
            .filter_map(|op| channel.index(op.change.link()?).ok())
            .collect();
        let join = |&index: &u32| (wire::set_link(index, LinkAttribute::Group(wire::GOING)), 0);
        let requests = indices
            .iter()
            .map(join)
            .chain([(wire::delete_group(wire::GOING), 0)]);
        let requests: Vec<(Message, u16)> = requests.collect();
        // What is refused here is tried one by one.
        requests
            .chunks(BATCH)
            .for_each(|batch| drop(channel.ask(batch.to_vec())));
    }

    /// Makes a device on a link of the host, inside of a sandbox.
    fn bear(&mut self, task: SandboxId, op: &Op) -> io::Result<()> {
        let Change::AddStacked(name, link, stacked) = &op.change else {
            return Ok(());
        };
        let newborn = names::newborn_link(task, name);
        let parent = self.index(Place::Host, &stacked.parent)?;
        let request = wire::add_stacked(
            &newborn,
            link,
            stacked.layer,
            parent,
            Some(self.raw(op.place)?),
        );
        self.order(Place::Host, (request, NLM_F_CREATE | NLM_F_EXCL))?;
        let index = self.index(op.place, &newborn)?;
        self.order(
            op.place,
            (
                wire::set_link(index, LinkAttribute::IfName(name.to_string())),
                0,
            ),
        )
    }

    fn order(&mut self, place: Place, request: (Message, u16)) -> io::Result<()> {
        let channel = self
            .channels
            .get_mut(&place)
            .ok_or_else(|| missing(format!("{place} is missing")))?;
        channel.ask(vec![request]).into_iter().collect()
    }

    fn write_sysctls(&mut self, place: Place, ops: &[Op]) -> Vec<Refused> {
        self.doubt_changed(ops);
        let Some(channel) = self.channels.get(&place) else {
            return absent(ops);
        };
        let trees = &mut self.trees;
        let written = namespace::within_file(&channel.namespace, || {
            let tree = trees.next()?;
            let write = |op: &Op| {
                write_sysctl(tree, op)
                    .err()
                    .map(|error| failure(op, &error))
            };
            io::Result::Ok(ops.iter().filter_map(write).collect())
        });
        written
            .flatten()
            .unwrap_or_else(|error| ops.iter().map(|op| failure(op, &error)).collect())
    }

    fn send(&mut self, place: Place, ops: &[Op]) -> Vec<Refused> {
        if !self.channels.contains_key(&place) {
            return absent(ops);
        }
        self.doubt_changed(ops);
        let mut failures = Vec::new();
        let mut requests = Vec::new();
        for op in ops {
            match self.request(op) {
                Ok(request) => requests.push((op, request)),
                Err(error) => failures.push(failure(op, &error)),
            }
        }
        let through = if matches!(ops[0].change, Change::AddVxlan(..)) {
            Place::Host
        } else {
            place
        };
        let Some(channel) = self.channels.get_mut(&through) else {
            return absent(ops);
        };
        for batch in requests.chunks(BATCH) {
            let messages = batch.iter().map(|(_, request)| request.clone()).collect();
            failures.extend(channel.ask(messages).into_iter().zip(batch).filter_map(
                |(answer, (op, _))| {
                    let error = answer
                        .err()
                        .filter(|error| !is_done_already(&op.change, error))?;
                    Some(failure(op, &error))
                },
            ));
        }
        failures
    }

    /// What these leave to be read, whether notices tell of it or not.
    fn doubt_changed(&mut self, ops: &[Op]) {
        for op in ops {
            if let Change::AddPair(pair) = &op.change {
                let far = Doubt::link(LinkRef::Name(pair.far.clone()));
                self.doubt(pair.place, far);
            }
            self.doubt(op.place, Doubt::of_change(&op.change));
        }
    }

    fn request(&mut self, op: &Op) -> io::Result<(Message, u16)> {
        const ADD: u16 = NLM_F_CREATE | NLM_F_EXCL;
        const SET: u16 = NLM_F_CREATE | NLM_F_REPLACE;
        let index = match &op.change {
            Change::AddVxlan(..)
            | Change::AddStacked(..)
            | Change::AddPair(..)
            | Change::DeleteLink(_) => None,
            change => change
                .link()
                .map(|link| self.index(op.place, link))
                .transpose()?,
        };
        let at = index.unwrap_or(0);
        Ok(match &op.change {
            Change::DeleteRoute(key, route) => (wire::delete_route(key, route, index), 0),
            // A route that the host had before is never replaced.
            Change::SetRoute(key, route) if op.place == Place::Host => {
                (wire::set_route(key, route, index), ADD)
            }
            Change::SetRoute(key, route) => (wire::set_route(key, route, index), SET),
            Change::DeleteFdb(key, vtep) => (
                Message::DelNeighbour(wire::fdb_message(at, key.mac, *vtep)),
                0,
            ),
            Change::SetFdb(key, vtep) => (
                Message::NewNeighbour(wire::fdb_message(at, key.mac, *vtep)),
                SET,
            ),
            Change::DeleteNeighbour(key) => (
                Message::DelNeighbour(wire::neighbour_message(at, key.address, None)),
                0,
            ),
            Change::SetNeighbour(key, mac) => (
                Message::NewNeighbour(wire::neighbour_message(at, key.address, Some(*mac))),
                SET,
            ),
            Change::DeleteAddress(key, form) => (
                Message::DelAddress(wire::address_message(at, key, *form)),
                0,
            ),
            Change::AddAddress(key, form) => (
                Message::NewAddress(wire::address_message(at, key, *form)),
                SET,
            ),
            Change::DeleteLink(link) => (wire::delete_link(link), 0),
            Change::AddVxlan(name, link, vxlan) => {
                (wire::add_vxlan(name, link, vxlan, self.raw(op.place)?), ADD)
            }
            Change::AddStacked(name, link, stacked) => {
                let parent = self.index(Place::Host, &stacked.parent)?;
                (
                    wire::add_stacked(name, link, stacked.layer, parent, None),
                    ADD,
                )
            }
            Change::AddPair(pair) => (wire::add_pair(pair, self.raw(pair.place)?), ADD),
            Change::SetMtu(_, mtu) => (wire::set_link(at, LinkAttribute::Mtu(*mtu)), 0),
            Change::SetMac(_, mac) => (
                wire::set_link(at, LinkAttribute::Address(mac.0.to_vec())),
                0,
            ),
            Change::SetUp(_) => (wire::set_up(at), 0),
            Change::SetShape(_, shape) => (shape::set(at, *shape), SET),
            Change::DeleteShape(_) => (shape::delete(at), 0),
            Change::Policy(change @ PolicyChange::RepeatLocal(_)) => {
                (change.message(), NLM_F_CREATE)
            }
            Change::Policy(change) => (
                change.message(),
                if matches!(change, PolicyChange::Add(_)) {
                    ADD
                } else {
                    0
                },
            ),
            Change::DeleteNamespace | Change::CreateNamespace | Change::SetSysctl(..) => {
                return Err(io::Error::from(io::ErrorKind::Unsupported));
            }
        })
    }

    fn raw(&self, place: Place) -> io::Result<RawFd> {
        let channel = self
            .channels
            .get(&place)
            .ok_or_else(|| missing(format!("{place} is missing")))?;
        Ok(channel.namespace.as_raw_fd())
    }

    fn index(&mut self, place: Place, link: &LinkName) -> io::Result<u32> {
        let channel = self
            .channels
            .get_mut(&place)
            .ok_or_else(|| missing(format!("{place} is missing")))?;
        channel.index(link)
    }
}

fn write_sysctl(tree: &sysctl::Tree, op: &Op) -> io::Result<()> {
    let Change::SetSysctl(key, value) = &op.change else {
        return Ok(());
    };
    let path = key.path();
    if op.place == Place::Host && path == sysctl::IPV6_FORWARDING {
        sysctl::keep_router_advertisements()?;
    }
    tree.write(&path, *value)
}

/// Deleting an absent object is a success.
fn is_done_already(change: &Change, error: &io::Error) -> bool {
    let absent = [
        Errno::ENOENT,
        Errno::ESRCH,
        Errno::ENODEV,
        Errno::EADDRNOTAVAIL,
    ];
    let deletes = change.stage() < Change::CreateNamespace.stage();
    deletes
        && error
            .raw_os_error()
            .is_some_and(|code| absent.contains(&Errno::from_raw(code)))
}
