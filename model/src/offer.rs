//! What names and balancers are derived from: services on their networks, their slots, and
//! containers that serve them. From [`crate::Level::SHARED_VIEWS`] on a view carries these records,
//! one for each slot, and its reader derives the rest, so that a change of one replica is as large
//! as one replica. Before, whoever projects the view derives it, by the same functions.
//!
//! A service is `web`, each replica `web.1`, all of them `tasks.web`; its aliases on a network
//! stand beside `web`. In a stack each of these is also `NAME.STACK`, and a service called after
//! its stack, `shop-web` or `shop_web`, is `web.shop` as well. Containers of others have the names
//! that their runtimes give them, as far as no service has them ([`crate::dns_name`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use crate::{
    Balance, EndpointId, NameConfig, NamedPort, NetworkId, NodeConfig, PublishMode,
    PublishedConfig, Publisher, ServiceId, VirtualServiceConfig,
    dns_name::{self, Holder, Use},
    node_config::Derive,
};

/// Weight of a real server that takes new connections.
pub const TAKES: u16 = 1;
/// Weight of a real server that only keeps the connections it has.
pub const KEEPS: u16 = 0;

/// A network that the host's own tasks or containers are on: it has names there. A host may know
/// another network only because its published ports lead there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinedConfig {}

/// A service on one of its networks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferConfig {
    /// Name that people gave it, unique among those of its kind.
    pub name: String,
    /// The stack that it is part of.
    pub stack: Option<String>,
    /// Its aliases on this network.
    pub aliases: Vec<String>,
    /// The ports that SRV records of its names tell.
    pub ports: Vec<NamedPort>,
    /// Its virtual IPs, one per family; none with `dnsrr`.
    pub vips: Vec<IpAddr>,
    /// Scheduler and affinity of its virtual IPs.
    pub balance: Balance,
    /// It is being removed: it is led to for as long as something of it is there.
    pub removing: bool,
    /// Names lead also to what is not ready yet.
    pub publish_not_ready: bool,
}

/// A slot of a service, on one of the service's networks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotConfig {
    /// What names lead to; empty while they lead nowhere. `None`: it has no name, for it is not
    /// wanted.
    pub named: Option<Vec<IpAddr>>,
    /// Its addresses as real servers, with weights (0: no new connections).
    pub real_servers: BTreeMap<IpAddr, u16>,
}

/// A container of others, on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberConfig {
    /// What its runtime calls it, in lower case, the name to resolve back to first. Services may
    /// have taken them. Of one label each below [`crate::Level::COMPOUNDS`].
    pub names: Vec<String>,
    /// Its aliases and the name of the service that it serves, in lower case: others may have them
    /// too.
    pub shared: BTreeSet<String>,
    /// The service that it serves, if there is one of this name (in lower case).
    pub service: Option<String>,
    /// Its IP addresses: at most one per family, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Its ports that have a name.
    pub ports: Vec<NamedPort>,
    /// Only its own names lead to it.
    pub unready: bool,
    /// Its host has a session with the leader.
    pub reachable: bool,
}

/// Names of a network with what they mean there.
type Names = BTreeMap<(NetworkId, String), NameConfig>;

impl NodeConfig {
    /// Derives names, virtual services and the real servers of ports that every host answers at,
    /// on all networks.
    pub fn derive(&mut self) {
        let of_offers = self.offers.keys().map(|(network, _)| *network);
        let networks: BTreeSet<NetworkId> = of_offers.chain(self.joined.keys().copied()).collect();
        self.names.clear();
        self.services.clear();
        networks
            .into_iter()
            .for_each(|network| self.derive_network(network));
    }

    /// The same where records have changed.
    pub(crate) fn derive_again(&mut self, changed: &[Derive]) {
        let mut networks = BTreeSet::new();
        let mut slots: BTreeMap<(NetworkId, ServiceId), BTreeSet<u32>> = BTreeMap::new();
        for derive in changed {
            match *derive {
                Derive::Network(network) => drop(networks.insert(network)),
                Derive::Slot((network, (service, number))) => {
                    slots.entry((network, service)).or_default().insert(number);
                }
            }
        }
        for ((network, service), numbers) in slots {
            if !networks.contains(&network) && !self.derive_slots(network, service, &numbers) {
                networks.insert(network);
            }
        }
        networks
            .into_iter()
            .for_each(|network| self.derive_network(network));
    }

