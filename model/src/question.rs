//! Questions whose answer's type is known: who asks is given that type, or one failure.

use crate::{
    Answer, Container, Failure, Kind, NetworkInfo, NodeInfo, Query, Role, ServiceInfo, TaskInfo,
    TokenInfo, ViewInfo,
};

/// A question that is answered by a `T`.
#[derive(Debug)]
pub struct Question<T> {
    query: Query,
    take: fn(Answer) -> Option<T>,
}

impl<T> Question<T> {
    /// As it is sent.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// What an answer to it says. Errors: it is the answer to another question.
    pub fn take(&self, answer: Answer) -> Result<T, Failure> {
        (self.take)(answer).ok_or_else(|| other_version("a manager"))
    }
}

/// Somebody answers another question than was asked.
pub fn other_version(who: &str) -> Failure {
    Failure::new(
        Kind::Unavailable,
        format!("{who} answered another question than was asked"),
        "run the same version of netd and swarmctl everywhere",
    )
}

impl Query {
    /// What it is about, for people.
    pub fn object(&self) -> String {
        let (what, name) = match self {
            Query::Nodes => return "nodes".to_owned(),
            Query::Networks => return "networks".to_owned(),
            Query::Services => return "services".to_owned(),
            Query::Tasks(None) => return "tasks".to_owned(),
            Query::Ledger => return "ledger".to_owned(),
            Query::Token(role) => return format!("join token of {role}s"),
            Query::Node(name) | Query::Containers(name) | Query::View(name) => ("node", name),
            Query::Network(name) => ("network", name),
            Query::Service(name) | Query::Tasks(Some(name)) => ("service", name),
            Query::Task(name) => ("task", name),
        };
        format!("{what} {name}")
    }
}

impl Question<Vec<NodeInfo>> {
    /// Every node.
    pub fn nodes() -> Self {
        let (query, take) = (Query::Nodes, nodes as fn(_) -> _);
        Self { query, take }
    }
}

impl Question<NodeInfo> {
    /// One node, by name or id; `self` is the one that is asked.
    pub fn node(name: impl Into<String>) -> Self {
        Self {
            query: Query::Node(name.into()),
            take: |answer| first(nodes(answer)),
        }
    }
}

impl Question<Vec<NetworkInfo>> {
    /// Every network.
    pub fn networks() -> Self {
        let (query, take) = (Query::Networks, networks as fn(_) -> _);
        Self { query, take }
    }
}

impl Question<NetworkInfo> {
    /// One network, by name or id.
    pub fn network(name: impl Into<String>) -> Self {
        Self {
            query: Query::Network(name.into()),
            take: |answer| first(networks(answer)),
        }
    }
}

impl Question<Vec<ServiceInfo>> {
    /// Every service.
    pub fn services() -> Self {
        let (query, take) = (Query::Services, services as fn(_) -> _);
        Self { query, take }
    }
}

impl Question<ServiceInfo> {
    /// One service, by name or id.
    pub fn service(name: impl Into<String>) -> Self {
        Self {
            query: Query::Service(name.into()),
            take: |answer| first(services(answer)),
        }
    }
}

impl Question<Vec<TaskInfo>> {
    /// The tasks of all services; ended ones included.
    pub fn tasks() -> Self {
        let (query, take) = (Query::Tasks(None), tasks as fn(_) -> _);
        Self { query, take }
    }

    /// The tasks of one service, by its name or id; ended ones included.
    pub fn tasks_of(service: impl Into<String>) -> Self {
        let query = Query::Tasks(Some(service.into()));
        Self { query, take: tasks }
    }
}

impl Question<TaskInfo> {
    /// One task, by name (`web.1`: the newest run of that slot) or id.
    pub fn task(name: impl Into<String>) -> Self {
        Self {
            query: Query::Task(name.into()),
            take: |answer| first(tasks(answer)),
        }
    }
}

impl Question<Vec<Container>> {
    /// The containers of others that are attached on a node, by name or id of the node.
    pub fn containers(node: impl Into<String>) -> Self {
        Self {
            query: Query::Containers(node.into()),
            take: |answer| match answer {
                Answer::Containers(containers) => Some(containers),
                _ => None,
            },
        }
    }
}

impl Question<TokenInfo> {
    /// The join token of a role.
    pub fn token(role: Role) -> Self {
        Self {
            query: Query::Token(role),
            take: |answer| match answer {
                Answer::Token(token) => Some(token),
                _ => None,
            },
        }
    }
}

impl Question<ViewInfo> {
    /// What one node must look like.
    pub fn view(node: impl Into<String>) -> Self {
        Self {
            query: Query::View(node.into()),
            take: |answer| match answer {
                Answer::View(view) => Some(view),
                _ => None,
            },
        }
    }
}

impl Question<Vec<String>> {
    /// What is wrong in the ledger, one sentence each.
    pub fn ledger() -> Self {
        Self {
            query: Query::Ledger,
            take: |answer| match answer {
                Answer::Ledger(findings) => Some(findings),
                _ => None,
            },
        }
    }
}

fn nodes(answer: Answer) -> Option<Vec<NodeInfo>> {
    match answer {
        Answer::Nodes(nodes) => Some(nodes),
        _ => None,
    }
}

fn networks(answer: Answer) -> Option<Vec<NetworkInfo>> {
    match answer {
        Answer::Networks(networks) => Some(networks),
        _ => None,
    }
}

fn services(answer: Answer) -> Option<Vec<ServiceInfo>> {
    match answer {
        Answer::Services(services) => Some(services),
        _ => None,
    }
}

fn tasks(answer: Answer) -> Option<Vec<TaskInfo>> {
    match answer {
        Answer::Tasks(tasks) => Some(tasks),
        _ => None,
    }
}

/// What was asked for by name: who has no such object refuses the question.
fn first<T>(found: Option<Vec<T>>) -> Option<T> {
    found?.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_another_question_is_refused_with_a_next_step() {
        assert_eq!(
            Question::nodes().take(Answer::Nodes(Vec::new())),
            Ok(Vec::new())
        );
        let other = Question::nodes().take(Answer::Tasks(Vec::new()));
        let none = Question::node("h1").take(Answer::Nodes(Vec::new()));
        for failure in [other.unwrap_err(), none.unwrap_err()] {
            assert!(!failure.next.is_empty(), "{failure:?}");
        }
    }
}
