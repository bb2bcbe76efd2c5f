//! What follows from the view and the kernel, kept until one of them changes.

use std::{collections::BTreeSet, sync::Arc};

use model::{EndpointId, NodeConfig};

use super::{
    desired::{Desired, Ground},
    last::Last,
    plan::{Observed, Op, plan, replan},
    ports::Open,
    resolvers,
    rules::{self, Grounds, WantedRules},
};

/// What follows from the configuration and the kernel.
#[derive(Default)]
pub struct Derived {
    /// The devices on LANs that were seen inside of containers of others.
    pub taken: BTreeSet<EndpointId>,
    /// What is asked for.
    pub desired: Last<(Arc<NodeConfig>, Ground), Desired>,
    plan: Last<(Arc<Desired>, Observed), Vec<Op>>,
    rules: Last<Grounds, WantedRules>,
}

impl Derived {
    /// What is to be done.
    pub fn plan(&mut self, desired: &Arc<Desired>, observed: &Observed) -> Arc<Vec<Op>> {
        self.plan.of(
            (desired.clone(), observed.clone()),
            |(desired, observed), before| match before {
                Some(((asked, found), ops)) => replan((asked, found, ops), desired, observed),
                None => plan(desired, observed),
            },
        )
    }

    /// The rules of each namespace.
    pub fn rules(
        &mut self,
        config: &Arc<NodeConfig>,
        observed: &Observed,
        open: &Arc<Open>,
    ) -> Arc<WantedRules> {
        let asked = if config.handed().next().is_some() {
            resolvers::asked_by_engines()
        } else {
            BTreeSet::new()
        };
        let grounds = Grounds {
            config: config.clone(),
            observed: observed.clone(),
            open: open.clone(),
            asked,
        };
        self.rules.of(grounds, |grounds, before| match before {
            Some((last, wanted)) => rules::rewanted(last, wanted, grounds),
            None => rules::wanted(grounds),
        })
    }
}
