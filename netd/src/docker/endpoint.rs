//! Endpoint methods of the network driver: netd makes the device, the engine moves it into the
//! container.

use std::net::IpAddr;

use model::{AddressWish, ContainerSpec, Kind, PublishSpec, Refusal, Sandbox, SubnetLease, names};

use super::{
    Plugin,
    journal::{Hold, NetworkRecord, Pending},
    pool,
    ports::{free, publish},
    wire,
};

/// How often another port is chosen after one that was taken.
const ATTEMPTS: u32 = 16;

impl Plugin {
    pub(super) async fn create_endpoint(
        &self,
        asked: wire::OfEndpoint,
    ) -> Result<wire::Created, Refusal> {
        let record = self.record(&asked.network)?;
        let mac = asked
            .interface
            .as_ref()
            .map(|interface| interface.mac_address.as_str())
            .unwrap_or_default();
        let key = format!(
            "{}/{mac}",
            record.network.map(|id| id.to_string()).unwrap_or_default()
        );
        let _turn = self.turn(&key).await;
        let unknown = || {
            let cause = format!(
                "no address is held here for the endpoint with the Ethernet address {mac:?}"
            );
            Refusal::new(
                Kind::Precondition,
                cause,
                "try again; a network of the driver netd takes --ipam-driver netd, too",
            )
        };
        let hold = self
            .journal
            .holds
            .get(&key)
            .filter(|hold| hold.pending != Some(Pending::Detach));
        let hold = hold.ok_or_else(unknown)?;
        if hold
            .endpoint
            .as_ref()
            .is_some_and(|known| *known != asked.endpoint)
        {
            let cause =
                format!("the Ethernet address {mac} is that of another endpoint on this network");
            return Err(Refusal::new(
                Kind::Conflict,
                cause,
                "give this container another --mac-address, or none",
            ));
        }
        // Refused now rather than when the container is about to start.
        publish(&asked.options, |_, choice| Some(*choice.start()))?;
        let mut created = Hold {
            endpoint: Some(asked.endpoint),
            heard: super::now(),
            ..hold
        };
        let added = self.add_ipv6(&key, &record, &mut created).await?;
        self.keep(self.journal.holds.put(&key, &created))?;
        let interface = added.map(|address| wire::Added {
            address_ipv6: pool::alone(address),
        });
        Ok(wire::Created { interface })
    }

    /// Gives the endpoint up; its addresses are the engine's until it releases them.
    pub(super) async fn delete_endpoint(
        &self,
        asked: wire::OfEndpoint,
    ) -> Result<wire::Nothing, Refusal> {
        let Some((key, _)) = self.journal.endpoint(&asked.endpoint) else {
            return Ok(wire::Nothing {});
        };
        let _turn = self.turn(&key).await;
        if let Some(hold) = self.journal.holds.get(&key) {
            let pending = hold
                .pending
                .or(hold.sandbox.is_some().then_some(Pending::Leave));
            let left = Hold {
                endpoint: None,
                sandbox: None,
                pending,
                heard: super::now(),
                ..hold
            };
            self.keep(self.journal.holds.put(&key, &left))?;
        }
        Ok(wire::Nothing {})
    }

    pub(super) async fn join(&self, asked: wire::OfEndpoint) -> Result<wire::Joined, Refusal> {
        let record = self.record(&asked.network)?;
        let (key, _) = self
            .journal
            .endpoint(&asked.endpoint)
            .ok_or_else(|| unknown_endpoint(&asked.endpoint))?;
        let path = asked.sandbox_key;
        let endpoint = {
            let _turn = self.turn(&key).await;
            let hold = self
                .journal
                .holds
                .get(&key)
                .ok_or_else(|| unknown_endpoint(&asked.endpoint))?;
            let hold = Hold {
                sandbox: Some(path.clone()),
                pending: None,
                heard: super::now(),
                ..hold
            };
            self.keep(self.journal.holds.put(&key, &hold))?;
            self.attach(&key, &hold).await?
        };
        self.ready(&path, endpoint.id).await?;
        self.news.notify_one();
        let source = names::handed_link(endpoint.id).to_string();
        Ok(joined(&record, &endpoint.addresses, source))
    }

