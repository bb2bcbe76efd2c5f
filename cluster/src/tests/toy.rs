//! A small state machine: named numbers that grow, nodes, and each request answered once.

use std::{collections::BTreeMap, net::IpAddr};

use model::{
    Answer, Applied, Authority, Balance, Change, ClusterCommand, Command, Concern, Entry, Facts,
    Fate, JoinedConfig, Kind, Level, Millis, NetworkId, Node, NodeCommand, NodeConfig, NodeId,
    NodeInfo, ObjectRef, OfferConfig, Outcome, PeerConfig, Progress, Query, Refusal, RequestId,
    Response, RestoreError, ServiceCommand, ServiceId, StateMachine, WholeViews, level,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Toy {
    authority: Option<Authority>,
    nodes: BTreeMap<NodeId, Node>,
    totals: BTreeMap<String, u32>,
    answers: BTreeMap<RequestId, Response>,
    index: u64,
    level: Level,
}

impl Toy {
    pub(crate) fn total(&self, name: &str) -> u32 {
        self.totals.get(name).copied().unwrap_or_default()
    }

    pub(crate) fn set(&mut self, name: &str, total: u32) {
        self.totals.insert(name.to_owned(), total);
    }

    fn change(&mut self, command: Command) -> Response {
        match command {
            Command::Cluster(ClusterCommand::Bootstrap {
                authority, node, ..
            }) => {
                self.authority = Some(authority);
                self.nodes.insert(node.id, node);
            }
            Command::Cluster(ClusterCommand::RaiseLevel { level }) => self.level = level,
            Command::Node(NodeCommand::Admit { node }) => {
                self.nodes.insert(node.id, node);
            }
            Command::Node(NodeCommand::SetStatus { node, status }) => {
                self.node(node)?.status = status
            }
            Command::Node(NodeCommand::SetKey { node, key }) => self.node(node)?.key = Some(key),
            Command::Node(NodeCommand::Remove { node }) => {
                self.node(node)?;
                self.nodes.remove(&node);
            }
            Command::Cluster(ClusterCommand::RotateToken { secret, .. }) => {
                if let Some(authority) = &mut self.authority {
                    authority.worker_secret = secret;
                }
            }
            Command::Node(NodeCommand::Report(report)) => {
                let node = self.node(report.node)?;
                (node.applied, node.failures) = (report.applied, report.failures);
            }
            Command::Service(ServiceCommand::Scale { service, replicas }) => {
                *self.totals.entry(service).or_default() += replicas
            }
            other => {
                return Err(Refusal::new(
                    Kind::Invalid,
                    format!("{other:?} is not for toys"),
                    "",
                ));
            }
        }
        Ok(Outcome::Done)
    }

    /// A number, as a service of as many replicas.
    fn told(&self, name: &str, at: Millis, fate: Fate) -> Option<Change> {
        let replicas = *self.totals.get(name)?;
        let id = name.bytes().fold(0, |id, byte| id << 8 | u64::from(byte));
        let facts = Facts::Service {
            name: name.to_owned(),
            replicas,
            version: self.index,
            removing: false,
            paused: None,
        };
        Some(Change {
            revision: self.index,
            at,
            object: ObjectRef::Service(ServiceId(id)),
            fate,
            facts,
        })
    }

    fn node(&mut self, node: NodeId) -> Result<&mut Node, Refusal> {
        self.nodes
            .get_mut(&node)
            .ok_or_else(|| Refusal::not_found("node", &node.to_string(), "swarmctl node ls"))
    }
}

impl StateMachine for Toy {
    type Agenda = ();
    type Projector = WholeViews;

    fn apply(&mut self, index: u64, entry: Entry) -> Applied {
        self.index = index;
        let mut changes = Vec::new();
        let response = match self.answers.get(&entry.request) {
            Some(answer) => answer.clone(),
            None => {
                let number = match &entry.command {
                    Command::Service(ServiceCommand::Scale { service, .. }) => service.clone(),
                    _ => String::new(),
                };
                let response = self.change(entry.command);
                changes.extend(self.told(&number, entry.now, Fate::Changed));
                response
            }
        };
        self.answers.insert(entry.request, response.clone());
        Applied {
            response,
            changes,
            concern: Concern {
                everybody: true,
                ..Concern::default()
            },
        }
    }

    fn level(&self) -> Level {
        self.level
    }

    fn revision(&self) -> u64 {
        self.index
    }

    fn present(&self, after: Option<ObjectRef>, limit: usize) -> Vec<Change> {
        let mut there: Vec<Change> = self
            .totals
            .keys()
            .filter_map(|name| self.told(name, 0, Fate::Made))
            .filter(|change| after.is_none_or(|after| change.object > after))
            .collect();
        there.sort_by_key(|change| change.object);
        there.truncate(limit);
        there
    }

    fn progress(&self, service: &str) -> Result<Progress, Refusal> {
        Err(Refusal::not_found("service", service, "nothing"))
    }

    fn freeze(&self) -> Self {
        self.clone()
    }

    fn snapshot(&self) -> Vec<u8> {
        level::seal(self.level, serde_json::to_vec(self).unwrap())
    }

    fn restore(bytes: &[u8], known: Level) -> Result<Self, RestoreError> {
        let (_, body) = level::open("the snapshot", bytes, known)?;
        serde_json::from_slice(body).map_err(|error| RestoreError::Content(error.to_string()))
    }

    fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }

    fn view(&self, node: NodeId) -> NodeConfig {
        let peer = |node: &Node| {
            let Node {
                role,
                address,
                vtep,
                balancer,
                ..
            } = *node;
            PeerConfig {
                hostname: node.hostname.clone(),
                role,
                address,
                vtep,
                balancer,
            }
        };
        // Each number is a service's virtual IP, so that there is a name to it.
        let offer = |(place, (name, total)): (u64, (&String, &u32))| {
            let offer = OfferConfig {
                name: name.clone(),
                stack: None,
                aliases: Vec::new(),
                ports: Vec::new(),
                vips: vec![IpAddr::from(total.to_be_bytes())],
                balance: Balance::default(),
                removing: false,
                publish_not_ready: false,
            };
            ((NetworkId(1), ServiceId(place)), offer)
        };
        let mut view = NodeConfig {
            generation: self.index,
            level: self.level,
            peers: self
                .nodes
                .values()
                .map(|node| (node.id, peer(node)))
                .collect(),
            joined: [(NetworkId(1), JoinedConfig {})].into(),
            offers: (0..).zip(&self.totals).map(offer).collect(),
            ..NodeConfig::empty(node)
        };
        view.derive();
        if self.level < Level::SHARED_VIEWS {
            (view.joined, view.offers) = Default::default();
        }
        view
    }

    fn concerns(&self, _: NodeId, concern: &Concern) -> bool {
        concern.everybody
    }

    fn step(&self, (): &mut (), _: Millis) -> Vec<Command> {
        // Whatever is asked for by `start` is finished by the leader, once.
        let due = self.total("start") > self.total("finish");
        let finish = Command::Service(ServiceCommand::Scale {
            service: "finish".to_owned(),
            replicas: 1,
        });
        if due { vec![finish] } else { Vec::new() }
    }

    fn answer(&self, leader: Option<NodeId>, query: &Query) -> Result<Answer, Refusal> {
        let info = |node: &Node| NodeInfo {
            level: None,
            votes: None,
            id: node.id,
            hostname: node.hostname.clone(),
            role: node.role,
            status: node.status,
            availability: node.availability,
            balancer: node.balancer,
            balancer_used: node.balancer,
            leader: leader == Some(node.id),
            address: node.address,
            vtep: node.vtep,
            applied: node.applied,
            failures: node.failures.clone(),
            causes: node.causes.clone(),
            on_link: node.on_link.clone(),
            capabilities: Default::default(),
            joined: node.joined,
            version: 0,
        };
        match query {
            Query::Nodes => Ok(Answer::Nodes(self.nodes.values().map(info).collect())),
            Query::Node(name) => {
                let found = self
                    .nodes
                    .values()
                    .filter(|node| node.id.to_string() == *name);
                Ok(Answer::Nodes(found.map(info).collect()))
            }
            other => Err(Refusal::new(
                Kind::Invalid,
                format!("{other:?} is not for toys"),
                "",
            )),
        }
    }
}
