//! `network …`.

use std::net::IpAddr;

use anyhow::Result;
use model::{
    Command, EndpointInfo, KeysCommand, Kind, NetworkCommand, NetworkInfo, NetworkSpec, Outcome,
    Question, Refusal, Subnet, SubnetLease, SubnetSpec,
};

use super::{collect, each, peers::peers, verify::verify};
use crate::{
    arguments::{Listing, NetworkCreate, NetworkVerb, Switch, by_key},
    daemon::Daemon,
    output::{self, Format, List},
};

/// Docker's name of the `mtu` option.
const DOCKER_MTU: &str = "com.docker.network.driver.mtu";

/// `network …`.
pub(crate) async fn network(daemon: &Daemon, verb: NetworkVerb) -> Result<u8> {
    match verb {
        NetworkVerb::Create(create) => self::create(daemon, create).await,
        NetworkVerb::Ls(listing) => ls(daemon, &listing).await,
        NetworkVerb::Inspect {
            inspection,
            peers: true,
        } => peers(daemon, &inspection).await,
        NetworkVerb::Inspect {
            inspection,
            peers: false,
        } => {
            let (networks, code) = collect(&inspection.names, |name| {
                daemon.ask(Question::network(name))
            })
            .await?;
            print(&networks, inspection.output)?;
            if inspection.output == Format::Table {
                print_endpoints(&networks)?;
            }
            Ok(code)
        }
        NetworkVerb::Update { network, hosts } => {
            let hosts = Some(hosts == Switch::On);
            reach(daemon, network, (hosts, Vec::new(), Vec::new())).await
        }
        NetworkVerb::Expose { network, to, rm } => reach(daemon, network, (None, to, rm)).await,
        NetworkVerb::RotateKey => {
            daemon
                .propose(
                    "keys of encrypted networks",
                    Command::Keys(KeysCommand::Rotate),
                )
                .await?;
            Ok(0)
        }
        NetworkVerb::Verify { networks, output } => verify(daemon, &networks, output).await,
        NetworkVerb::Rm { networks } => each(&networks, |network| rm(daemon, network)).await,
    }
}

async fn create(daemon: &Daemon, create: NetworkCreate) -> Result<u8> {
    let object = format!("network {}", create.name);
    let spec = spec(create).map_err(|refusal| refusal.about(&object))?;
    let made = daemon.propose(object, Command::Network(NetworkCommand::Create { spec }));
    if let Outcome::Network(id) = made.await? {
        output::print(&id.to_string())?;
    }
    Ok(0)
}

/// Says whether hosts may call, and the prefixes of machines that may and may no longer.
async fn reach(
    daemon: &Daemon,
    network: String,
    (hosts, expose, conceal): (Option<bool>, Vec<Subnet>, Vec<Subnet>),
) -> Result<u8> {
    let object = format!("network {network}");
    let command = NetworkCommand::Reach {
        network: network.clone(),
        hosts,
        expose,
        conceal,
    };
    daemon.propose(object, Command::Network(command)).await?;
    output::print(&network)?;
    Ok(0)
}

async fn ls(daemon: &Daemon, listing: &Listing) -> Result<u8> {
    let networks = daemon.ask(Question::networks()).await?;
    if listing.quiet {
        networks
            .iter()
            .try_for_each(|network| output::print(&network.id.to_string()))?;
    } else {
        print(&networks, listing.output)?;
    }
    Ok(0)
}

async fn rm(daemon: &Daemon, network: String) -> Result<()> {
    let command = Command::Network(NetworkCommand::Remove {
        network: network.clone(),
    });
    daemon
        .propose(format!("network {network}"), command)
        .await?;
    output::print(&network)
}

fn print(networks: &[NetworkInfo], format: Format) -> Result<()> {
    let subnets = |leases: &[SubnetLease]| {
        output::join(&leases.iter().map(|lease| lease.subnet).collect::<Vec<_>>())
    };
    List::of(networks)
        .column("ID", |network| network.id.to_string())
        .column("NAME", |network| network.spec.name.clone())
        .column("DRIVER", |network| network.spec.driver.to_string())
        .column("VNI", |network| network.status.vni.to_string())
        .column("SUBNETS", |network| subnets(&network.status.subnets))
        .print(format)
}

