//! The IPAM driver: addresses come from the cluster's ledger, keyed by network and Ethernet
//! address.

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use model::{
    AddressWish, Command, Container, ContainerCommand, Failure, Family, Kind, Mac, NetworkInfo,
    Outcome, ParseError, Question, Refusal, Subnet, SubnetLease,
};

use super::{
    Plugin,
    journal::{Hold, NetworkRecord, Pending},
    network::NETWORK,
    pool::{self, Pool},
    refusal::{invalid, lacks},
    wire,
};

/// It is there where the kernel has IPv6.
const HAS_IPV6: &str = "/proc/sys/net/ipv6";

impl Plugin {
    pub(super) async fn request_pool(
        &self,
        asked: wire::RequestPool,
    ) -> Result<wire::Pool, Refusal> {
        let subnet = match asked.pool.as_str() {
            "" | "0.0.0.0/0" | "::/0" => None,
            given => Some(
                given
                    .parse::<Subnet>()
                    .map_err(|error| invalid(error, "write it as 10.0.9.0/24"))?,
            ),
        };
        let (pool, gateway) = match (asked.options.get(NETWORK), subnet) {
            (Some(name), subnet) => {
                let network = self.ask(Question::network(name)).await?;
                let lease = lease_of(&network, subnet, asked.family())?;
                (Pool::Of(network.id, lease.subnet), lease.gateway)
            }
            (None, Some(subnet)) => (Pool::Subnet(subnet), self.gateway_of(subnet).await?),
            (None, None) => match Pool::any(asked.family(), rand::random()) {
                Pool::Any(token) => return Ok(answer(Pool::Any(token), pool::alone(token))),
                other => (other, IpAddr::from([0, 0, 0, 0])),
            },
        };
        let range = self.range(subnet, &asked.sub_pool)?;
        let gateway = format!(
            "{gateway}/{}",
            subnet_of(pool).map_or(0, |subnet| subnet.prefix())
        );
        Ok(wire::Pool {
            id: pool::narrowed(pool, range),
            ..answer(pool, gateway)
        })
    }

    /// `--ip-range` is only part of this request. For a new network it becomes the network's range;
    /// for an attached one it is the range of this engine's containers.
    fn range(&self, subnet: Option<Subnet>, text: &str) -> Result<Option<Subnet>, Refusal> {
        let Some(subnet) = subnet else {
            return Ok(None);
        };
        if text.is_empty() {
            return self
                .keep(self.journal.ranges.remove(&subnet.to_string()))
                .map(|()| None);
        }
        let range: Subnet = text
            .parse()
            .map_err(|error| invalid(error, "write it as 10.0.9.128/25"))?;
        if !subnet.covers(&range) {
            let cause = format!("the --ip-range {range} is not inside the subnet {subnet}");
            return Err(invalid(cause, "give a part of it, or none"));
        }
        self.keep(self.journal.ranges.put(&subnet.to_string(), &range))
            .map(|()| Some(range))
    }

    /// The gateway of a prefix: that of the network that has it, else the one that a network made
    /// of it will have.
    async fn gateway_of(&self, subnet: Subnet) -> Result<IpAddr, Refusal> {
        let networks = self.ask(Question::networks()).await?;
        let known = networks
            .iter()
            .flat_map(|network| &network.status.subnets)
            .find(|lease| lease.subnet == subnet);
        Ok(known.map_or(pool::first(subnet), |lease| lease.gateway))
    }

    pub(super) fn release_pool(&self, asked: &wire::OfPool) -> Result<wire::Nothing, Refusal> {
        if let Ok(Pool::Subnet(subnet)) = pool::wide(&asked.pool).0.parse() {
            self.keep(self.journal.ranges.remove(&subnet.to_string()))?;
        }
        Ok(wire::Nothing {})
    }

