//! The state as the state machine that `cluster` drives: the only module that knows all others.

use std::{collections::BTreeMap, sync::Arc};

use model::{
    Answer, Applied, Authority, Change, Concern, Entry, Level, Millis, Node, NodeConfig, NodeId,
    ObjectRef, Progress, Query, Refusal, RestoreError, StateMachine, level,
};

use crate::{
    agenda::Agenda, answer, apply, facts, project, request::Caller, sections::Sections,
    state::State, step,
};

impl StateMachine for State {
    type Agenda = Agenda;
    type Projector = Sections;

    fn apply(&mut self, index: u64, entry: Entry) -> Applied {
        self.index = self.revision_at(index);
        let caller = Caller::of(&entry.command);
        if let Some(first) = self.answers.find(caller, entry.request) {
            return Applied {
                response: first.clone(),
                changes: Vec::new(),
                concern: Concern::default(),
            };
        }
        let (request, at) = (entry.request, entry.now);
        let response = apply::apply(self, entry);
        // A refusal has changed nothing, so the request may be judged anew; its text would be part
        // of the state, and no version could ever word it better.
        if response.is_ok() || self.level < Level::BATCHES {
            self.answers.remember(caller, request, response.clone());
        }
        let changes = self.take_changes(at);
        let concern = self.follow(&changes);
        Applied {
            response,
            changes,
            concern,
        }
    }

    fn level(&self) -> Level {
        self.level
    }

    fn freeze(&self) -> Self {
        // What is derived from the records is of no use to a snapshot.
        let derived = Arc::default();
        Self {
            derived,
            ..self.clone()
        }
    }

    fn snapshot(&self) -> Vec<u8> {
        // Every map of the state has string or integer keys, so it always has a JSON form.
        let body = serde_json::to_vec(self).unwrap_or_default();
        level::seal(self.level, body)
    }

    fn restore(bytes: &[u8], known: Level) -> Result<Self, RestoreError> {
        let (_, body) = level::open("the snapshot", bytes, known)?;
        let mut state: Self = serde_json::from_slice(body)
            .map_err(|error| RestoreError::Content(error.to_string()))?;
        state.follow_all();
        Ok(state)
    }

    fn revision(&self) -> u64 {
        self.index
    }

    fn present(&self, after: Option<ObjectRef>, limit: usize) -> Vec<Change> {
        facts::present(self, after, limit)
    }

    fn progress(&self, service: &str) -> Result<Progress, Refusal> {
        answer::progress(self, service)
    }

    fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }

    fn view(&self, node: NodeId) -> NodeConfig {
        project::view(self, node)
    }

    fn concerns(&self, node: NodeId, concern: &Concern) -> bool {
        self.derived.concerns(node, concern)
    }

    fn step(&self, agenda: &mut Agenda, now: Millis) -> Vec<model::Command> {
        step::step(self, agenda, now)
    }

    fn answer(&self, leader: Option<NodeId>, query: &Query) -> Result<Answer, Refusal> {
        answer::answer(self, leader, query)
    }
}
