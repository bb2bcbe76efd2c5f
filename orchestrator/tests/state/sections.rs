//! Views that follow the state change by change, as nodes are told of them.

use std::collections::BTreeMap;

use model::*;
use orchestrator::{Sections, State};

/// How many commands are told of together.
const TOGETHER: u64 = 3;

/// Every node of a cluster, told of what changes by a leader that follows the state.
#[derive(Default)]
pub struct Followers {
    sections: Sections,
    views: Views,
    /// What has changed since they were told last; `None` before the first time.
    touched: Option<Touched>,
    nodes: BTreeMap<NodeId, (Option<Told>, NodeConfig)>,
}

impl Followers {
    /// Tells them of a command.
    pub fn hear(&mut self, applied: &Applied) {
        if let Some(touched) = &mut self.touched {
            let objects = applied.changes.iter().map(|change| change.object);
            touched.objects.extend(objects);
            touched.concern.merge(&applied.concern);
        }
    }

    /// Lets them look, after one command or after several. What they have then is what there is.
    pub fn look(&mut self, state: &State, index: u64) {
        if index.is_multiple_of(TOGETHER) {
            self.catch_up(state);
        }
    }

    fn catch_up(&mut self, state: &State) {
        for node in state.nodes().keys() {
            let new = || (None, NodeConfig::empty(*node));
            self.nodes.entry(*node).or_insert_with(new);
            if self.views.nodes().all(|known| known != *node) {
                self.views.follow(*node);
            }
        }
        let touched = self.touched.replace(Touched::default());
        self.sections
            .follow(state, touched.as_ref(), &mut self.views);
        while let Some(node) = self.views.next_due() {
            let own = self.sections.own(state, node);
            self.views.set_own(node, own);
        }
        for node in self.views.take_woken() {
            self.tell(node);
        }
        for (node, (_, view)) in &self.nodes {
            let projected = state.view(*node);
            let expected = NodeConfig {
                generation: view.generation,
                ..projected
            };
            assert_eq!(view, &expected);
            assert_eq!(self.views.digest(*node), Some(view.digest()));
        }
    }

    fn tell(&mut self, node: NodeId) {
        let Some((told, view)) = self.nodes.get_mut(&node) else {
            return;
        };
        let Some((update, next)) = self.views.update(node, told.as_ref()) else {
            return;
        };
        let delta: ViewDelta = serde_json::from_str(&update.to_json()).unwrap();
        assert_eq!(
            serde_json::to_string(&delta).unwrap().len(),
            update.to_json().len()
        );
        *view = view.apply(&delta).unwrap();
        *told = Some(next);
    }
}
