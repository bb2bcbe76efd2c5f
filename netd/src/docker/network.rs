//! Network methods of the driver: each network of the engine is one of the cluster's, attached or
//! created.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use model::{
    AddressWish, Command, ContainerCommand, ContainerKey, ContainerSpec, Driver, Kind,
    NetworkCommand, NetworkInfo, NetworkSpec, Outcome, ParseError, Question, Refusal, Subnet,
    SubnetLease, SubnetSpec,
};

use super::{
    Plugin,
    journal::NetworkRecord,
    pool::{self, Pool},
    refusal::{invalid, lacks},
    wire,
};

/// The option that names a network of the cluster.
pub(crate) const NETWORK: &str = "netd.network";
/// The option that names the network that is made.
const NAME: &str = "netd.name";
/// Options that begin so are the network's labels.
const LABEL: &str = "netd.label.";
/// The label of a network that waits for its name.
const UNNAMED: &str = "netd.unnamed";
/// The label that tells which network of an engine one was made for.
pub(crate) const MADE_FOR: &str = "netd.docker";

impl Plugin {
    pub(super) async fn create_network(
        &self,
        asked: wire::CreateNetwork,
    ) -> Result<wire::Nothing, Refusal> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if asked.network.is_empty()
            || asked.network.len() > 128
            || !asked.network.bytes().all(is_plain)
        {
            return Err(invalid(
                format!("{:?} is not the identity of a network", asked.network),
                "",
            ));
        }
        if self
            .journal
            .networks
            .get(&asked.network)
            .is_some_and(|known| known.network.is_some() && !known.removed)
        {
            return Ok(wire::Nothing {});
        }
        let pools = Pools::of(&asked)?;
        let mut options = asked.generic();
        let mut record = NetworkRecord {
            network: None,
            made: None,
            unnamed: false,
            pools: pools.names(),
            subnets: Vec::new(),
            internal: false,
            lan: false,
            aux: pools.aux.clone(),
            removed: false,
            since: super::now(),
        };
        let network = match options.remove(NETWORK) {
            Some(name) => {
                let network = self.ask(Question::network(&name)).await?;
                refuse_mismatch(&network, &asked, &pools, &options)?;
                network
            }
            None => {
                self.make_network(&asked, &pools, options, &mut record)
                    .await?
            }
        };
        pools.refuse_missing(&network)?;
        let gateways = network
            .status
            .subnets
            .iter()
            .map(|lease| Pool::Of(network.id, lease.subnet).to_string());
        record.pools.extend(gateways);
        record.network = Some(network.id);
        record.subnets = network.status.subnets;
        record.internal = network.spec.internal || asked.flag(wire::INTERNAL);
        record.lan = network.spec.driver.is_lan();
        self.keep(self.journal.networks.put(&asked.network, &record))?;
        if let Err(refusal) = self.hold_aside(&record).await {
            self.delete_network(wire::OfNetwork {
                network: asked.network,
            })
            .await?;
            return Err(refusal);
        }
        self.news.notify_one();
        Ok(wire::Nothing {})
    }

    /// Makes a network of the cluster.
    async fn make_network(
        &self,
        asked: &wire::CreateNetwork,
        pools: &Pools,
        options: BTreeMap<String, String>,
        record: &mut NetworkRecord,
    ) -> Result<NetworkInfo, Refusal> {
        let mut spec = spec(asked, options)?;
        let range = |subnet: Subnet| self.journal.ranges.get(&subnet.to_string());
        let given = pools.subnets.iter();
        spec.subnets = given
            .map(|&(subnet, gateway)| SubnetSpec {
                subnet,
                gateway: Some(gateway),
                range: range(subnet),
            })
            .collect();
        if !spec.subnets.is_empty() && !pools.any.is_empty() {
            let cause = "one family has a --subnet and the other has none";
            return Err(invalid(
                cause,
                "give a --subnet of IPv4 and, with --ipv6, one of IPv6; or none at all",
            ));
        }
        self.refuse_existing(&spec).await?;
        record.made = Some(spec.name.clone());
        record.unnamed = spec.labels.contains_key(UNNAMED);
        self.keep(self.journal.networks.put(&asked.network, record))?;
        let made = self
            .propose(Command::Network(NetworkCommand::Create {
                spec: spec.clone(),
            }))
            .await;
        let id = match made {
            Ok(Outcome::Network(id)) => id.to_string(),
            Ok(_) => spec.name,
            Err(refusal) => {
                if refusal.kind != Kind::Unavailable {
                    self.keep(self.journal.networks.remove(&asked.network))?;
                }
                return Err(refusal);
            }
        };
        for subnet in pools.subnets.iter().map(|(subnet, _)| subnet.to_string()) {
            self.keep(self.journal.ranges.remove(&subnet))?;
        }
        self.ask(Question::network(id)).await
    }

    /// Refuses a subnet that another network has, unless that network is a leftover.
    async fn refuse_existing(&self, spec: &NetworkSpec) -> Result<(), Refusal> {
        let is_given = |lease: &SubnetLease| {
            spec.subnets
                .iter()
                .any(|given| given.subnet == lease.subnet)
        };
        let has_name = |known: &NetworkInfo| known.spec.name.eq_ignore_ascii_case(&spec.name);
        let clashes =
            |known: &NetworkInfo| has_name(known) || known.status.subnets.iter().any(is_given);
        for known in self
            .ask(Question::networks())
            .await?
            .into_iter()
            .filter(clashes)
        {
            // A name that is taken is refused by the cluster.
            if self.gives_up_left_over(&known).await? || has_name(&known) {
                continue;
            }
            let name = &known.spec.name;
            let cause = format!("a network of the cluster has this subnet: {name}");
            let next =
                format!("attach that one with -o {NETWORK}={name}, or give another --subnet");
            return Err(Refusal::new(Kind::Conflict, cause, next));
        }
        Ok(())
    }

    /// Gives up a network of the cluster that was made for one of this engine's which it has not,
    /// because one of the two died while it was made or removed.
    async fn gives_up_left_over(&self, known: &NetworkInfo) -> Result<bool, Refusal> {
        let Some(id) = known.spec.labels.get(MADE_FOR) else {
            return Ok(false);
        };
        let Some(record) = self.journal.networks.get(id) else {
            return Ok(false);
        };
        let is_left_over = record.removed
            || self.is_of_before(record.since) && self.has_network(id).await == Some(false);
        if is_left_over {
            tracing::info!(
                network = id,
                name = known.spec.name,
                "the engine no longer has this network"
            );
            self.keep(self.journal.networks.put(
                id,
                &NetworkRecord {
                    removed: true,
                    ..record
                },
            ))?;
            self.remove_network(id).await?;
        }
        Ok(is_left_over)
    }

    /// Takes the addresses that no container is to have out of the pool, if nobody else has done
    /// so. Errors: a container or a service has one.
    pub(super) async fn hold_aside(&self, record: &NetworkRecord) -> Result<(), Refusal> {
        let Some(network) = record.network.filter(|_| !record.aux.is_empty()) else {
            return Ok(());
        };
        let kept = self.kept(record, &network.to_string()).await?;
        for &address in record.aux.difference(&kept) {
            let wish = AddressWish {
                wanted: true,
                exact: Some(address),
                within: None,
            };
            let (ipv4, ipv6) = match address {
                IpAddr::V4(_) => (wish, AddressWish::default()),
                IpAddr::V6(_) => (AddressWish::default(), wish),
            };
            let (key, network) = (self.key(&aux_key(record, address))?, network.to_string());
            let (mac, sandbox, left, traits) = (None, None, false, None);
            let spec = ContainerSpec {
                key,
                network,
                ipv4,
                ipv6,
                mac,
                sandbox,
                left,
                traits,
            };
            self.propose(Command::Container(ContainerCommand::Attach {
                spec: Box::new(spec),
            }))
            .await?;
        }
        Ok(())
    }

    /// Reserved addresses of a network: gateways, nodes on its LAN, and auxiliary addresses of
    /// engines.
    async fn kept(&self, record: &NetworkRecord, name: &str) -> Result<BTreeSet<IpAddr>, Refusal> {
        let network = self.ask(Question::network(name)).await?;
        let mut kept: BTreeSet<IpAddr> = network
            .status
            .subnets
            .iter()
            .map(|lease| lease.gateway)
            .collect();
        let addresses = network
            .status
            .endpoints
            .iter()
            .flat_map(|found| found.addresses.iter().map(move |held| (found, *held)));
        kept.extend(
            addresses
                .filter(|(found, held)| found.name == aux_key(record, *held))
                .map(|(_, held)| held),
        );
        let nodes = self.ask(Question::nodes()).await?;
        kept.extend(nodes.iter().flat_map(|node| [node.vtep, node.address.ip()]));
        Ok(kept)
    }

    pub(super) async fn delete_network(
        &self,
        asked: wire::OfNetwork,
    ) -> Result<wire::Nothing, Refusal> {
        if let Some(record) = self.journal.networks.get(&asked.network) {
            self.keep(self.journal.networks.put(
                &asked.network,
                &NetworkRecord {
                    removed: true,
                    ..record
                },
            ))?;
            self.remove_soon(&asked.network).await;
        }
        Ok(wire::Nothing {})
    }

    /// Releases the holds of a network that the engine has removed, and removes the cluster's
    /// network if it was made for it and is unused.
    pub(super) async fn remove_network(&self, id: &str) -> Result<(), Refusal> {
        let Some(record) = self.journal.networks.get(id) else {
            return Ok(());
        };
        // Other networks of this engine that are the same one of the cluster.
        let mut others = self.journal.networks.all();
        others.retain(|other, known| other != id && known.network == record.network);
        if others.is_empty() {
            self.give_up_endpoints(&record).await?;
        }
        let kept = others.into_values().flat_map(|other| other.aux).collect();
        let aux = record
            .aux
            .difference(&kept)
            .map(|&address| self.key(&aux_key(&record, address)));
        let keys: Vec<ContainerKey> = aux.collect::<Result<_, _>>()?;
        if record.network.is_some() && !keys.is_empty() {
            self.propose(Command::Container(ContainerCommand::Detach { keys }))
                .await?;
        }
        if record.made.is_some() {
            self.remove_made(id, &record).await?;
            // Another one may wait for its name.
            self.news.notify_one();
        }
        self.keep(self.journal.networks.remove(id))
    }

    /// Holds of a network that the engine has removed: it has no endpoints there any more, even if
    /// a release was missed.
    async fn give_up_endpoints(&self, record: &NetworkRecord) -> Result<(), Refusal> {
        let held = self
            .journal
            .holds
            .all()
            .into_iter()
            .filter(|(_, hold)| Some(hold.network) == record.network);
        for (key, _) in held {
            let _turn = self.turn(&key).await;
            self.detach(&key).await?;
        }
        Ok(())
    }

    async fn remove_made(&self, id: &str, record: &NetworkRecord) -> Result<(), Refusal> {
        let networks = self.ask(Question::networks()).await?;
        let is_meant = |known: &&NetworkInfo| match record.network {
            Some(network) => known.id == network,
            None => known
                .spec
                .labels
                .get(MADE_FOR)
                .is_some_and(|label| label == id),
        };
        let Some(known) = networks.iter().find(is_meant) else {
            return Ok(());
        };
        match self
            .propose(Command::Network(NetworkCommand::Remove {
                network: known.id.to_string(),
            }))
            .await
        {
            Err(refusal) if refusal.kind == Kind::Unavailable => Err(refusal),
            Err(refusal) => {
                tracing::info!(network = known.spec.name, %refusal,
                    "the engine removed its network; the cluster's stays");
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }
}

/// The key of an address that is held for nobody.
pub(crate) fn aux_key(record: &NetworkRecord, address: IpAddr) -> String {
    format!(
        "{}/aux/{address}",
        record.network.map(|id| id.to_string()).unwrap_or_default()
    )
}

/// The pool requests that precede a network.
struct Pools {
    subnets: Vec<(Subnet, IpAddr)>,
    any: Vec<Pool>,
    aux: BTreeSet<IpAddr>,
}

impl Pools {
    fn of(asked: &wire::CreateNetwork) -> Result<Self, Refusal> {
        let mut pools = Self {
            subnets: Vec::new(),
            any: Vec::new(),
            aux: BTreeSet::new(),
        };
        for data in asked.ipv4.iter().chain(&asked.ipv6) {
            if data.address_space != wire::ADDRESS_SPACE {
                let cause = format!("the pool {} does not belong to the cluster", data.pool);
                return Err(invalid(
                    cause,
                    "give --ipam-driver netd, too: addresses come from the cluster",
                ));
            }
            let told = Pool::told(&data.pool, &data.gateway);
            match told.ok_or_else(|| invalid(format!("{:?} is not a prefix", data.pool), ""))? {
                Pool::Subnet(subnet) => {
                    let gateway = pool::address(&data.gateway).unwrap_or(pool::first(subnet));
                    pools.subnets.push((subnet, gateway));
                }
                any => pools.any.push(any),
            }
            pools.aux.extend(
                data.aux_addresses
                    .values()
                    .filter_map(|text| pool::address(text)),
            );
        }
        Ok(pools)
    }

    fn names(&self) -> BTreeSet<String> {
        let subnets = self.subnets.iter().map(|&(subnet, _)| Pool::Subnet(subnet));
        self.any
            .iter()
            .copied()
            .chain(subnets)
            .map(|pool| pool.to_string())
            .collect()
    }

    /// Every pool has something of the network behind it.
    fn refuse_missing(&self, network: &NetworkInfo) -> Result<(), Refusal> {
        for pool in &self.any {
            let has = network
                .status
                .subnets
                .iter()
                .any(|lease| lease.subnet.family() == pool.family());
            if !has {
                return Err(lacks(network, None, pool.family()));
            }
        }
        Ok(())
    }
}

/// Compares an attached network with the user's options; options that are not given match.
fn refuse_mismatch(
    network: &NetworkInfo,
    asked: &wire::CreateNetwork,
    pools: &Pools,
    options: &BTreeMap<String, String>,
) -> Result<(), Refusal> {
    let name = &network.spec.name;
    let differs = |what: &str, next: String| {
        let cause = format!("network {name} of the cluster is not as asked for: {what}");
        Err(Refusal::new(Kind::Conflict, cause, next))
    };
    refuse_ipvlan(network.spec.driver)?;
    if !network.spec.attachable {
        let cause = format!("network {name} is not attachable: it is for services only");
        return Err(Refusal::new(
            Kind::Precondition,
            cause,
            "make one with `swarmctl network create --attachable`",
        ));
    }
    for &(subnet, gateway) in &pools.subnets {
        let mut leases = network.status.subnets.iter();
        let Some(lease) = leases.find(|lease| lease.subnet == subnet) else {
            return Err(lacks(network, Some(subnet), subnet.family()));
        };
        if lease.gateway != gateway {
            return differs(
                &format!(
                    "the gateway of {subnet} is {}, not {gateway}",
                    lease.gateway
                ),
                "leave --gateway out".to_owned(),
            );
        }
    }
    if asked.flag(wire::INTERNAL) && !network.spec.internal {
        return differs("it has a way out", "leave --internal out".to_owned());
    }
    for (key, value) in options.iter().filter(|(key, _)| !key.starts_with("netd.")) {
        let has = match key.as_str() {
            "encrypted" => is_true(value) == network.spec.encrypted,
            "driver" => *value == network.spec.driver.to_string(),
            _ => network.spec.options.get(key) == Some(value),
        };
        if !has {
            return differs(
                &format!("{key}={value} does not match"),
                format!("leave -o {key} out"),
            );
        }
    }
    Ok(())
}

/// Spec of the cluster's network for the engine's network.
fn spec(
    asked: &wire::CreateNetwork,
    mut options: BTreeMap<String, String>,
) -> Result<NetworkSpec, Refusal> {
    let encrypted = options
        .remove("encrypted")
        .is_some_and(|value| is_true(&value));
    let driver = options
        .remove("driver")
        .map_or(Ok(Driver::Overlay), |text| text.parse());
    let driver = driver.map_err(|error: ParseError| {
        invalid(error.cause, "give -o driver=overlay or -o driver=macvlan")
    })?;
    refuse_ipvlan(driver)?;
    let engine_id = &asked.network;
    let mut labels = BTreeMap::from([(MADE_FOR.to_owned(), engine_id.clone())]);
    let name = options.remove(NAME).unwrap_or_else(|| {
        labels.insert(UNNAMED.to_owned(), "true".to_owned());
        format!("docker-{}", engine_id.get(..12).unwrap_or(engine_id))
    });
    options.retain(|key, value| match key.strip_prefix(LABEL) {
        Some(label) => labels
            .insert(label.to_owned(), value.clone())
            .is_some_and(|_| false),
        None => true,
    });
    Ok(NetworkSpec {
        name,
        driver,
        subnets: Vec::new(),
        internal: asked.flag(wire::INTERNAL),
        encrypted,
        attachable: true,
        labels,
        options,
    })
}

fn refuse_ipvlan(driver: Driver) -> Result<(), Refusal> {
    let cause = "Docker gives each endpoint an Ethernet address of its own, which ipvlan endpoints \
                 do not have";
    if driver == Driver::Ipvlan {
        Err(invalid(cause, "use a macvlan network"))
    } else {
        Ok(())
    }
}

/// `-o encrypted` alone is a yes.
fn is_true(value: &str) -> bool {
    matches!(value, "" | "true" | "1" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_made_as_asked_and_waits_for_its_name() {
        let options = |given: &[(&str, &str)]| {
            given
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect::<BTreeMap<_, _>>()
        };
        let asked = |network: &str| wire::CreateNetwork {
            network: network.to_owned(),
            ..wire::CreateNetwork::default()
        };
        let mut internal = asked("0123456789abcdef");
        internal
            .options
            .insert(wire::INTERNAL.to_owned(), true.into());
        let made = spec(
            &internal,
            options(&[("encrypted", ""), ("mtu", "1400"), ("netd.label.a", "b")]),
        );
        let made = made.unwrap();
        assert_eq!(
            (made.name.as_str(), made.encrypted, made.internal),
            ("docker-0123456789ab", true, true)
        );
        assert_eq!(
            (made.options, made.labels["a"].as_str()),
            (options(&[("mtu", "1400")]), "b")
        );
        assert!(made.labels.contains_key(UNNAMED) && made.labels.contains_key(MADE_FOR));
        let made = spec(
            &asked("0123"),
            options(&[(NAME, "mine"), ("driver", "macvlan")]),
        )
        .unwrap();
        assert_eq!(
            (made.name.as_str(), made.driver, made.labels.len()),
            ("mine", Driver::Macvlan, 1)
        );
        assert!(spec(&asked("0123"), options(&[("driver", "ipvlan")])).is_err());
    }
}