/// Prints the owner of each endpoint.
fn print_endpoints(networks: &[NetworkInfo]) -> Result<()> {
    let of = |network: &NetworkInfo| {
        let name = network.spec.name.clone();
        network
            .status
            .endpoints
            .clone()
            .into_iter()
            .map(move |endpoint| (name.clone(), endpoint))
    };
    let endpoints: Vec<(String, EndpointInfo)> = networks.iter().flat_map(of).collect();
    if endpoints.is_empty() {
        return Ok(());
    }
    output::print("")?;
    List::of(&endpoints)
        .column("NETWORK", |(network, _)| network.clone())
        .column("KIND", |(_, endpoint)| endpoint.kind.clone())
        .column("NAME", |(_, endpoint)| endpoint.name.clone())
        .column("NODE", |(_, endpoint)| endpoint.node.clone())
        .column("ADDRESSES", |(_, endpoint)| {
            output::join(&endpoint.addresses)
        })
        .column("PORTS", |(_, endpoint)| output::join(&endpoint.publish))
        .print(Format::Table)
}

fn spec(create: NetworkCreate) -> Result<NetworkSpec, Refusal> {
    let mut options = by_key(create.options);
    // Docker spells these as driver options.
    let encrypted = options
        .remove("encrypted")
        .is_some_and(|value| value != "false");
    if let Some(mtu) = options.remove(DOCKER_MTU) {
        options.insert("mtu".to_owned(), mtu);
    }
    Ok(NetworkSpec {
        name: create.name,
        driver: create.driver,
        subnets: subnets(create.subnets, create.gateways, create.ranges)?,
        internal: create.internal,
        encrypted: create.encrypted || encrypted,
        attachable: create.attachable,
        labels: by_key(create.labels),
        options,
    })
}

/// Each gateway and each range goes to the subnet that it lies in.
fn subnets(
    prefixes: Vec<Subnet>,
    gateways: Vec<IpAddr>,
    ranges: Vec<Subnet>,
) -> Result<Vec<SubnetSpec>, Refusal> {
    let mut specs: Vec<_> = prefixes
        .into_iter()
        .map(|subnet| SubnetSpec {
            subnet,
            gateway: None,
            range: None,
        })
        .collect();
    for gateway in gateways {
        let place = specs
            .iter_mut()
            .find(|spec| spec.subnet.contains(gateway) && spec.gateway.is_none());
        let Some(place) = place else {
            let cause = format!("gateway {gateway} lies in no --subnet that has none yet");
            return Err(Refusal::new(
                Kind::Invalid,
                cause,
                "give one --gateway per --subnet, inside it",
            ));
        };
        place.gateway = Some(gateway);
    }
    for range in ranges {
        let place = specs
            .iter_mut()
            .find(|spec| spec.subnet.covers(&range) && spec.range.is_none());
        let Some(place) = place else {
            let cause = format!("range {range} lies in no --subnet that has none yet");
            let next = "give one --ip-range per --subnet, inside it; addresses belong to slots, \
                        not to nodes";
            return Err(Refusal::new(Kind::Invalid, cause, next));
        };
        place.range = Some(range);
    }
    Ok(specs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gateway_goes_to_its_subnet_whatever_the_order() {
        let prefixes = ["10.0.9.0/24", "fd00:9::/64"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        let gateways = ["fd00:9::1", "10.0.9.254"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        let ranges = vec!["10.0.9.128/25".parse().unwrap()];
        let specs = subnets(prefixes.clone(), gateways, ranges.clone()).unwrap();
        assert_eq!((specs[0].range, specs[1].range), (Some(ranges[0]), None));
        assert_eq!(specs[0].gateway, Some("10.0.9.254".parse().unwrap()));
        assert_eq!(specs[1].gateway, Some("fd00:9::1".parse().unwrap()));
        for foreign in [&["10.0.8.1"][..], &["10.0.9.1", "10.0.9.2"]] {
            let gateways = foreign.iter().map(|text| text.parse().unwrap()).collect();
            assert!(
                subnets(prefixes.clone(), gateways, vec![]).is_err(),
                "{foreign:?}"
            );
        }
    }
}
