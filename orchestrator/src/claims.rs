//! Which names of services exclude each other.

use std::collections::BTreeSet;

use model::{Kind, NetworkId, Refusal, Service, ServiceSpec, name_in_stack};

use crate::state::State;

/// The names of one service on a network: what nobody else may be called, and what it may share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) own: BTreeSet<String>,
    pub(crate) shared: BTreeSet<String>,
}

impl Claims {
    fn of(spec: &ServiceSpec, aliases: &[String]) -> Self {
        let name = spec.name.to_ascii_lowercase();
        let mut own = BTreeSet::from([name.clone()]);
        let mut shared: BTreeSet<String> = aliases
            .iter()
            .map(|alias| alias.to_ascii_lowercase())
            .collect();
        if let Some(stack) = spec.stack.as_ref().map(|stack| stack.to_ascii_lowercase()) {
            shared.extend(
                shared
                    .clone()
                    .iter()
                    .map(|alias| format!("{alias}.{stack}")),
            );
            own.extend(name_in_stack(&name, &stack).map(|short| format!("{short}.{stack}")));
            own.insert(format!("{name}.{stack}"));
        }
        shared.retain(|alias| !own.contains(alias));
        Self { own, shared }
    }

    /// What a service claims on each of its networks.
    pub(crate) fn of_service(service: &Service) -> impl Iterator<Item = (NetworkId, Self)> {
        let networks = service.networks.iter().enumerate();
        networks.map(|(index, network)| {
            let attachment = service.spec.networks.get(index);
            let aliases = attachment.map_or(&[][..], |attachment| &attachment.aliases);
            (*network, Self::of(&service.spec, aliases))
        })
    }

    fn clash<'a>(&'a self, other: &'a Claims) -> Option<&'a String> {
        let both = self
            .own
            .iter()
            .chain(&self.shared)
            .find(|name| other.own.contains(*name));
        both.or_else(|| self.own.iter().find(|name| other.shared.contains(*name)))
    }
}

/// Refuses a service whose names on one of its networks are another's there. Aliases may be shared;
/// names may not.
pub(crate) fn claim(
    state: &State,
    spec: &ServiceSpec,
    networks: &[NetworkId],
) -> Result<(), Refusal> {
    for (network, attachment) in networks.iter().zip(&spec.networks) {
        let claims = Claims::of(spec, &attachment.aliases);
        for rival in state.derived.services.rivals(*network, &claims) {
            let Some(record) = state.services.get(&rival) else {
                continue;
            };
            let other = &record.service;
            if record.service.removing || other.spec.name.eq_ignore_ascii_case(&spec.name) {
                continue;
            }
            let mut theirs = Claims::of_service(other).filter(|(on, _)| on == network);
            let clash = theirs.find_map(|(_, theirs)| claims.clash(&theirs).cloned());
            if let Some(name) = clash {
                return Err(taken(&name, &other.spec.name, &attachment.network));
            }
        }
    }
    Ok(())
}

fn taken(name: &str, by: &str, network: &str) -> Refusal {
    let cause = format!("{name:?} means service {by:?} on network {network:?} already");
    let next = format!(
        "use another name or alias, or give both the same alias: aliases may be shared, a \
         service's name may not; `swarmctl service inspect {by}` shows its names"
    );
    Refusal::new(Kind::Conflict, cause, next)
}
