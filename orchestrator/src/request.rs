//! Answers by request id, so that a repeated request changes the state once.

use std::collections::VecDeque;

use model::{ClusterCommand, Command, Issuer, NodeCommand, RequestId, Response};
use serde::{Deserialize, Serialize};

/// Number of remembered answers of each kind: a caller repeats a request within seconds or never.
const REMEMBERED: usize = 1024;

/// The last answers, oldest first. Answers to people and to machines are kept apart: a thousand
/// reports must not evict the answer to the one command that somebody is about to repeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answers {
    to_people: VecDeque<(RequestId, Response)>,
    to_machines: VecDeque<(RequestId, Response)>,
}

/// Whose commands these are.
#[derive(Clone, Copy)]
pub(crate) enum Caller {
    Person,
    Machine,
}

impl Caller {
    /// A host that joins asks again as people do.
    pub(crate) fn of(command: &Command) -> Self {
        let joins = matches!(
            command,
            Command::Cluster(ClusterCommand::Bootstrap { .. })
                | Command::Node(NodeCommand::Admit { .. })
        );
        match command.issuer() {
            Issuer::Person => Self::Person,
            Issuer::Leader if joins => Self::Person,
            Issuer::Leader | Issuer::Host(_) => Self::Machine,
        }
    }
}

impl Answers {
    pub(crate) fn find(&self, caller: Caller, request: RequestId) -> Option<&Response> {
        let answers = match caller {
            Caller::Person => &self.to_people,
            Caller::Machine => &self.to_machines,
        };
        answers
            .iter()
            .find(|(known, _)| *known == request)
            .map(|(_, response)| response)
    }

    pub(crate) fn remember(&mut self, caller: Caller, request: RequestId, response: Response) {
        let answers = match caller {
            Caller::Person => &mut self.to_people,
            Caller::Machine => &mut self.to_machines,
        };
        if answers.len() >= REMEMBERED {
            answers.pop_front();
        }
        answers.push_back((request, response));
    }
}