    pub(super) async fn request_address(
        &self,
        asked: wire::OfPool,
    ) -> Result<wire::Address, Refusal> {
        let (name, within) = pool::wide(&asked.pool);
        let pool: Pool = name.parse().map_err(|()| foreign_pool(name))?;
        let exact = match asked.address.as_str() {
            "" => None,
            text => Some(
                pool::address(text)
                    .ok_or_else(|| invalid(format!("{text:?} is not an address"), ""))?,
            ),
        };
        if asked
            .options
            .get(wire::ADDRESS_TYPE)
            .is_some_and(|kind| kind == wire::GATEWAY)
        {
            return self.gateway(pool, exact).await;
        }
        let Some(mac) = asked.options.get(wire::MAC_ADDRESS) else {
            return aside(exact);
        };
        let mac: Mac = mac
            .parse()
            .map_err(|error: ParseError| Failure::from(error))?;
        let network = self.journal.pool(name).ok_or_else(|| foreign_pool(name))?;
        let address = self
            .hold(
                &network,
                mac,
                pool.family(),
                AddressWish {
                    wanted: true,
                    exact,
                    within,
                },
            )
            .await?;
        Ok(wire::Address {
            address: pool::alone(address),
            data: Default::default(),
        })
    }

    /// A gateway belongs to the network; the user's value is compared once the network is known.
    async fn gateway(&self, pool: Pool, exact: Option<IpAddr>) -> Result<wire::Address, Refusal> {
        let (address, prefix) = match (pool, exact) {
            (Pool::Any(token), _) => (token, if token.is_ipv6() { 128 } else { 32 }),
            (Pool::Subnet(subnet) | Pool::Of(_, subnet), Some(exact)) => (exact, subnet.prefix()),
            (Pool::Subnet(subnet) | Pool::Of(_, subnet), None) => {
                (self.gateway_of(subnet).await?, subnet.prefix())
            }
        };
        Ok(wire::Address {
            address: format!("{address}/{prefix}"),
            data: Default::default(),
        })
    }

    /// Holds an address for an endpoint that is to come. Asked again, the answer is the same.
    async fn hold(
        &self,
        network: &NetworkRecord,
        mac: Mac,
        family: Family,
        wish: AddressWish,
    ) -> Result<IpAddr, Refusal> {
        match self.try_hold(network, mac, family, wish).await {
            Err(refusal)
                if refusal.kind == Kind::Conflict
                    && self.frees(network, mac, wish.exact).await? =>
            {
                self.try_hold(network, mac, family, wish).await
            }
            held => held,
        }
    }

    /// Releases holds of endpoints that were never created because netd or the engine died, if they
    /// conflict with this request: otherwise the engine's repeated command would be refused.
    async fn frees(
        &self,
        network: &NetworkRecord,
        mac: Mac,
        exact: Option<IpAddr>,
    ) -> Result<bool, Refusal> {
        let Some(id) = network.network else {
            return Ok(false);
        };
        let attached = self.attached().await.unwrap_or_default().into_iter();
        let has_it = |container: &Container| {
            container.network == id
                && exact.is_some_and(|address| container.addresses.contains(&address))
        };
        let mut keys: BTreeSet<String> = attached
            .filter(has_it)
            .map(|container| container.key.id)
            .collect();
        keys.insert(format!("{id}/{mac}"));
        let mut frees = false;
        for key in keys {
            let _turn = self.turn(&key).await;
            let Some(hold) = self
                .journal
                .holds
                .get(&key)
                .filter(|hold| self.is_unfinished(hold))
            else {
                continue;
            };
            tracing::info!(key, addresses = ?hold.addresses,
                "released a hold that never became an endpoint");
            self.detach(&key).await?;
            frees = true;
        }
        Ok(frees)
    }

    /// Whether a hold without an endpoint is abandoned.
    fn is_unfinished(&self, hold: &Hold) -> bool {
        hold.sandbox.is_none() && self.is_of_before(hold.heard)
    }

