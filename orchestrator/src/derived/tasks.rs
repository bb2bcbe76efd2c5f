//! Tasks by host, the load of hosts, and the tasks that wait for one.

use std::collections::{BTreeMap, BTreeSet};

use model::{Mac, NetworkId, NodeId, ServiceId, TaskId, TaskState};

use super::groups::{Bag, Groups, Values};
use crate::record::TaskRecord;

/// What tasks are looked up by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tasks {
    seats: BTreeMap<TaskId, Seat>,
    /// Living tasks only.
    of_node: Groups<NodeId, TaskId>,
    /// How many tasks that should run each host has.
    load: Bag<NodeId>,
    load_of: BTreeMap<ServiceId, Bag<NodeId>>,
    waiting: BTreeSet<(ServiceId, u32, TaskId)>,
    /// Living tasks with an Ethernet address that is not made of an IPv4 address: who has one that
    /// is, the ledger tells.
    by_mac: Groups<Mac, TaskId>,
}

/// What the maps know of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) service: ServiceId,
    pub(super) slot: u32,
    pub(super) node: Option<NodeId>,
    pub(super) networks: Vec<NetworkId>,
    macs: Vec<Mac>,
    is_alive: bool,
    counts: bool,
    is_waiting: bool,
}

impl Seat {
    fn of(record: &TaskRecord) -> Self {
        let task = &record.task;
        let macs = task.attachments.iter().map(|attachment| attachment.mac);
        Self {
            service: task.service,
            slot: task.slot,
            node: task.node,
            networks: task
                .attachments
                .iter()
                .map(|attachment| attachment.network)
                .collect(),
            macs: macs.filter(|mac| mac.ipv4().is_none()).collect(),
            is_alive: record.is_alive(),
            counts: record.is_alive() && task.desired == TaskState::Running,
            is_waiting: record.is_waiting(),
        }
    }

    /// Where it lives.
    pub(super) fn home(&self) -> Option<NodeId> {
        self.node.filter(|_| self.is_alive)
    }
}

impl Tasks {
    /// Follows a task. Returns what was known of it and what is known now.
    pub(super) fn put(
        &mut self,
        id: TaskId,
        record: Option<&TaskRecord>,
    ) -> (Option<Seat>, Option<Seat>) {
        let seat = record.map(Seat::of);
        let old = match seat.clone() {
            Some(seat) => self.seats.insert(id, seat),
            None => self.seats.remove(&id),
        };
        if old != seat {
            if let Some(old) = &old {
                self.unlink(id, old);
            }
            if let Some(seat) = &seat {
                self.link(id, seat);
            }
        }
        (old, seat)
    }

    fn link(&mut self, id: TaskId, seat: &Seat) {
        if let Some(node) = seat.home() {
            self.of_node.insert(node, id);
            if seat.counts {
                self.load.add(node);
                self.load_of.entry(seat.service).or_default().add(node);
            }
        }
        if seat.is_waiting {
            self.waiting.insert((seat.service, seat.slot, id));
        }
        for mac in seat.macs.iter().filter(|_| seat.is_alive) {
            self.by_mac.insert(*mac, id);
        }
    }

    fn unlink(&mut self, id: TaskId, seat: &Seat) {
        if let Some(node) = seat.home() {
            self.of_node.remove(&node, &id);
            if seat.counts {
                self.load.take(&node);
                self.unload(seat.service, node);
            }
        }
        self.waiting.remove(&(seat.service, seat.slot, id));
        for mac in &seat.macs {
            self.by_mac.remove(mac, &id);
        }
    }

    fn unload(&mut self, service: ServiceId, node: NodeId) {
        if let Some(load) = self.load_of.get_mut(&service) {
            load.take(&node);
            if load.is_empty() {
                self.load_of.remove(&service);
            }
        }
    }

    /// The living tasks of a host, by id.
    pub(crate) fn of_node(&self, node: NodeId) -> Values<'_, TaskId> {
        self.of_node.of(&node)
    }

    /// How many tasks that should run a host has.
    pub(crate) fn load(&self, node: NodeId) -> usize {
        self.load.count(&node)
    }

    /// How many of them are of this service.
    pub(crate) fn load_of(&self, service: ServiceId, node: NodeId) -> usize {
        self.load_of
            .get(&service)
            .map_or(0, |load| load.count(&node))
    }

    /// The tasks that wait for a host, with service and slot, in that order.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &(ServiceId, u32, TaskId)> {
        self.waiting.iter()
    }

    /// The living tasks with this Ethernet address, by id. Those whose address is made of an IPv4
    /// address are left out.
    pub(crate) fn with_mac(&self, mac: Mac) -> Values<'_, TaskId> {
        self.by_mac.of(&mac)
    }
}