    pub(super) async fn leave(&self, asked: wire::OfEndpoint) -> Result<wire::Nothing, Refusal> {
        let Some((key, _)) = self.journal.endpoint(&asked.endpoint) else {
            return Ok(wire::Nothing {});
        };
        let _turn = self.turn(&key).await;
        if let Some(mut hold) = self.journal.holds.get(&key) {
            (hold.sandbox, hold.heard) = (None, super::now());
            hold.traits.publish = Vec::new();
            hold.pending = hold.pending.or(Some(Pending::Leave));
            self.keep(self.journal.holds.put(&key, &hold))?;
            // Told to the cluster in a moment: as a rule the endpoint is given up before.
            self.wake.notify_one();
        }
        Ok(wire::Nothing {})
    }

    /// The endpoint is its container's way out: the host's ports lead to it.
    pub(super) async fn program(&self, asked: wire::OfEndpoint) -> Result<wire::Nothing, Refusal> {
        let (key, _) = self
            .journal
            .endpoint(&asked.endpoint)
            .ok_or_else(|| unknown_endpoint(&asked.endpoint))?;
        let mut attempts = 1..=ATTEMPTS;
        loop {
            let mut has_chosen = false;
            let chosen = publish(&asked.options, |protocol, choice| {
                has_chosen = true;
                free(protocol, choice)
            })?;
            let set = self.set_publish(&key, chosen).await;
            let is_taken = |refusal: &Refusal| refusal.kind == Kind::Conflict;
            // Somebody has been faster, or this host does not know yet.
            if !(has_chosen && set.as_ref().is_err_and(is_taken) && attempts.next().is_some()) {
                return set.map(|()| wire::Nothing {});
            }
        }
    }

    pub(super) async fn revoke(&self, asked: wire::OfEndpoint) -> Result<wire::Nothing, Refusal> {
        if let Some((key, _)) = self.journal.endpoint(&asked.endpoint) {
            let unheard = self.set_publish(&key, Vec::new()).await;
            unheard
                .unwrap_or_else(|refusal| tracing::warn!(%refusal, "ports will be released later"));
        }
        Ok(wire::Nothing {})
    }

    async fn set_publish(&self, key: &str, mut publish: Vec<PublishSpec>) -> Result<(), Refusal> {
        // What is kept is what the cluster has.
        let level = self.daemon.desired.borrow().level;
        publish.iter_mut().for_each(|port| port.become_of(level));
        let _turn = self.turn(key).await;
        let Some(hold) = self.journal.holds.get(key) else {
            return Ok(());
        };
        if hold.traits.publish == publish {
            return Ok(());
        }
        let mut changed = hold.clone();
        changed.traits.publish = publish;
        self.keep(self.journal.holds.put(key, &changed))?;
        if let Err(refusal) = self.attach(key, &changed).await {
            if !changed.traits.publish.is_empty() {
                self.keep(self.journal.holds.put(key, &hold))?;
            }
            return Err(refusal);
        }
        Ok(())
    }

    /// The spec of an endpoint as it is held: its addresses, its place, what is known of it.
    pub(super) fn spec(&self, key: &str, hold: &Hold) -> Result<ContainerSpec, Refusal> {
        let held = |v6| {
            let exact = hold
                .addresses
                .iter()
                .find(|address| address.is_ipv6() == v6)
                .copied();
            AddressWish {
                wanted: exact.is_some(),
                exact,
                within: None,
            }
        };
        let sandbox = hold.sandbox.as_ref().map(|path| Sandbox {
            path: path.clone(),
            identity: None,
            interface: None,
        });
        Ok(ContainerSpec {
            key: self.key(key)?,
            network: hold.network.to_string(),
            ipv4: held(false),
            ipv6: held(true),
            mac: Some(hold.mac),
            left: sandbox.is_none(),
            sandbox,
            traits: Some(hold.traits.clone()),
        })
    }

