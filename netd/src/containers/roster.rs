//! In-memory list of the containers that CNI runtimes have attached on this host. Nobody else
//! changes that part of the ledger, so the list needs no query. Requests about one interface take
//! turns. No I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use model::{Container, NodeId, Sandbox};
use tokio::sync::OwnedMutexGuard;

/// The interfaces, by the id of their keys.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    state: Mutex<State>,
    turns: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

#[derive(Debug, Default)]
struct State {
    /// Whose ledger has been read: a host that joins anew is another node.
    node: Option<NodeId>,
    known: BTreeMap<String, Container>,
    /// Given up here, but not yet in the ledger.
    leaving: BTreeSet<String>,
}

/// What is known of an interface.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Standing {
    /// Nothing: it is in no ledger.
    Absent,
    /// It is given up, or may be in the ledger though nobody has been told so.
    Leaving,
    /// Attached.
    Attached(Box<Container>),
}

impl Roster {
    /// Waits until nobody else works on this interface.
    pub(crate) async fn turn(&self, id: &str) -> OwnedMutexGuard<()> {
        self.turn_of(id).lock_owned().await
    }

    /// The same if nobody does.
    pub(crate) fn turn_if_free(&self, id: &str) -> Option<OwnedMutexGuard<()>> {
        self.turn_of(id).try_lock_owned().ok()
    }

    fn turn_of(&self, id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(id.to_owned()).or_default().clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this node's part of the ledger has been read.
    pub(crate) fn is_loaded(&self, node: NodeId) -> bool {
        self.state().node == Some(node)
    }

    /// Loads this node's part of the ledger. Containers that were attached meanwhile stay.
    pub(crate) fn load(&self, node: NodeId, containers: Vec<Container>) {
        let mut state = self.state();
        if state.node == Some(node) {
            return;
        }
        state
            .known
            .retain(|_, container| container.key.node == node);
        for container in containers {
            state
                .known
                .entry(container.key.id.clone())
                .or_insert(container);
        }
        state.node = Some(node);
    }

    /// How an interface stands.
    pub(crate) fn standing(&self, id: &str) -> Standing {
        let state = self.state();
        match state.known.get(id) {
            _ if state.leaving.contains(id) => Standing::Leaving,
            Some(container) => Standing::Attached(Box::new(container.clone())),
            None => Standing::Absent,
        }
    }

    /// It is attached.
    pub(crate) fn attached(&self, container: Container) {
        let mut state = self.state();
        state.leaving.remove(&container.key.id);
        state.known.insert(container.key.id.clone(), container);
    }

    /// It is to be given up.
    pub(crate) fn leaves(&self, id: &str) {
        self.state().leaving.insert(id.to_owned());
    }

    /// The ledger has given them up.
    pub(crate) fn gone(&self, ids: &[String]) {
        let mut state = self.state();
        for id in ids {
            state.known.remove(id);
            state.leaving.remove(id);
        }
    }

    /// Those that are given up, and those whose namespace is gone.
    pub(crate) fn ended(&self, is_gone: impl Fn(&Sandbox) -> bool) -> BTreeSet<String> {
        let state = self.state();
        let dead = state
            .known
            .iter()
            .filter(|(_, container)| place(container).is_some_and(&is_gone));
        let dead: BTreeSet<String> = dead.map(|(id, _)| id.clone()).collect();
        dead.into_iter()
            .chain(state.leaving.iter().cloned())
            .collect()
    }

    /// Those that one configuration of a runtime's has attached.
    pub(crate) fn of_configuration(&self, configuration: &str) -> Vec<String> {
        let state = self.state();
        let of_it = state
            .known
            .iter()
            .filter(|(_, container)| container.traits.configuration == configuration);
        of_it.map(|(id, _)| id.clone()).collect()
    }
}

/// The namespace that an interface lives as long as.
pub(crate) fn place(container: &Container) -> Option<&Sandbox> {
    container
        .sandbox
        .as_ref()
        .or(container.traits.held_for.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{ContainerKey, ContainerRuntime, ContainerTraits, EndpointId, Mac, NetworkId};

    const NODE: NodeId = NodeId(1);

    fn container(id: &str, path: &str) -> Container {
        let sandbox = Sandbox {
            path: path.to_owned(),
            identity: None,
            interface: None,
        };
        Container {
            id: EndpointId(1),
            key: ContainerKey {
                node: NODE,
                runtime: ContainerRuntime::Cni,
                id: id.to_owned(),
            },
            network: NetworkId(1),
            addresses: Vec::new(),
            mac: Mac([0; 6]),
            sandbox: Some(sandbox),
            traits: ContainerTraits {
                configuration: "dbnet".to_owned(),
                ..ContainerTraits::default()
            },
            created: 0,
        }
    }

    #[test]
    fn an_interface_given_up_stays_so_until_the_ledger_knows() {
        let roster = Roster::default();
        roster.load(
            NODE,
            vec![container("a/eth0", "/alive"), container("b/eth0", "/dead")],
        );
        assert_eq!(roster.standing("c/eth0"), Standing::Absent);
        let ended = || roster.ended(|sandbox| sandbox.path == "/dead");
        assert_eq!(ended(), ["b/eth0".to_owned()].into());
        roster.leaves("a/eth0");
        assert_eq!(
            (ended().len(), roster.standing("a/eth0")),
            (2, Standing::Leaving)
        );
        roster.attached(container("a/eth0", "/alive"));
        roster.gone(&["b/eth0".to_owned()]);
        assert!(ended().is_empty() && matches!(roster.standing("a/eth0"), Standing::Attached(_)));
    }

    #[test]
    fn a_hold_lives_as_long_as_its_container() {
        let roster = Roster::default();
        let held = container("a/eth0", "/dead");
        let traits = ContainerTraits {
            held_for: held.sandbox.clone(),
            ..ContainerTraits::default()
        };
        roster.load(
            NODE,
            vec![Container {
                sandbox: None,
                traits,
                ..held
            }],
        );
        assert_eq!(roster.ended(|sandbox| sandbox.path == "/dead").len(), 1);
        assert!(roster.of_configuration("dbnet").is_empty());
    }

    #[test]
    fn another_membership_is_another_roster() {
        let roster = Roster::default();
        roster.load(NODE, vec![container("a/eth0", "/alive")]);
        assert!(roster.is_loaded(NODE) && !roster.is_loaded(NodeId(2)));
        assert_eq!(roster.of_configuration("dbnet"), ["a/eth0"]);
        roster.load(NodeId(2), Vec::new());
        assert_eq!(roster.standing("a/eth0"), Standing::Absent);
    }

    #[tokio::test]
    async fn requests_about_one_interface_take_turns() {
        let roster = Roster::default();
        let turn = roster.turn("a/eth0").await;
        assert!(roster.turn_if_free("a/eth0").is_none() && roster.turn_if_free("b/eth0").is_some());
        drop(turn);
        assert!(roster.turn_if_free("a/eth0").is_some());
    }
}
