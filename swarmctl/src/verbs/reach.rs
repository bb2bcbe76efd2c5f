//! Options of `service update` about names, ports and balancing. Removing something that does not
//! exist is refused: a typing error must not look like success.

use anyhow::Result;
use model::{DnsConfig, Kind, NamedPort, Refusal, ServiceSpec, dns_name::normal};

use super::service::{publish, seconds};
use crate::{
    arguments::{Reach, Resolver},
    values::Millis,
};

/// Applies flags about names, ports and balancing to a spec. Errors: something to remove does not
/// exist.
pub(crate) fn reach(spec: &mut ServiceSpec, flags: Reach) -> Result<()> {
    for gone in &flags.publish_rm {
        take(
            &mut spec.publish,
            |port| gone.names(port),
            || format!("no published port {gone}"),
            &spec.name,
        )?;
    }
    let known = spec.publish.clone();
    let added = publish(flags.publish_add, &flags.publish_allow);
    spec.publish
        .extend(added.into_iter().filter(|port| !known.contains(port)));
    for (network, alias) in &flags.alias_rm {
        let (service, what) = (spec.name.clone(), || {
            format!("no alias {alias:?} on network {network:?}")
        });
        take(
            aliases(spec, network)?,
            |known| normal(known) == normal(alias),
            what,
            &service,
        )?;
    }
    for (network, alias) in flags.alias_add {
        add(aliases(spec, &network)?, vec![alias]);
    }
    for name in &flags.port_rm {
        let is_it = |port: &NamedPort| port.name.eq_ignore_ascii_case(name);
        take(
            &mut spec.ports,
            is_it,
            || format!("no port called {name:?}"),
            &spec.name,
        )?;
    }
    for port in flags.port_add {
        spec.ports.retain(|known| {
            known.protocol != port.protocol || !known.name.eq_ignore_ascii_case(&port.name)
        });
        spec.ports.push(port);
    }
    spec.stack = flags.stack.map_or(spec.stack.take(), |stack| {
        Some(stack).filter(|stack| !stack.is_empty())
    });
    spec.publish_not_ready = flags
        .dns_publish_not_ready
        .unwrap_or(spec.publish_not_ready);
    let balance = &mut spec.balance;
    balance.scheduler = flags.lb.unwrap_or(balance.scheduler);
    let affinity = |time: Millis| (time.0 > 0).then(|| seconds(time));
    balance.affinity = flags.affinity.map_or(balance.affinity, affinity);
    Ok(())
}

/// Applies flags about the tasks' resolver to a spec. Errors: something to remove does not exist.
pub(crate) fn resolver(spec: &mut ServiceSpec, flags: Resolver) -> Result<()> {
    let (
        DnsConfig {
            servers,
            search,
            options,
        },
        service,
    ) = (&mut spec.task.dns, &spec.name);
    replace(servers, flags.dns_rm, flags.dns_add, "DNS server", service)?;
    replace(
        search,
        flags.dns_search_rm,
        flags.dns_search_add,
        "search domain",
        service,
    )?;
    replace(
        options,
        flags.dns_option_rm,
        flags.dns_option_add,
        "resolver option",
        service,
    )
}

/// The aliases on the network of this name or id.
fn aliases<'a>(spec: &'a mut ServiceSpec, network: &str) -> Result<&'a mut Vec<String>> {
    let names: Vec<String> = spec
        .networks
        .iter()
        .map(|attachment| attachment.network.clone())
        .collect();
    let found = spec
        .networks
        .iter_mut()
        .find(|attachment| attachment.network.eq_ignore_ascii_case(network));
    found
        .map(|attachment| &mut attachment.aliases)
        .ok_or_else(|| {
            let cause = format!(
                "service {} was not asked to be on network {network:?}",
                spec.name
            );
            let next = match names.is_empty() {
                true => "aliases are for networks that `service create --network` named".to_owned(),
                false => format!("write NETWORK=ALIAS with one of: {}", names.join(", ")),
            };
            Refusal::new(Kind::Invalid, cause, next).into()
        })
}

fn replace<T: PartialEq + ToString>(
    all: &mut Vec<T>,
    gone: Vec<T>,
    new: Vec<T>,
    what: &str,
    service: &str,
) -> Result<()> {
    for gone in gone {
        take(
            all,
            |known| *known == gone,
            || format!("no {what} {}", gone.to_string()),
            service,
        )?;
    }
    add(all, new);
    Ok(())
}

fn add<T: PartialEq>(all: &mut Vec<T>, new: Vec<T>) {
    for new in new {
        if !all.contains(&new) {
            all.push(new);
        }
    }
}

fn take<T>(
    all: &mut Vec<T>,
    is_it: impl Fn(&T) -> bool,
    lack: impl Fn() -> String,
    service: &str,
) -> Result<()> {
    let before = all.len();
    all.retain(|one| !is_it(one));
    if all.len() < before {
        return Ok(());
    }
    let next = format!(
        "nothing was changed; `swarmctl service inspect {service}` shows the present \
         values"
    );
    Err(Refusal::new(
        Kind::NotFound,
        format!("service {service} has {}", lack()),
        next,
    )
    .into())
}