    /// Derives what leads to these slots, unless somebody else shares the service's names.
    fn derive_slots(
        &mut self,
        network: NetworkId,
        service: ServiceId,
        numbers: &BTreeSet<u32>,
    ) -> bool {
        let Some(offer) = self.offers.get(&(network, service)) else {
            return false;
        };
        let zone = Zone::of(self, network);
        if offer.removing || !zone.has_names_alone(service, offer) {
            return false;
        }
        let servers = zone.real_servers_of(self, service, offer);
        let mut names = Names::new();
        let mut gone = Vec::new();
        if self.joined.contains_key(&network) {
            zone.add_service(&mut names, self, (service, offer), Some(numbers));
            for (base, suffix) in offer.bases() {
                let slots = numbers.iter();
                let keys = slots.map(|number| (network, format!("{base}.{number}{suffix}")));
                gone.extend(keys.filter(|key| !names.contains_key(key)));
            }
        }
        for key in &gone {
            self.names.remove(key);
        }
        self.names.extend(names);
        self.lead_ports(network, service, &servers);
        self.lead_vips((network, service), servers);
        true
    }

    /// Ports of every host lead to the service's real servers.
    fn lead_ports(
        &mut self,
        network: NetworkId,
        service: ServiceId,
        servers: &BTreeMap<IpAddr, u16>,
    ) {
        let publisher = Publisher::Service(service);
        let ports = self.published.range((publisher, String::new())..);
        let ports = ports.take_while(|((other, _), _)| *other == publisher);
        let is_led = |port: &PublishedConfig| {
            let is_shared = port.network == network && port.shared_by(publisher).is_some();
            is_shared && port.real_servers != *servers
        };
        let led = ports.filter(|(_, port)| is_led(port));
        let led: Vec<_> = led.map(|(key, _)| key.clone()).collect();
        for key in &led {
            if let Some(port) = self.published.get_mut(key) {
                port.real_servers.clone_from(servers);
            }
        }
    }

    /// A service's virtual IPs, if it has any, lead to its real servers.
    fn lead_vips(&mut self, key: (NetworkId, ServiceId), servers: BTreeMap<IpAddr, u16>) {
        let known = self.services.get(&key);
        if known.is_some_and(|service| service.real_servers != servers)
            && let Some(service) = self.services.get_mut(&key)
        {
            service.real_servers = servers;
        }
    }

    /// The same of all that is on a network.
    fn derive_network(&mut self, network: NetworkId) {
        let zone = Zone::of(self, network);
        let servers = zone.real_servers(self);
        let (mut names, mut services) = (Names::new(), BTreeMap::new());
        if self.joined.contains_key(&network) {
            names = zone.names(self);
            services = zone.virtual_services(&servers);
        }
        let old = self.names.range((network, String::new())..);
        let old = old.take_while(|((on, _), _)| *on == network);
        let gone = old.filter(|(key, _)| !names.contains_key(*key));
        let gone: Vec<_> = gone.map(|(key, _)| key.clone()).collect();
        for key in &gone {
            self.names.remove(key);
        }
        self.names.extend(names);
        let old = (self.services).range((network, ServiceId(0))..=(network, ServiceId(u64::MAX)));
        let gone = old.filter(|(key, _)| !services.contains_key(*key));
        let gone: Vec<_> = gone.map(|(key, _)| *key).collect();
        for key in &gone {
            self.services.remove(key);
        }
        self.services.extend(services);
        for (service, servers) in &servers {
            self.lead_ports(network, *service, servers);
        }
    }
}

impl PublishedConfig {
    /// The service to all of whose real servers every host leads this port.
    pub fn shared_by(&self, publisher: Publisher) -> Option<ServiceId> {
        match publisher {
            Publisher::Service(service) if self.spec.mode == PublishMode::Ingress => Some(service),
            Publisher::Service(_) | Publisher::Container(_) => None,
        }
    }
}

impl OfferConfig {
    /// What its names begin with and end with, its own first.
    fn bases(&self) -> Vec<(String, String)> {
        let (name, mut aliases) = (self.lower(), self.lower_aliases());
        aliases.remove(&name);
        let plain = [&name].into_iter().chain(&aliases);
        let mut bases: Vec<_> = plain.map(|base| (base.clone(), String::new())).collect();
        if let Some(stack) = self.lower_stack() {
            aliases.extend(name_in_stack(&name, &stack));
            aliases.insert(name);
            let suffix = format!(".{stack}");
            bases.extend(aliases.into_iter().map(|base| (base, suffix.clone())));
        }
        bases
    }

