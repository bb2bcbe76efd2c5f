//! Which names of services exclude each other.

use std::collections::BTreeSet;

use model::{NetworkId, Service, ServiceSpec, name_in_stack};

/// The names of one service on a network: what nobody else may be called, and what it may share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) own: BTreeSet<String>,
    pub(crate) shared: BTreeSet<String>,
}

impl Claims {
    pub(crate) fn of(spec: &ServiceSpec, aliases: &[String]) -> Self {
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

    /// The first name that both claim and only one may.
    pub(crate) fn clash<'a>(&'a self, other: &'a Claims) -> Option<&'a String> {
        let both = self
            .own
            .iter()
            .chain(&self.shared)
            .find(|name| other.own.contains(*name));
        both.or_else(|| self.own.iter().find(|name| other.shared.contains(*name)))
    }
}
