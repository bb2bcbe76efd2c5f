//! Answers by request id, so that a repeated request changes the state once.

use std::collections::VecDeque;

use model::{Command, RequestId, Response};
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
    pub(crate) fn of(command: &Command) -> Self {
        match command {
            Command::Bootstrap { .. }
            | Command::Admit { .. }
            | Command::SetAvailability { .. }
            | Command::SetBalancer { .. }
            | Command::RemoveNode { .. }
            | Command::RotateToken { .. }
            | Command::RotateKeys
            | Command::CreateNetwork { .. }
            | Command::RemoveNetwork { .. }
            | Command::CreateService { .. }
            | Command::ScaleService { .. }
            | Command::UpdateService { .. }
            | Command::RollbackService { .. }
            | Command::ReplaceTask { .. }
            | Command::RemoveService { .. } => Caller::Person,
            Command::AttachContainer { .. }
            | Command::DetachContainers { .. }
            | Command::NameNetwork { .. }
            | Command::SetNodeStatus { .. }
            | Command::AdvanceKeys
            | Command::Report(_)
            | Command::CreateTask { .. }
            | Command::AssignTask { .. }
            | Command::WithdrawTask { .. }
            | Command::DrainTask { .. }
            | Command::SetSurge { .. }
            | Command::PauseUpdate { .. }
            | Command::SetDesired { .. }
            | Command::RemoveTask { .. }
            | Command::PurgeService { .. }
            | Command::ReleaseSlot { .. } => Caller::Machine,
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
