//! Which names of services exclude each other.

use std::collections::BTreeSet;

use model::{
    NetworkId, Service, ServiceSpec,
    dns_name::{last_of_dotted, normal},
    name_in_stack,
};

/// The names of one service on a network: what nobody else may be called, and what it may share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) own: BTreeSet<String>,
    pub(crate) shared: BTreeSet<String>,
    /// Its stack.
    pub(crate) stack: Option<String>,
    /// Its aliases of more than one label.
    dotted: BTreeSet<String>,
}

impl Claims {
    pub(crate) fn of(spec: &ServiceSpec, aliases: &[String]) -> Self {
        let name = spec.name.to_ascii_lowercase();
        let mut own = BTreeSet::from([name.clone()]);
        let mut shared: BTreeSet<String> = aliases.iter().map(|alias| normal(alias)).collect();
        let dotted = shared.iter().filter(|alias| alias.contains('.'));
        let dotted = dotted.cloned().collect();
        let stack = spec.stack.as_ref().map(|stack| stack.to_ascii_lowercase());
        if let Some(stack) = &stack {
            shared.extend(
                shared
                    .clone()
                    .iter()
                    .map(|alias| format!("{alias}.{stack}")),
            );
            own.extend(name_in_stack(&name, stack).map(|short| format!("{short}.{stack}")));
            own.insert(format!("{name}.{stack}"));
        }
        shared.retain(|alias| !own.contains(alias));
        Self {
            own,
            shared,
            stack,
            dotted,
        }
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

    /// The stacks that its dotted aliases would be of.
    pub(crate) fn endings(&self) -> impl Iterator<Item = &str> {
        self.dotted.iter().filter_map(|alias| last_of_dotted(alias))
    }

    /// The first dotted alias of one that ends with the stack of the other, and that stack.
    pub(crate) fn clash_by_stack<'a>(&'a self, other: &'a Claims) -> Option<(&'a str, &'a str)> {
        let into = |of: &'a Claims, stack: &'a Option<String>| {
            let stack = stack.as_deref()?;
            let mut dotted = of.dotted.iter();
            let alias = dotted.find(|alias| last_of_dotted(alias) == Some(stack))?;
            Some((alias.as_str(), stack))
        };
        into(self, &other.stack).or_else(|| into(other, &self.stack))
    }
}
