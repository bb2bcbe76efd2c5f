//! A service, for people: what was asked for, and what has become of it.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{
    Balance, EndpointMode, Level, Millis, NamedPort, PublishSpec, ServiceId, ServiceSpec, TaskSpec,
    UpdateInfo, info::Told,
};

/// A service, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Read", into = "Written")]
pub struct ServiceInfo {
    /// Its id; in JSON 13 characters of base 36.
    pub id: ServiceId,
    /// What was asked for.
    pub spec: ServiceSpec,
    /// What has become of it.
    pub status: ServiceStatus,
    /// The revision of its last change. An update carries the version that it was made from.
    pub version: u64,
    /// The level of the cluster that answers: its members read that shape. Of an answer that was
    /// read it is [`Level::NEWEST`].
    pub level: Level,
}

/// What has become of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// How many of its tasks run.
    pub running: u32,
    /// How many of those every node's balancer and resolver has applied, with the present names and
    /// ports.
    pub settled: u32,
    /// Its virtual IPs, in the order of its networks.
    pub virtual_ips: Vec<IpAddr>,
    /// The names of its networks, in the spec's order.
    pub networks: Vec<String>,
    /// Notes: where balancing differs from the request, why, and what to do.
    pub notes: Vec<String>,
    /// Progress of its update, while there is one.
    pub update: Option<UpdateInfo>,
    /// It is being removed.
    pub removing: bool,
    /// When it was made.
    pub created: Millis,
}

/// As it travels and as people read it.
#[derive(Serialize)]
#[serde(untagged)]
enum Written {
    New(Box<New>),
    Old(Box<Old>),
}

type New = Told<ServiceId, ServiceSpec, ServiceStatus>;

/// Its shape before [`Level::TYPED_FAILURES`]: parts of the spec beside it, and no status.
#[derive(Serialize)]
struct Old {
    id: ServiceId,
    name: String,
    replicas: u32,
    running: u32,
    settled: u32,
    virtual_ips: Vec<IpAddr>,
    networks: Vec<String>,
    aliases: BTreeMap<String, Vec<String>>,
    stack: Option<String>,
    ports: Vec<NamedPort>,
    endpoint_mode: EndpointMode,
    publish_not_ready: bool,
    publish: Vec<PublishSpec>,
    balance: Balance,
    notes: Vec<String>,
    task: TaskSpec,
    labels: BTreeMap<String, String>,
    spec: ServiceSpec,
    version: u64,
    update: Option<UpdateInfo>,
    removing: bool,
    created: Millis,
}

impl From<ServiceInfo> for Written {
    fn from(info: ServiceInfo) -> Self {
        let ServiceInfo {
            id,
            spec,
            status,
            version,
            level,
        } = info;
        if level >= Level::TYPED_FAILURES {
            return Self::New(Box::new(New {
                id,
                spec,
                status,
                version,
            }));
        }
        let attachments = status.networks.iter().zip(&spec.networks);
        let aliases = attachments.filter(|(_, attachment)| !attachment.aliases.is_empty());
        let aliases = aliases.map(|(name, attachment)| (name.clone(), attachment.aliases.clone()));
        Self::Old(Box::new(Old {
            id,
            name: spec.name.clone(),
            replicas: spec.replicas,
            running: status.running,
            settled: status.settled,
            virtual_ips: status.virtual_ips,
            aliases: aliases.collect(),
            networks: status.networks,
            stack: spec.stack.clone(),
            ports: spec.ports.clone(),
            endpoint_mode: spec.endpoint_mode,
            publish_not_ready: spec.publish_not_ready,
            publish: spec.publish.clone(),
            balance: spec.balance,
            notes: status.notes,
            task: spec.task.clone(),
            labels: spec.labels.clone(),
            spec,
            version,
            update: status.update,
            removing: status.removing,
            created: status.created,
        }))
    }
}

/// Either shape.
#[derive(Deserialize)]
struct Read {
    id: ServiceId,
    spec: ServiceSpec,
    version: u64,
    status: Option<ServiceStatus>,
    #[serde(default)]
    running: u32,
    #[serde(default)]
    settled: u32,
    #[serde(default)]
    virtual_ips: Vec<IpAddr>,
    #[serde(default)]
    networks: Vec<String>,
    #[serde(default)]
    notes: Vec<String>,
    update: Option<UpdateInfo>,
    #[serde(default)]
    removing: bool,
    #[serde(default)]
    created: Millis,
}

impl From<Read> for ServiceInfo {
    fn from(read: Read) -> Self {
        let beside = ServiceStatus {
            running: read.running,
            settled: read.settled,
            virtual_ips: read.virtual_ips,
            networks: read.networks,
            notes: read.notes,
            update: read.update,
            removing: read.removing,
            created: read.created,
        };
        Self {
            id: read.id,
            spec: read.spec,
            status: read.status.unwrap_or(beside),
            version: read.version,
            level: Level::NEWEST,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{NetworkAttachment, Runtime};

    fn info(level: Level) -> ServiceInfo {
        let runtime = Runtime::Exec {
            argv: vec!["true".to_owned()],
            env: BTreeMap::new(),
            rootfs: None,
        };
        let mut spec = ServiceSpec::new("web", TaskSpec::new(runtime));
        spec.networks = vec![NetworkAttachment {
            network: "net".to_owned(),
            aliases: vec!["www".to_owned()],
        }];
        let status = ServiceStatus {
            running: 2,
            virtual_ips: vec!["10.0.9.2".parse().unwrap()],
            networks: vec!["net".to_owned()],
            ..ServiceStatus::default()
        };
        ServiceInfo {
            id: ServiceId(1),
            spec,
            status,
            version: 7,
            level,
        }
    }

    #[test]
    fn both_shapes_of_a_service_are_read() {
        for level in [Level::SHARED_VIEWS, Level::TYPED_FAILURES] {
            let written = serde_json::to_string(&info(level)).unwrap();
            let read: ServiceInfo = serde_json::from_str(&written).unwrap();
            assert_eq!(read, info(Level::NEWEST), "level {level}");
        }
    }

    #[test]
    fn earlier_versions_find_parts_of_the_spec_beside_it() {
        let old: Value = serde_json::to_value(info(Level::SHARED_VIEWS)).unwrap();
        assert_eq!(
            (&old["name"], &old["replicas"], &old["running"]),
            (&json!("web"), &json!(1), &json!(2))
        );
        assert_eq!(old["aliases"], json!({"net": ["www"]}));
        assert!(old.get("status").is_none());
        let new: Value = serde_json::to_value(info(Level::TYPED_FAILURES)).unwrap();
        let keys: Vec<&String> = new.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["id", "spec", "status", "version"]);
    }
}