    async fn try_hold(
        &self,
        network: &NetworkRecord,
        mac: Mac,
        family: Family,
        wish: AddressWish,
    ) -> Result<IpAddr, Refusal> {
        let id = network
            .network
            .ok_or_else(|| foreign_pool("of a network that is being made"))?;
        let key = format!("{id}/{mac}");
        let _turn = self.turn(&key).await;
        let known = self.usable(&key, family, wish.exact).await?;
        let fresh = || Hold {
            network: id,
            mac,
            addresses: BTreeSet::new(),
            added: None,
            endpoint: None,
            sandbox: None,
            traits: Default::default(),
            pending: None,
            since: super::now(),
            heard: 0,
        };
        let mut hold = Hold {
            heard: super::now(),
            ..known.unwrap_or_else(fresh)
        };
        // The hold is written before the request, so that an address that is granted after this
        // host has died can be found and released.
        self.keep(self.journal.holds.put(&key, &hold))?;
        let (ipv4, ipv6) = match family {
            Family::V4 => (wish, AddressWish::default()),
            Family::V6 => (AddressWish::default(), wish),
        };
        let mut spec = self.spec(&key, &hold)?;
        (spec.ipv4, spec.ipv6) = (ipv4, ipv6);
        let given = match self
            .propose(Command::Container(ContainerCommand::Attach {
                spec: Box::new(spec),
            }))
            .await
        {
            Ok(Outcome::Container(container)) => container
                .addresses
                .into_iter()
                .find(|given| Family::of(*given) == family),
            Ok(_) => None,
            Err(refusal) => {
                self.let_go(&key, hold, &refusal)?;
                return Err(refusal);
            }
        };
        let given = given.ok_or_else(|| {
            let cause = format!("network {id} has no {family} prefix");
            Refusal::new(
                Kind::Precondition,
                cause,
                "`swarmctl network inspect` shows what it has",
            )
        })?;
        hold.addresses.insert(given);
        hold.added = hold.added.filter(|added| *added != given);
        self.keep(self.journal.holds.put(&key, &hold))?;
        Ok(given)
    }

    /// Gives an endpoint an IPv6 address where its network has IPv6 and the engine has not asked
    /// for it: engines do so for networks made with `--ipv6` only, and take it from the driver
    /// otherwise. Its turn is the caller's.
    pub(super) async fn add_ipv6(
        &self,
        key: &str,
        network: &NetworkRecord,
        hold: &mut Hold,
    ) -> Result<Option<IpAddr>, Refusal> {
        let has_it = |addresses: &BTreeSet<IpAddr>| addresses.iter().any(IpAddr::is_ipv6);
        let mut leases = network.subnets.iter();
        let is_dual = leases.any(|lease| lease.subnet.family() == Family::V6);
        // On a host without IPv6 the engine could not set the address.
        if has_it(&hold.addresses) || !is_dual || !Path::new(HAS_IPV6).exists() {
            return Ok(hold.added);
        }
        let mut spec = self.spec(key, hold)?;
        spec.ipv6.wanted = true;
        let granted = self
            .propose(Command::Container(ContainerCommand::Attach {
                spec: Box::new(spec),
            }))
            .await?;
        if let Outcome::Container(container) = granted {
            hold.added = container.addresses.into_iter().find(IpAddr::is_ipv6);
            hold.addresses.extend(hold.added);
        }
        Ok(hold.added)
    }

    /// An existing hold of this key that may be taken over.
    async fn usable(
        &self,
        key: &str,
        family: Family,
        exact: Option<IpAddr>,
    ) -> Result<Option<Hold>, Refusal> {
        let Some(hold) = self.journal.holds.get(key) else {
            return Ok(None);
        };
        let held = hold
            .addresses
            .iter()
            .find(|address| Family::of(**address) == family)
            .copied();
        let is_other =
            hold.endpoint.is_none() && held.is_some() && exact.is_some() && held != exact;
        let is_left_over = hold.endpoint.is_some() && self.is_unfinished(&hold);
        if hold.pending == Some(Pending::Detach) || is_other || is_left_over {
            // Of an endpoint that has ended, or never came to be.
            self.detach(key).await?;
            return Ok(None);
        }
        if hold.endpoint.is_some() {
            // Refused even for another address: if no endpoint comes of this call its hold is
            // released, and that would be the other endpoint's.
            let cause = format!(
                "the Ethernet address {} is that of another endpoint on this network",
                hold.mac
            );
            return Err(Refusal::new(
                Kind::Conflict,
                cause,
                "give this container another --mac-address, or none",
            ));
        }
        Ok(Some(hold))
    }

