//! What holds of the resolver whatever bytes it is sent.

use std::{net::IpAddr, sync::OnceLock};

use dns::{Client, Outcome, Table, Transport};
use model::{
    DriverConfig, NameConfig, NamedPort, NetworkConfig, NetworkId, NodeConfig, NodeId, Protocol,
    SubnetLease, Vni,
};

const NETWORK: NetworkId = NetworkId(1);

/// Every response to these bytes is one: as long as it may be, with the client's id, and with
/// records that add up.
pub fn holds(bytes: &[u8]) {
    let client = Client::Of {
        network: NETWORK,
        address: IpAddr::from([10, 0, 9, 9]),
    };
    for (transport, longest) in [(Transport::Udp, 1232), (Transport::Tcp, 65_535)] {
        let mut out = Vec::new();
        let outcome = dns::reply(
            table(),
            client,
            transport,
            bytes,
            bytes.len() as u64,
            &mut out,
        );
        match outcome {
            Outcome::Answered => well_formed(bytes, &out, longest),
            Outcome::Ignored => assert!(
                bytes.len() < 12 || bytes[2] & 0x80 != 0,
                "a query without an answer"
            ),
            Outcome::Elsewhere => assert!(bytes.len() >= 17, "a question takes more than that"),
        }
    }
}

fn well_formed(query: &[u8], out: &[u8], longest: usize) {
    assert!((12..=longest).contains(&out.len()), "{} bytes", out.len());
    assert_eq!(out[..2], query[..2], "the id");
    assert_eq!(out[2] & 0x80, 0x80, "a response");
    let count = |at: usize| u16::from_be_bytes([out[at], out[at + 1]]);
    let mut at = 12;
    for _ in 0..count(4) {
        at = behind_name(out, at) + 4;
    }
    for _ in 0..u32::from(count(6)) + u32::from(count(8)) + u32::from(count(10)) {
        let data = behind_name(out, at) + 10;
        at = data + usize::from(count(data - 2));
    }
    assert_eq!(at, out.len(), "nothing is missing or too much: {out:02x?}");
}

fn behind_name(out: &[u8], mut at: usize) -> usize {
    loop {
        match out[at] {
            0 => return at + 1,
            length if length & 0xc0 == 0xc0 => {
                let target = usize::from(length & 0x3f) << 8 | usize::from(out[at + 1]);
                assert!(target < at, "a name leads back");
                return at + 2;
            }
            length => at += usize::from(length) + 1,
        }
    }
}

/// Names with addresses of both families, ports, and more addresses than fit.
fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let lease = |subnet: &str, gateway: &str| {
            Some(SubnetLease {
                subnet: subnet.parse().ok()?,
                gateway: gateway.parse().ok()?,
            })
        };
        let subnets = [
            lease("10.0.9.0/24", "10.0.9.1"),
            lease("fd00:9::/64", "fd00:9::1"),
        ];
        let network = NetworkConfig {
            name: "my-net".to_owned(),
            vni: Vni::FIRST,
            driver: DriverConfig::Overlay {
                port: 4789,
                encrypted: false,
            },
            subnets: subnets.into_iter().flatten().collect(),
            internal: false,
            mtu: None,
            reach: Default::default(),
        };
        let addresses = |count: u16| -> Vec<IpAddr> {
            let v4 = (0..count).map(|last| IpAddr::from([10, 0, 9, last as u8]));
            v4.chain((0..count).map(|last| IpAddr::from([0xfd00, 9, 0, 0, 0, 0, 0, last])))
                .collect()
        };
        let ports = vec![NamedPort {
            name: "http".to_owned(),
            protocol: Protocol::Tcp,
            port: 80,
        }];
        let web = NameConfig {
            ports: ports.clone(),
            ..NameConfig::canonical(addresses(2))
        };
        let many = NameConfig {
            ports,
            targets: vec!["web".to_owned(); 300],
            ..NameConfig::further(addresses(250))
        };
        let names = [("web", web), ("many", many)]
            .map(|(name, record)| ((NETWORK, name.to_owned()), record));
        Table::of(&NodeConfig {
            generation: 7,
            networks: [(NETWORK, network)].into(),
            names: names.into(),
            ..NodeConfig::empty(NodeId(1))
        })
    })
}
