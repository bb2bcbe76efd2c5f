//! `events`: changes as they happen, or from the leader's history.

use std::{collections::BTreeSet, fmt::Display};

use anyhow::Result;
use model::{
    Begin, Change, EndpointId, Facts, Failure, Fate, Filter, Kind, NetworkId, NodeId, ObjectKind,
    ObjectRef, ServiceId, TaskId, Watch, Watched,
};

use crate::{
    arguments::Events,
    daemon::Daemon,
    output::{self, Format},
    values::{Moment, timestamp},
    watching,
};

/// `events`.
pub(crate) async fn events(daemon: &Daemon, events: Events) -> Result<u8> {
    let watch = Watch {
        filter: filter(&events.filter)?,
        begin: match events.since {
            None => Begin::Now,
            Some(Moment::Revision(revision)) => Begin::After(revision),
            Some(Moment::Time(time)) => Begin::At(time),
        },
        until: match events.until {
            None => None,
            Some(Moment::Time(time)) => Some(time),
            Some(Moment::Revision(_)) => {
                return Err(
                    wrong("--until", "it ends at a time such as 10m, not a revision").into(),
                );
            }
        },
        status_of: None,
    };
    let mut told = watching::watch(daemon, &watch).await?;
    loop {
        let next = tokio::select! {
            next = told.next() => next?,
            _ = tokio::signal::ctrl_c() => return Ok(0),
        };
        match next {
            None => return Ok(0),
            Some(Watched::Present(changes) | Watched::Changes { changes, .. }) => {
                for change in &changes {
                    output::print(&line(change, events.output)?)?;
                }
            }
            Some(Watched::Lost { after, through }) => eprintln!(
                "the leader does not have the changes after revision {after} up to {through}"
            ),
            Some(Watched::Begins { .. } | Watched::Status(_) | Watched::Ends) => {}
        }
    }
}

fn line(change: &Change, format: Format) -> Result<String> {
    Ok(match format {
        Format::Json => serde_json::to_string(change)?,
        Format::Table => text(change),
    })
}

/// A change for people: when, what, what became of it, what it is, and its revision and id.
fn text(change: &Change) -> String {
    let Change {
        revision,
        at,
        object,
        fate,
        facts,
    } = change;
    let mut line = format!("{} {} ", timestamp(*at), object.kind());
    if !facts.name().is_empty() {
        line += &format!("{} ", facts.name());
    }
    line += &format!("{fate}");
    let told = told(facts);
    if !told.is_empty() && *fate != Fate::Removed {
        line += &format!(": {told}");
    }
    line += &format!(" (revision {revision}");
    if let Some(id) = object.id() {
        line += &format!(", id {id}");
    }
    output::flat(&(line + ")"))
}

fn told(facts: &Facts) -> String {
    match facts {
        Facts::Cluster { level } => format!("level {level}"),
        Facts::Keys => String::new(),
        Facts::Node {
            role,
            status,
            availability,
            failures,
            ..
        } => {
            format!("{role}, {status}, {availability}{}", lacks(failures))
        }
        Facts::Network { driver, .. } => driver.to_string(),
        Facts::Service {
            replicas,
            version,
            removing,
            paused,
            ..
        } => match (removing, paused) {
            (true, _) => "is being removed".to_owned(),
            (false, Some(reason)) => format!("update has stopped: {reason}"),
            (false, None) => format!("{replicas} replicas, version {version}"),
        },
        Facts::Task(task) => {
            let mut told = task.state.to_string();
            if !task.hostname.is_empty() {
                told += &format!(" on {}", task.hostname);
            }
            if task.desired != task.state {
                told += &format!(", desired {}", task.desired);
            }
            if task.withdrawn {
                told += ", takes no new connections";
            }
            if !task.message.is_empty() {
                told += &format!(": {}", task.message);
            }
            told
        }
        Facts::Container {
            hostname,
            network_name,
            addresses,
            causes,
            ..
        } => {
            let addresses = output::join(addresses);
            let causes: Vec<String> = causes.iter().map(Failure::in_one_line).collect();
            let lacks = lacks(&causes);
            format!("on {hostname}, network {network_name}, {addresses}{lacks}")
        }
    }
}

/// The first of these, and how many there are beside.
fn lacks(failures: &[String]) -> String {
    match failures {
        [] => String::new(),
        [only] => format!(", lacks: {only}"),
        [first, more @ ..] => format!(", lacks: {first}, and {} more", more.len()),
    }
}