    /// After a refusal, drop a hold without addresses. If the outcome is unknown (no leader), the
    /// watcher settles it later.
    fn let_go(&self, key: &str, hold: Hold, refusal: &Refusal) -> Result<(), Refusal> {
        if !hold.addresses.is_empty() {
            return Ok(());
        }
        match refusal.kind {
            Kind::Unavailable => {
                self.keep(self.journal.holds.put(
                    key,
                    &Hold {
                        pending: Some(Pending::Detach),
                        ..hold
                    },
                ))?;
                self.wake.notify_one();
                Ok(())
            }
            _ => self.keep(self.journal.holds.remove(key)),
        }
    }

    pub(super) async fn release_address(
        &self,
        asked: wire::OfPool,
    ) -> Result<wire::Nothing, Refusal> {
        let (Some(network), Some(address)) = (
            self.journal.pool(pool::wide(&asked.pool).0),
            pool::address(&asked.address),
        ) else {
            return Ok(wire::Nothing {});
        };
        let is_meant = |hold: &Hold| {
            Some(hold.network) == network.network && hold.addresses.contains(&address)
        };
        let Some((key, _)) = self.journal.holds.find(|_, hold| is_meant(hold)) else {
            return Ok(wire::Nothing {});
        };
        let turn = self.turn(&key).await;
        let Some(mut hold) = self.journal.holds.get(&key) else {
            return Ok(wire::Nothing {});
        };
        if hold.sandbox.is_some() && !self.is_of_before(hold.heard) {
            // An engine leaves first: this is about one that had the address before, and has lost
            // it to this one.
            return Ok(wire::Nothing {});
        }
        // The last one that is released takes the endpoint with it; the cluster gives up both at
        // once. IPv6 comes last.
        let mut others = hold.addresses.iter();
        let is_last = !others.any(|other| *other != address && Some(*other) != hold.added);
        if !is_last && address.is_ipv4() {
            hold.addresses.remove(&address);
            hold.heard = super::now();
        } else {
            hold.pending = Some(Pending::Detach);
        }
        self.keep(self.journal.holds.put(&key, &hold))?;
        drop(turn);
        if hold.pending == Some(Pending::Detach) {
            self.settle_soon(&key).await;
        }
        Ok(wire::Nothing {})
    }
}

/// Addresses that no endpoint asks for (`--aux-address`) are held when their network is made, which
/// names them again.
fn aside(exact: Option<IpAddr>) -> Result<wire::Address, Refusal> {
    let next = "make networks of the driver netd only with it; this engine may be too old";
    let address = exact.ok_or_else(|| {
        invalid(
            "the engine does not tell the endpoint's Ethernet address",
            next,
        )
    })?;
    Ok(wire::Address {
        address: pool::alone(address),
        data: Default::default(),
    })
}

fn answer(pool: Pool, gateway: String) -> wire::Pool {
    let data = [(wire::GATEWAY.to_owned(), gateway)].into();
    wire::Pool {
        id: pool.to_string(),
        pool: pool.prefix(),
        data,
    }
}

fn subnet_of(pool: Pool) -> Option<Subnet> {
    match pool {
        Pool::Any(_) => None,
        Pool::Subnet(subnet) | Pool::Of(_, subnet) => Some(subnet),
    }
}

fn lease_of(
    network: &NetworkInfo,
    subnet: Option<Subnet>,
    family: Family,
) -> Result<SubnetLease, Refusal> {
    let mut of_family = network
        .status
        .subnets
        .iter()
        .filter(|lease| lease.subnet.family() == family);
    let found = of_family.find(|lease| subnet.is_none_or(|subnet| subnet == lease.subnet));
    found.copied().ok_or_else(|| lacks(network, subnet, family))
}

fn foreign_pool(pool: &str) -> Refusal {
    let cause =
        format!("the pool {pool:?} belongs to no network of the driver netd on this engine");
    Refusal::new(
        Kind::NotFound,
        cause,
        "remove the engine's network and make it again with -d netd --ipam-driver netd",
    )
}
