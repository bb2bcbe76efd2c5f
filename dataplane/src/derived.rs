//! What follows from the view and the kernel, kept until one of them changes.

use std::{collections::BTreeSet, sync::Arc};

use model::{EndpointId, NetworkId, NodeConfig, SandboxId};

use super::{
    desired::{Desired, Ground},
    kernel::Asked,
    last::Last,
    plan::{Observed, Op, plan, replan},
    ports::Open,
    rules::{self, Grounds, WantedRules},
};

/// What follows from the configuration and the kernel.
#[derive(Default)]
pub(crate) struct Derived {
    /// The devices on LANs that were seen inside of containers of others.
    pub taken: BTreeSet<EndpointId>,
    /// Of networks with one mark: those that were seen to be led into.
    pub led: BTreeSet<NetworkId>,
    /// Whom the way of packets leads to.
    pub asked: Last<Arc<NodeConfig>, Asked>,
    ground: Last<Stand, Ground>,
    desired: Last<(Arc<NodeConfig>, Arc<Ground>), Desired>,
    plan: Last<(Arc<Desired>, Arc<Observed>), Vec<Op>>,
    rules: Last<Grounds, WantedRules>,
}

/// The parts of the ground that are found in different places.
#[derive(PartialEq, Eq)]
pub(crate) struct Stand {
    /// The host's.
    pub host: Arc<Ground>,
    /// The endpoints on a LAN whose addresses nobody else there has.
    pub free: BTreeSet<EndpointId>,
    /// The containers of others whose network namespaces are there.
    pub alive: BTreeSet<SandboxId>,
    /// The endpoints on a LAN whose devices a container's runtime has taken from the host.
    pub taken: BTreeSet<EndpointId>,
    /// Of networks with one mark: those that packets to published ports are led into.
    pub led: BTreeSet<NetworkId>,
}

impl Derived {
    /// What is asked for.
    pub(crate) fn desired(&mut self, config: &Arc<NodeConfig>, stand: Stand) -> Arc<Desired> {
        let ground = self.ground.of(stand, |stand, _| Ground {
            free: stand.free.clone(),
            alive: stand.alive.clone(),
            taken: stand.taken.clone(),
            led: stand.led.clone(),
            ..Ground::clone(&stand.host)
        });
        self.desired.of(
            (config.clone(), ground),
            |(config, ground), before| match before {
                Some(((last, stood), desired)) => desired.after((last, stood), config, ground),
                None => Desired::of(config, ground),
            },
        )
    }

    /// What is to be done.
    pub(crate) fn plan(
        &mut self,
        desired: &Arc<Desired>,
        observed: &Arc<Observed>,
    ) -> Arc<Vec<Op>> {
        self.plan.of(
            (desired.clone(), observed.clone()),
            |(desired, observed), before| match before {
                Some(((asked, found), ops)) => replan((asked, found, ops), desired, observed),
                None => plan(desired, observed),
            },
        )
    }

    /// The rules of each namespace.
    pub(crate) fn rules(
        &mut self,
        config: &Arc<NodeConfig>,
        observed: &Arc<Observed>,
        open: &Arc<Open>,
    ) -> Arc<WantedRules> {
        let grounds = Grounds {
            config: config.clone(),
            observed: observed.clone(),
            open: open.clone(),
        };
        self.rules.of(grounds, |grounds, before| match before {
            Some((last, wanted)) => rules::rewanted(last, wanted, grounds),
            None => rules::wanted(grounds),
        })
    }
}