    fn lower(&self) -> String {
        self.name.to_ascii_lowercase()
    }

    fn lower_aliases(&self) -> BTreeSet<String> {
        let aliases = self.aliases.iter();
        aliases.map(|alias| dns_name::normal(alias)).collect()
    }

    /// Whether a dotted alias of this service ends with the other one's stack. It is refused, but
    /// not while the other one is being removed.
    fn names_into(&self, other: &Self) -> bool {
        let Some(stack) = other.lower_stack() else {
            return false;
        };
        let mut aliases = self.lower_aliases().into_iter();
        aliases.any(|alias| dns_name::last_of_dotted(&alias) == Some(&stack))
    }

    fn lower_stack(&self) -> Option<String> {
        self.stack.as_ref().map(|stack| stack.to_ascii_lowercase())
    }
}

/// One network's records.
struct Zone<'a> {
    network: NetworkId,
    offers: Vec<(ServiceId, &'a OfferConfig)>,
    members: Vec<&'a MemberConfig>,
    /// Names of services, and whether each is a service's own or an alias.
    claimed: BTreeMap<String, Holder>,
    /// Stacks of services.
    stacks: BTreeSet<String>,
}

impl<'a> Zone<'a> {
    fn of(config: &'a NodeConfig, network: NetworkId) -> Self {
        let offers = config
            .offers
            .range((network, ServiceId(0))..=(network, ServiceId(u64::MAX)));
        let offers: Vec<_> = offers.map(|((_, id), offer)| (*id, offer)).collect();
        let members = config
            .members
            .range((network, EndpointId(0))..=(network, EndpointId(u64::MAX)));
        let members = members.map(|(_, member)| member).collect();
        let mut claimed = BTreeMap::new();
        for (_, offer) in &offers {
            for alias in offer.lower_aliases() {
                claimed.entry(alias).or_insert(Holder::Alias);
            }
            claimed.insert(offer.lower(), Holder::Service);
        }
        let stacks = offers.iter().filter_map(|(_, offer)| offer.lower_stack());
        Self {
            stacks: stacks.collect(),
            network,
            offers,
            members,
            claimed,
        }
    }

    /// Whether a container's name leads to it.
    fn is_free(&self, name: &str, by: Use) -> bool {
        let of_stack = dns_name::last_of_dotted(name).filter(|last| self.stacks.contains(*last));
        let held = self.claimed.get(name).copied();
        dns_name::is_free(of_stack.map(|_| Holder::Stack).or(held), by)
    }

