//! A network, for people: what was asked for, and what has become of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Driver, EndpointInfo, Level, Millis, NetworkId, NetworkSpec, Reach, Subnet, SubnetLease,
    SubnetSpec, Vni, info::Told,
};

/// A network, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Read", into = "Written")]
pub struct NetworkInfo {
    /// Its id; in JSON 13 characters of base 36.
    pub id: NetworkId,
    /// What was asked for.
    pub spec: NetworkSpec,
    /// What has become of it.
    pub status: NetworkStatus,
    /// The revision of the last change of what people ask of it.
    pub version: u64,
    /// The level of the cluster that answers: its members read that shape. Of an answer that was
    /// read it is [`Level::NEWEST`].
    pub level: Level,
}

/// What has become of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// Its VXLAN network identifier.
    pub vni: Vni,
    /// Its prefixes and gateways, IPv4 first where they came from the default pools.
    pub subnets: Vec<SubnetLease>,
    /// Its subnets without a free address.
    pub exhausted: Vec<Subnet>,
    /// Its endpoints; empty in lists.
    pub endpoints: Vec<EndpointInfo>,
    /// Who outside of it may call its endpoints.
    #[serde(default, skip_serializing_if = "Reach::is_nobody")]
    pub reach: Reach,
    /// When it was made.
    pub created: Millis,
}

/// As it travels and as people read it.
#[derive(Serialize)]
#[serde(untagged)]
enum Written {
    New(New),
    Old(Old),
}

type New = Told<NetworkId, NetworkSpec, NetworkStatus>;

/// Its shape before [`Level::TYPED_FAILURES`]: parts of the spec, and no status.
#[derive(Serialize, Deserialize)]
struct Old {
    id: NetworkId,
    name: String,
    driver: Driver,
    vni: Vni,
    subnets: Vec<SubnetLease>,
    encrypted: bool,
    internal: bool,
    attachable: bool,
    labels: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
    exhausted: Vec<Subnet>,
    endpoints: Vec<EndpointInfo>,
    created: Millis,
    #[serde(default)]
    version: u64,
}

impl From<NetworkInfo> for Written {
    fn from(info: NetworkInfo) -> Self {
        let NetworkInfo {
            id,
            spec,
            status,
            version,
            level,
        } = info;
        if level >= Level::TYPED_FAILURES {
            return Self::New(New {
                id,
                spec,
                status,
                version,
            });
        }
        Self::Old(Old {
            id,
            name: spec.name,
            driver: spec.driver,
            vni: status.vni,
            subnets: status.subnets,
            encrypted: spec.encrypted,
            internal: spec.internal,
            attachable: spec.attachable,
            labels: spec.labels,
            options: spec.options,
            exhausted: status.exhausted,
            endpoints: status.endpoints,
            created: status.created,
            version,
        })
    }
}

/// Either shape.
#[derive(Deserialize)]
#[serde(untagged)]
enum Read {
    New(New),
    Old(Old),
}

impl From<Read> for NetworkInfo {
    fn from(read: Read) -> Self {
        let told = match read {
            Read::New(told) => told,
            Read::Old(old) => old.told(),
        };
        Self {
            id: told.id,
            spec: told.spec,
            status: told.status,
            version: told.version,
            level: Level::NEWEST,
        }
    }
}

impl Old {
    /// The subnets that were asked for are those that it has; their ranges are not told.
    fn told(self) -> New {
        let asked = |lease: &SubnetLease| SubnetSpec {
            subnet: lease.subnet,
            gateway: Some(lease.gateway),
            range: None,
        };
        let spec = NetworkSpec {
            name: self.name,
            driver: self.driver,
            subnets: self.subnets.iter().map(asked).collect(),
            internal: self.internal,
            encrypted: self.encrypted,
            attachable: self.attachable,
            labels: self.labels,
            options: self.options,
        };
        let status = NetworkStatus {
            vni: self.vni,
            subnets: self.subnets,
            exhausted: self.exhausted,
            endpoints: self.endpoints,
            reach: Reach::default(),
            created: self.created,
        };
        New {
            id: self.id,
            spec,
            status,
            version: self.version,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(level: Level) -> NetworkInfo {
        let lease = SubnetLease {
            subnet: "10.0.9.0/24".parse().unwrap(),
            gateway: "10.0.9.1".parse().unwrap(),
        };
        NetworkInfo {
            id: NetworkId(1),
            spec: NetworkSpec {
                name: "net".to_owned(),
                driver: Driver::Overlay,
                subnets: vec![SubnetSpec {
                    subnet: lease.subnet,
                    gateway: Some(lease.gateway),
                    range: None,
                }],
                internal: true,
                encrypted: false,
                attachable: true,
                labels: BTreeMap::new(),
                options: BTreeMap::from([("mtu".to_owned(), "1400".to_owned())]),
            },
            status: NetworkStatus {
                vni: Vni::try_from(4096).unwrap(),
                subnets: vec![lease],
                exhausted: Vec::new(),
                endpoints: Vec::new(),
                reach: Reach::default(),
                created: 5,
            },
            version: 7,
            level,
        }
    }

    #[test]
    fn both_shapes_of_a_network_are_read() {
        for level in [Level::SHARED_VIEWS, Level::TYPED_FAILURES] {
            let written = serde_json::to_string(&info(level)).unwrap();
            let read: NetworkInfo = serde_json::from_str(&written).unwrap();
            assert_eq!(read, info(Level::NEWEST), "level {level}");
        }
    }

    #[test]
    fn earlier_versions_find_a_network_without_its_spec() {
        let old = serde_json::to_value(info(Level::SHARED_VIEWS)).unwrap();
        assert_eq!(
            (&old["name"], &old["attachable"]),
            (&"net".into(), &true.into())
        );
        assert!(old.get("status").is_none() && old.get("spec").is_none());
    }
}
