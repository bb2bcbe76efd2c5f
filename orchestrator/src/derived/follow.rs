//! Keeps what is derived from the records in step with them.

use std::{collections::BTreeMap, sync::Arc};

use model::{Change, Concern, EndpointId, NetworkId, NodeId, ObjectRef, ServiceId, TaskId};

use super::{Derived, parts::Heard, tasks::Seat, touched::Touched};
use crate::{ports, state::State};

impl State {
    /// Follows what has been changed, and says whom it concerns.
    pub(crate) fn follow(&mut self, changes: &[Change]) -> Concern {
        let mut shared = std::mem::take(&mut self.derived);
        let derived = Arc::make_mut(&mut shared);
        let mut concern = Concern::default();
        for change in changes {
            self.follow_one(derived, change.object, &mut concern);
        }
        self.derived = shared;
        concern
    }

    fn follow_one(&self, derived: &mut Derived, object: ObjectRef, concern: &mut Concern) {
        match object {
            ObjectRef::Cluster | ObjectRef::Keys => concern.everybody = true,
            ObjectRef::Node(id) => {
                concern.everybody = true;
                self.follow_node(derived, id);
            }
            ObjectRef::Network(id) => {
                concern.networks.insert(id);
                let was_open = derived.networks.is_open(id);
                derived.networks.put(id, self.networks.get(&id));
                concern.everybody |= derived.open(id, was_open);
            }
            ObjectRef::Service(id) => self.follow_service(derived, id, concern),
            ObjectRef::Task(id) => self.follow_task(derived, id, concern),
            ObjectRef::Container(id) => self.follow_container(derived, id, concern),
        }
    }

    fn follow_node(&self, derived: &mut Derived, id: NodeId) {
        let node = self.nodes.get(&id);
        let was_there = derived.nodes.has(id);
        let differs = derived.nodes.put(id, node);
        derived.arrive(id, was_there);
        if differs {
            for task in derived.tasks.of_node(id) {
                if let Some(record) = self.tasks.get(task) {
                    let (service, slot) = (record.task.service, record.task.slot);
                    derived.touched.touch(service, self.index);
                    derived
                        .rollouts
                        .set(service, slot, self.look_at_slot(service, slot));
                }
            }
        }
        derived.parts.hear(id, node.and_then(Heard::of));
    }

    fn follow_service(&self, derived: &mut Derived, id: ServiceId, concern: &mut Concern) {
        derived.add_service(concern, id);
        let Some(record) = self.services.get(&id) else {
            derived.services.remove(id);
            derived.rollouts.remove(id);
            derived.touched.forget(id);
            return;
        };
        derived.touched.touch(id, self.index);
        derived
            .rollouts
            .put(record, |number, slot| self.known_of(record, number, slot));
        if derived.services.knows(id, record) {
            return;
        }
        let networks = &record.service.networks;
        let ingress = ports::is_ingress(record)
            .then(|| ports::network(self, networks))
            .flatten();
        derived.services.put(id, record, ingress);
        derived.add_service(concern, id);
        // Its tasks show its spec, also where they are on no network.
        let homes = record
            .task_ids()
            .filter_map(|task| self.tasks.get(&task)?.task.node);
        concern.nodes.extend(homes);
    }

    fn follow_task(&self, derived: &mut Derived, id: TaskId, concern: &mut Concern) {
        let (old, new) = derived.tasks.put(id, self.tasks.get(&id));
        let seats = || old.iter().chain(&new);
        for seat in seats() {
            derived.add_networks(concern, &seat.networks);
            concern.nodes.extend(seat.node);
            derived.touched.touch(seat.service, self.index);
            let known = self.look_at_slot(seat.service, seat.slot);
            derived.rollouts.set(seat.service, seat.slot, known);
        }
        if old.is_none() && new.is_none() {
            return;
        }
        let home = |seat: &Seat| Some((seat.home()?, seat.networks.clone()));
        let (old, new) = (old.as_ref().and_then(home), new.as_ref().and_then(home));
        if old == new {
            return;
        }
        if let Some((node, networks)) = old {
            for network in networks {
                derived.parts.leave(node, network);
            }
        }
        if let Some((node, networks)) = new {
            for network in networks {
                derived.parts.join(node, network);
            }
        }
    }

    fn follow_container(&self, derived: &mut Derived, id: EndpointId, concern: &mut Concern) {
        let (old, new) = derived.containers.put(id, self.containers.get(&id));
        for berth in old.iter().chain(&new) {
            derived.add_networks(concern, &[berth.network]);
            concern.everybody |= berth.publishes;
            concern.nodes.insert(berth.node());
        }
        for berth in old.iter().filter(|berth| berth.is_placed()) {
            derived.parts.leave(berth.node(), berth.network);
        }
        for berth in new.iter().filter(|berth| berth.is_placed()) {
            derived.parts.join(berth.node(), berth.network);
        }
    }

    /// Follows the networks alone, for commands that make one and go on with it.
    pub(crate) fn follow_networks(&mut self) {
        let derived = Arc::make_mut(&mut self.derived);
        for id in self.networks.changed() {
            let was_open = derived.networks.is_open(*id);
            derived.networks.put(*id, self.networks.get(id));
            derived.open(*id, was_open);
        }
    }

    /// Follows that a slot is gone.
    pub(crate) fn follow_released(&mut self, service: ServiceId, slot: u32) {
        Arc::make_mut(&mut self.derived)
            .rollouts
            .release(service, slot);
    }

    /// Takes down how far a host has come, which no view shows and nobody watches.
    pub(crate) fn hear(&mut self, node: NodeId, applied: u64, behind: BTreeMap<NetworkId, u64>) {
        if let Some(record) = self.nodes.get_mut_unnoticed(&node) {
            (record.applied, record.behind) = (applied, behind);
            let heard = Heard::of(record);
            Arc::make_mut(&mut self.derived).parts.hear(node, heard);
        }
    }

    /// Follows all records, for a state that was read.
    pub(crate) fn follow_all(&mut self) {
        self.derived = Arc::new(self.derive());
    }

    fn derive(&self) -> Derived {
        let mut derived = Derived::default();
        let mut nobody = Concern::default();
        let objects = self.nodes.keys().map(|id| ObjectRef::Node(*id));
        let objects = objects
            .chain(self.networks.keys().map(|id| ObjectRef::Network(*id)))
            .chain(self.services.keys().map(|id| ObjectRef::Service(*id)))
            .chain(self.tasks.keys().map(|id| ObjectRef::Task(*id)))
            .chain(self.containers.keys().map(|id| ObjectRef::Container(*id)));
        for object in objects {
            self.follow_one(&mut derived, object, &mut nobody);
        }
        derived.touched = Touched::since(self.index);
        derived
    }

    /// What differs in what is derived from the records if it is derived anew, for tests; empty if
    /// nothing.
    pub fn check_derived(&self) -> Vec<&'static str> {
        let anew = self.derive();
        let kept = &self.derived;
        let parts = [
            ("nodes", kept.nodes == anew.nodes),
            ("networks", kept.networks == anew.networks),
            ("services", kept.services == anew.services),
            ("tasks", kept.tasks == anew.tasks),
            ("containers", kept.containers == anew.containers),
            ("parts", kept.parts == anew.parts),
            ("rollouts", kept.rollouts == anew.rollouts),
        ];
        let different = parts.iter().filter(|(_, is_equal)| !is_equal);
        different.map(|(part, _)| *part).collect()
    }
}