    fn members_of(&self, offer: &OfferConfig) -> impl Iterator<Item = &'a MemberConfig> {
        let name = offer.lower();
        let members = self.members.iter().copied();
        members.filter(move |member| member.service.as_ref() == Some(&name))
    }

    /// Real servers of each service. An unready container gets weight 0 and keeps its connections.
    fn real_servers(&self, config: &NodeConfig) -> BTreeMap<ServiceId, BTreeMap<IpAddr, u16>> {
        let offers = self.offers.iter();
        let found = offers.map(|(id, offer)| (*id, self.real_servers_of(config, *id, offer)));
        found.collect()
    }

    fn real_servers_of(
        &self,
        config: &NodeConfig,
        service: ServiceId,
        offer: &OfferConfig,
    ) -> BTreeMap<IpAddr, u16> {
        let mut servers = BTreeMap::new();
        for (_, slot) in config.slots_of(self.network, service) {
            servers.extend(&slot.real_servers);
        }
        for member in self.members_of(offer).filter(|member| member.reachable) {
            let keeps = member.unready || offer.removing;
            let weight = if keeps { KEEPS } else { TAKES };
            servers.extend(member.addresses.iter().map(|address| (*address, weight)));
        }
        servers
    }

    /// Whether no other service and no container has one of the service's names.
    fn has_names_alone(&self, service: ServiceId, offer: &OfferConfig) -> bool {
        let own: BTreeSet<(String, String)> = offer.bases().into_iter().collect();
        let mut others = self.offers.iter().filter(|(id, _)| *id != service);
        let mut shared = self.members.iter().flat_map(|member| &member.shared);
        let is_plain = |name: &String| own.contains(&(name.clone(), String::new()));
        let is_served = |name: &String| *name == offer.lower();
        !others.any(|(_, other)| {
            other.bases().iter().any(|base| own.contains(base))
                || other.names_into(offer)
                || offer.names_into(other)
        }) && !shared.any(|name| is_plain(name) && !is_served(name))
    }

    fn virtual_services(
        &self,
        servers: &BTreeMap<ServiceId, BTreeMap<IpAddr, u16>>,
    ) -> BTreeMap<(NetworkId, ServiceId), VirtualServiceConfig> {
        let mut services = BTreeMap::new();
        for &(id, offer) in &self.offers {
            let real_servers = servers.get(&id).cloned().unwrap_or_default();
            let is_emptied = offer.removing && real_servers.is_empty();
            if offer.vips.is_empty() || is_emptied {
                continue;
            }
            let service = VirtualServiceConfig {
                name: offer.name.clone(),
                vips: offer.vips.clone(),
                balance: offer.balance,
                real_servers,
            };
            services.insert((self.network, id), service);
        }
        services
    }

    fn names(&self, config: &NodeConfig) -> Names {
        let mut names = Names::new();
        for offer in &self.offers {
            self.add_service(&mut names, config, *offer, None);
        }
        for member in &self.members {
            self.add_member(&mut names, member);
        }
        names
    }

    /// Adds a service's names; of slots those of these numbers only.
    fn add_service(
        &self,
        names: &mut Names,
        config: &NodeConfig,
        (service, offer): (ServiceId, &OfferConfig),
        only: Option<&BTreeSet<u32>>,
    ) {
        let slots = config.slots_of(self.network, service);
        let slots: BTreeMap<u32, &[IpAddr]> = slots
            .filter_map(|(number, slot)| Some((number, &slot.named.as_ref()?[..])))
            .collect();
        // Of a service that is being removed names lead to what is not withdrawn yet.
        if offer.removing && slots.is_empty() {
            return;
        }
        let ready = self.members_of(offer).filter(|member| {
            let is_ready = !member.unready || offer.publish_not_ready;
            !offer.removing && is_ready && member.reachable
        });
        let members = ready
            .map(|member| (self.names_of(member).next(), &member.addresses[..]))
            .collect();
        Answers {
            names,
            network: self.network,
            offer,
            slots,
            members,
            only,
        }
        .add();
    }

    /// Names that always lead to this container; its addresses resolve back to the first.
    fn names_of(&self, member: &'a MemberConfig) -> impl Iterator<Item = &'a String> {
        let names = member.names.iter();
        names.filter(|name| self.is_free(name, Use::Own))
    }

    /// A container's names. Those that others may have too lead to it only while it is ready; so
    /// does the name of a service that is not there.
    fn add_member(&self, names: &mut Names, member: &'a MemberConfig) {
        let addresses = |leads: bool| {
            if leads {
                member.addresses.clone()
            } else {
                Vec::new()
            }
        };
        let mut own: Vec<&String> = self.names_of(member).collect();
        own.dedup();
        for (place, name) in own.iter().enumerate() {
            let record = NameConfig {
                canonical: place == 0,
                ports: member.ports.clone(),
                dotted: name.contains('.'),
                ..NameConfig::further(addresses(member.reachable))
            };
            put(names, (self.network, (*name).clone()), record);
        }
        let shared = member.shared.iter();
        let shared = shared.filter(|name| self.is_free(name, Use::Shared));
        for name in shared.filter(|name| !own.contains(name)) {
            let is_led = member.reachable && !member.unready;
            let target = own.first().filter(|_| is_led);
            let ports = if is_led {
                member.ports.clone()
            } else {
                Vec::new()
            };
            let record = NameConfig {
                addresses: addresses(is_led),
                canonical: false,
                dotted: name.contains('.'),
                ports,
                targets: target.into_iter().map(|name| (*name).clone()).collect(),
            };
            put(names, (self.network, name.clone()), record);
        }
    }
}

impl NodeConfig {
    /// A service's slots on a network.
    fn slots_of(
        &self,
        network: NetworkId,
        service: ServiceId,
    ) -> impl Iterator<Item = (u32, &SlotConfig)> {
        let all = (network, (service, 0))..=(network, (service, u32::MAX));
        let slots = self.slots.range(all);
        slots.map(|((_, (_, number)), slot)| (*number, slot))
    }
}

