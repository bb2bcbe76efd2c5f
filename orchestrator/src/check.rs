//! Proof that ledger and attachments agree (promise P4).

use std::{collections::BTreeSet, net::IpAddr};

use ipam::{Lease, Owner};
use model::{Container, Network, NetworkId};

use crate::{
    record::{ServiceRecord, TaskRecord},
    state::State,
};

impl State {
    /// Inconsistencies between the ledger and the holders of addresses, one sentence each; empty if
    /// none.
    pub fn check(&self) -> Vec<String> {
        let mut seen: BTreeSet<(NetworkId, IpAddr)> = BTreeSet::new();
        let mut wrong = Vec::new();
        for lease in self.ledger.leases() {
            let twice = lease
                .addresses
                .iter()
                .filter(|address| !seen.insert((lease.network, **address)));
            wrong.extend(
                twice.map(|address| {
                    format!("{address} is leased twice on network {}", lease.network)
                }),
            );
            if !self.is_held(lease) {
                wrong.push(format!(
                    "{} on network {} is leased but does not exist",
                    lease.owner, lease.network
                ));
            }
        }
        wrong.extend(
            self.services
                .values()
                .flat_map(|record| self.check_service(record)),
        );
        wrong.extend(
            self.tasks
                .values()
                .filter(|record| record.is_alive())
                .flat_map(|record| self.check_task(record)),
        );
        wrong.extend(
            self.containers
                .values()
                .filter_map(|container| self.check_container(container)),
        );
        wrong.extend(
            self.networks
                .values()
                .flat_map(|network| self.check_lan(network)),
        );
        wrong
    }

    /// Checks that on a LAN only a node, or the gateway, holds the node's addresses.
    fn check_lan(&self, network: &Network) -> Vec<String> {
        let inside = |address: &IpAddr| {
            network
                .subnets
                .iter()
                .any(|lease| lease.subnet.contains(*address))
        };
        let own = self
            .nodes
            .values()
            .flat_map(|node| [node.vtep, node.address.ip()])
            .filter(inside);
        let is_held = |address: &IpAddr| {
            matches!(
                self.ledger.holder(network.id, *address),
                Some(Owner::Node(_) | Owner::Gateway)
            )
        };
        let free = own.filter(|address| network.spec.driver.is_lan() && !is_held(address));
        free.map(|address| {
            format!(
                "{address} is a node's, which does not lease it on network {}",
                network.id
            )
        })
        .collect()
    }

    fn is_held(&self, lease: Lease<'_>) -> bool {
        let on_network = |record: &&ServiceRecord| record.service.networks.contains(&lease.network);
        match lease.owner {
            Owner::Gateway => self.networks.contains_key(&lease.network),
            Owner::Vip(service) => {
                let record = self.services.get(&service).filter(on_network);
                record
                    .and_then(|record| record.service.vips.get(&lease.network))
                    .is_some_and(|vips| vips == lease.addresses)
            }
            Owner::Slot(service, slot) => self
                .services
                .get(&service)
                .filter(on_network)
                .is_some_and(|record| record.slots.contains_key(&slot)),
            Owner::Container(id) => self.containers.get(&id).is_some_and(|container| {
                container.network == lease.network && container.addresses == lease.addresses
            }),
            Owner::Node(node) => self.nodes.get(&node).is_some_and(|node| {
                lease
                    .addresses
                    .iter()
                    .all(|address| [node.vtep, node.address.ip()].contains(address))
            }),
        }
    }

    fn check_service(&self, record: &ServiceRecord) -> Vec<String> {
        let service = &record.service;
        let owners = record
            .slots
            .keys()
            .map(|slot| Owner::Slot(service.id, *slot));
        let leases = owners.flat_map(|owner| {
            service
                .networks
                .iter()
                .map(move |network| (owner, *network))
        });
        let missing =
            leases.filter(|(owner, network)| self.ledger.addresses(*network, *owner).is_empty());
        missing
            .map(|(owner, network)| {
                format!("{owner} exists but leases nothing on network {network}")
            })
            .collect()
    }

    fn check_container(&self, container: &Container) -> Option<String> {
        let owner = Owner::Container(container.id);
        let (held, key) = (&container.addresses, &container.key);
        let differs = self.ledger.addresses(container.network, owner) != held;
        let on_node = self.nodes.contains_key(&key.node);
        match (differs, on_node) {
            (true, _) => Some(format!(
                "container {key} holds {held:?}, which {owner} does not lease"
            )),
            (false, false) => Some(format!(
                "container {key} holds {held:?} on a node that is gone"
            )),
            (false, true) => None,
        }
    }

    fn check_task(&self, record: &TaskRecord) -> Vec<String> {
        let task = &record.task;
        let owner = Owner::Slot(task.service, task.slot);
        let differs = task
            .attachments
            .iter()
            .filter(|held| self.ledger.addresses(held.network, owner) != held.addresses);
        differs
            .map(|held| {
                format!(
                    "task {} holds {:?}, which {owner} does not lease",
                    task.id, held.addresses
                )
            })
            .collect()
    }
}
