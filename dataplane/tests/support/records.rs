//! Records that the configurations of tests and benchmarks are made of.

use std::{collections::BTreeMap, net::IpAddr};

use model::{
    DriverConfig, EndpointConfig, EndpointId, Mac, NetworkConfig, NetworkId, NodeId, PeerConfig,
    Role, Runtime, SandboxId, ServiceId, SubnetLease, TaskConfig, TaskSpec, TaskState, Vni,
};

pub(crate) fn peer(hostname: String, vtep: IpAddr) -> PeerConfig {
    PeerConfig {
        hostname,
        role: Role::Worker,
        address: (vtep, 2377).into(),
        vtep,
        balancer: Default::default(),
    }
}

/// A network that is not encrypted and has a way out.
pub(crate) fn overlay(name: &str, vni: Vni, subnets: Vec<SubnetLease>) -> NetworkConfig {
    NetworkConfig {
        name: name.to_owned(),
        vni,
        driver: DriverConfig::Overlay {
            port: 4789,
            encrypted: false,
        },
        subnets,
        internal: false,
        mtu: None,
        reach: Default::default(),
    }
}

pub(crate) fn endpoint(
    network: NetworkId,
    node: NodeId,
    sandbox: SandboxId,
    addresses: Vec<IpAddr>,
) -> EndpointConfig {
    let mac = Mac::of_endpoint(addresses[0]);
    EndpointConfig {
        network,
        node,
        sandbox,
        addresses,
        mac,
    }
}

/// A task of service `web` with one endpoint.
pub(crate) fn task(slot: u32, endpoint: EndpointId) -> TaskConfig {
    let runtime = Runtime::Exec {
        argv: vec!["true".to_owned()],
        env: BTreeMap::new(),
        rootfs: None,
    };
    TaskConfig {
        service: ServiceId(1),
        service_name: "web".to_owned(),
        slot,
        spec: TaskSpec {
            stop_grace: 1000,
            ..TaskSpec::new(runtime)
        },
        stack: None,
        desired: TaskState::Running,
        state: TaskState::Assigned,
        draining: false,
        endpoints: vec![endpoint],
    }
}