/// Those who share a name share its answer, except that what is formed hides what was given.
fn put(names: &mut Names, key: (NetworkId, String), record: NameConfig) {
    let none = NameConfig {
        dotted: record.dotted,
        ..NameConfig::further(Vec::new())
    };
    let known = names.entry(key).or_insert_with(|| none.clone());
    match (known.dotted, record.dotted) {
        (false, true) => return,
        (true, false) => *known = none,
        _ => {}
    }
    known.addresses.extend(record.addresses);
    known.canonical |= record.canonical;
    known.targets.extend(record.targets);
    let is_new = |port: &NamedPort| !known.ports.contains(port);
    let ports: Vec<NamedPort> = record.ports.into_iter().filter(is_new).collect();
    known.ports.extend(ports);
}

/// A service's part in the names of a network.
struct Answers<'a> {
    names: &'a mut Names,
    network: NetworkId,
    offer: &'a OfferConfig,
    /// Where each replica is; no address while it is to have no traffic.
    slots: BTreeMap<u32, &'a [IpAddr]>,
    /// What names lead to beside: containers of others, each under the name of its own that it may
    /// have.
    members: Vec<(Option<&'a String>, &'a [IpAddr])>,
    /// The slots whose own names are asked for; all of them without.
    only: Option<&'a BTreeSet<u32>>,
}

impl Answers<'_> {
    fn add(mut self) {
        let name = self.offer.lower();
        for (base, suffix) in self.offer.bases() {
            self.entry(&base, &suffix, &name);
        }
    }

    /// What `base` leads to, whatever comes behind it; `name` is the service's own.
    fn entry(&mut self, base: &str, suffix: &str, name: &str) {
        let members = self.members.iter().flat_map(|(_, addresses)| *addresses);
        let everyone = self.slots.values().copied().flatten().chain(members);
        let everyone: Vec<IpAddr> = everyone.copied().collect();
        let placed = self
            .slots
            .iter()
            .filter(|(_, addresses)| !addresses.is_empty());
        let tasks = placed.map(|(number, _)| format!("{name}.{number}"));
        let members = self.members.iter().filter_map(|(own, _)| own.cloned());
        let tasks: Vec<String> = tasks.chain(members).collect();
        let vips = &self.offer.vips;
        let is_plain = base == name && suffix.is_empty();
        let (addresses, targets) = match (vips.is_empty(), is_plain) {
            (true, _) => (everyone.clone(), tasks.clone()),
            (false, true) => (vips.clone(), Vec::new()),
            (false, false) => (vips.clone(), vec![name.to_owned()]),
        };
        let has_vips = !vips.is_empty();
        let whole = format!("{base}{suffix}");
        let dotted = base.contains('.');
        let record = NameConfig {
            canonical: is_plain && has_vips,
            dotted,
            ..NameConfig::further(addresses)
        };
        self.put(whole, record, targets);
        let record = NameConfig {
            dotted,
            ..NameConfig::further(everyone)
        };
        self.put(format!("tasks.{base}{suffix}"), record, tasks);
        let is_alias = base != name && suffix.is_empty();
        if is_alias {
            return;
        }
        let slots = std::mem::take(&mut self.slots);
        let only = self.only;
        let is_meant = |number: &u32| only.is_none_or(|only| only.contains(number));
        for (number, addresses) in slots.iter().filter(|(number, _)| is_meant(number)) {
            let targets = if is_plain {
                Vec::new()
            } else {
                vec![format!("{name}.{number}")]
            };
            let whole = format!("{base}.{number}{suffix}");
            let record = NameConfig {
                canonical: is_plain,
                dotted,
                ..NameConfig::further(addresses.to_vec())
            };
            self.put(whole, record, targets);
        }
        self.slots = slots;
    }

    fn put(&mut self, name: String, record: NameConfig, targets: Vec<String>) {
        let record = NameConfig {
            ports: self.offer.ports.clone(),
            targets,
            ..record
        };
        put(self.names, (self.network, name), record);
    }
}

/// `web` of `shop-web` or `shop_web` in the stack `shop`, all in lower case.
pub fn name_in_stack(name: &str, stack: &str) -> Option<String> {
    let rest = name.strip_prefix(stack)?.strip_prefix(['-', '_'])?;
    let is_name = !rest.starts_with(['-', '_']) && !rest.is_empty() && rest != "tasks";
    is_name.then(|| rest.to_owned())
}