/// The filter of these keys and values.
fn filter(pairs: &[(String, String)]) -> Result<Filter, Failure> {
    let mut filter = Filter::default();
    let mut id = None;
    for (key, value) in pairs {
        match key.as_str() {
            "type" => drop(filter.kinds.insert(word(key, value, &ObjectKind::ALL)?)),
            "event" => drop(filter.fates.insert(word(key, value, &Fate::ALL)?)),
            "service" => drop(filter.services.insert(value.clone())),
            "node" => drop(filter.nodes.insert(value.clone())),
            "network" => drop(filter.networks.insert(value.clone())),
            "id" => id = Some(value),
            _ => {
                let keys = "type, event, service, node, network, id";
                return Err(wrong(
                    &format!("--filter {key}={value}"),
                    &format!("keys are {keys}"),
                ));
            }
        }
    }
    filter.object = id.map(|id| object(id, &filter.kinds)).transpose()?;
    Ok(filter)
}

fn word<T: Copy + Display>(key: &str, value: &str, all: &[(T, &str)]) -> Result<T, Failure> {
    let found = all.iter().find(|(_, name)| *name == value);
    found.map(|(word, _)| *word).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|(_, name)| *name).collect();
        let cause = format!("{key} is one of {}", names.join(", "));
        wrong(&format!("--filter {key}={value}"), &cause)
    })
}

fn object(id: &str, kinds: &BTreeSet<ObjectKind>) -> Result<ObjectRef, Failure> {
    let option = format!("--filter id={id}");
    let mut kinds = kinds.iter();
    let (Some(kind), None) = (kinds.next(), kinds.next()) else {
        return Err(wrong(&option, "it takes one type=KIND beside it"));
    };
    let number = id.parse::<NodeId>();
    let number = number
        .map_err(|error| wrong(&option, &error.to_string()))?
        .0;
    Ok(match kind {
        ObjectKind::Cluster => ObjectRef::Cluster,
        ObjectKind::Keys => ObjectRef::Keys,
        ObjectKind::Node => ObjectRef::Node(NodeId(number)),
        ObjectKind::Network => ObjectRef::Network(NetworkId(number)),
        ObjectKind::Service => ObjectRef::Service(ServiceId(number)),
        ObjectKind::Task => ObjectRef::Task(TaskId(number)),
        ObjectKind::Container => ObjectRef::Container(EndpointId(number)),
    })
}

fn wrong(option: &str, cause: &str) -> Failure {
    Failure::new(
        Kind::Invalid,
        cause,
        "`swarmctl events --help` shows the options",
    )
    .about(option)
}

#[cfg(test)]
mod tests {
    use model::{Driver, TaskFacts, TaskState};

    use super::*;

    fn task() -> Change {
        Change {
            revision: 7,
            at: 0,
            object: ObjectRef::Task(TaskId(1)),
            fate: Fate::Changed,
            facts: Facts::Task(TaskFacts {
                name: "web.1".into(),
                service: ServiceId(2),
                service_name: "web".into(),
                slot: 1,
                node: Some(NodeId(3)),
                hostname: "h1".into(),
                state: TaskState::Failed,
                desired: TaskState::Running,
                withdrawn: false,
                message: "exit code 1".into(),
                why: None,
                exit_code: Some(1),
                since: 0,
            }),
        }
    }

    #[test]
    fn a_change_is_one_line_for_people() {
        let gone = Change {
            fate: Fate::Removed,
            object: ObjectRef::Network(NetworkId(4)),
            facts: Facts::Network {
                name: "net".into(),
                driver: Driver::Overlay,
            },
            ..task()
        };
        assert_eq!(
            [text(&task()), text(&gone)],
            [
                "1970-01-01T00:00:00.000Z task web.1 changed: failed on h1, desired running: exit \
                 code 1 (revision 7, id 0000000000001)",
                "1970-01-01T00:00:00.000Z network net removed (revision 7, id 0000000000004)",
            ]
        );
    }

    #[test]
    fn filters_fit_by_kind_fate_name_and_id() {
        let pairs = |words: &[(&str, &str)]| -> Vec<(String, String)> {
            let owned = words
                .iter()
                .map(|(key, value)| (key.to_string(), value.to_string()));
            owned.collect()
        };
        let fits = [
            &[][..],
            &[("service", "web")],
            &[("service", "0000000000002")],
            &[("service", "db"), ("service", "web")],
            &[("type", "task"), ("event", "changed"), ("node", "h1")],
            &[("type", "task"), ("id", "0000000000001")],
        ];
        for words in fits {
            assert!(filter(&pairs(words)).unwrap().takes(&task()), "{words:?}");
        }
        let others = [
            &[("service", "we")][..],
            &[("type", "service")],
            &[("event", "made")],
            &[("node", "h2")],
            &[("network", "net")],
            &[("type", "service"), ("id", "0000000000001")],
        ];
        for words in others {
            assert!(!filter(&pairs(words)).unwrap().takes(&task()), "{words:?}");
        }
        let wrong = [
            &[("color", "red")][..],
            &[("type", "pod")],
            &[("event", "born")],
            &[("id", "0000000000001")],
            &[("type", "task"), ("id", "web.1")],
        ];
        for words in wrong {
            let failure = filter(&pairs(words)).unwrap_err();
            assert_eq!(failure.kind, Kind::Invalid, "{words:?}");
        }
    }
}