    fn record(&self, network: &str) -> Result<NetworkRecord, Refusal> {
        let known = self
            .journal
            .networks
            .get(network)
            .filter(|record| record.network.is_some() && !record.removed);
        known.ok_or_else(|| {
            let cause = format!("netd does not know the engine's network {network:?}");
            Refusal::new(
                Kind::NotFound,
                cause,
                "remove the engine's network and make it again with -d netd",
            )
        })
    }
}

/// How the engine is to set a container up. Of an overlay nothing is on the link but the gateways,
/// which lead everywhere.
fn joined(record: &NetworkRecord, addresses: &[IpAddr], source: String) -> wire::Joined {
    let has = |lease: &&SubnetLease| {
        addresses
            .iter()
            .any(|address| address.is_ipv6() == lease.subnet.is_ipv6())
    };
    let leases: Vec<&SubnetLease> = record.subnets.iter().filter(has).collect();
    let on_link = |destination| wire::StaticRoute {
        destination,
        route_type: 1,
        next_hop: String::new(),
    };
    let route = |lease: &&SubnetLease| match record.lan {
        true => vec![on_link(lease.subnet.to_string())],
        false => {
            let (destination, next_hop) = (lease.subnet.to_string(), lease.gateway.to_string());
            vec![
                on_link(pool::alone(lease.gateway)),
                wire::StaticRoute {
                    destination,
                    route_type: 0,
                    next_hop,
                },
            ]
        }
    };
    let gateway = |v6| {
        let lease = leases
            .iter()
            .find(|lease| lease.subnet.is_ipv6() == v6 && !record.internal);
        lease
            .map(|lease| lease.gateway.to_string())
            .unwrap_or_default()
    };
    wire::Joined {
        interface_name: wire::InterfaceName {
            src_name: source,
            dst_prefix: "eth".to_owned(),
        },
        gateway: gateway(false),
        gateway_ipv6: gateway(true),
        static_routes: leases.iter().flat_map(route).collect(),
        disable_gateway_service: record.internal,
    }
}

fn unknown_endpoint(endpoint: &str) -> Refusal {
    let cause = format!("netd does not know the endpoint {endpoint:?}");
    Refusal::new(
        Kind::NotFound,
        cause,
        "disconnect the container from the network and connect it again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> NetworkRecord {
        NetworkRecord::example(9)
    }

    fn routes(joined: &wire::Joined) -> Vec<(&str, &str)> {
        joined
            .static_routes
            .iter()
            .map(|route| (route.destination.as_str(), route.next_hop.as_str()))
            .collect()
    }

    #[test]
    fn an_overlay_container_reaches_all_by_its_gateways() {
        let addresses = ["10.0.9.5".parse().unwrap(), "fd00:9::5".parse().unwrap()];
        let found = joined(&record(), &addresses, String::new());
        assert_eq!(
            (found.gateway.as_str(), found.gateway_ipv6.as_str()),
            ("10.0.9.1", "fd00:9::1")
        );
        let expected = [
            ("10.0.9.1/32", ""),
            ("10.0.9.0/24", "10.0.9.1"),
            ("fd00:9::1/128", ""),
            ("fd00:9::/64", "fd00:9::1"),
        ];
        assert_eq!(routes(&found), expected);
        let found = joined(&record().on_lan(), &addresses[..1], String::new());
        assert_eq!(
            (routes(&found), found.gateway_ipv6.as_str()),
            (vec![("10.0.9.0/24", "")], "")
        );
    }

    #[test]
    fn an_internal_network_has_no_way_out() {
        let found = joined(
            &record().internal(),
            &["10.0.9.5".parse().unwrap()],
            String::new(),
        );
        assert_eq!(
            (found.gateway.as_str(), found.disable_gateway_service),
            ("", true)
        );
    }
}
