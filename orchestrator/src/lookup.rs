//! Finds objects by what people type: name, id, or unique prefix of an id.

use std::fmt::Display;

use model::{Kind, NetworkId, NodeId, Refusal, ServiceId, TaskId};

use crate::{record::TaskRecord, state::State};

/// A kind of object, for messages.
struct Noun {
    what: &'static str,
    list: &'static str,
}

impl State {
    pub(crate) fn find_node(&self, text: &str) -> Result<NodeId, Refusal> {
        let noun = Noun {
            what: "node",
            list: "swarmctl node ls",
        };
        find(
            &noun,
            text,
            self.nodes
                .values()
                .map(|node| (node.id, node.hostname.as_str())),
        )
    }

    pub(crate) fn find_network(&self, text: &str) -> Result<NetworkId, Refusal> {
        let noun = Noun {
            what: "network",
            list: "swarmctl network ls",
        };
        find(
            &noun,
            text,
            self.networks
                .values()
                .map(|network| (network.id, network.spec.name.as_str())),
        )
    }

    pub(crate) fn find_service(&self, text: &str) -> Result<ServiceId, Refusal> {
        let noun = Noun {
            what: "service",
            list: "swarmctl service ls",
        };
        let services = self.services.values().map(|record| &record.service);
        find(
            &noun,
            text,
            services.map(|service| (service.id, service.spec.name.as_str())),
        )
    }

    /// `web.1` is the newest run of that slot.
    pub(crate) fn find_task(&self, text: &str) -> Result<TaskId, Refusal> {
        if let Some(task) = self.newest_run(text) {
            return Ok(task.task.id);
        }
        let noun = Noun {
            what: "task",
            list: "swarmctl service ps SERVICE",
        };
        find(&noun, text, self.tasks.keys().map(|id| (*id, "")))
    }

    fn newest_run(&self, name: &str) -> Option<&TaskRecord> {
        let (service, slot) = name.rsplit_once('.')?;
        let slot: u32 = slot.parse().ok()?;
        let record = self
            .services
            .values()
            .find(|record| same_name(&record.service.spec.name, service))?;
        self.records(&record.slots.get(&slot)?.tasks).next_back()
    }
}

/// Whether two names are one to DNS, which does not tell case apart (RFC 4343).
pub(crate) fn same_name(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

fn find<'a, I: Copy + Display>(
    noun: &Noun,
    text: &str,
    objects: impl Iterator<Item = (I, &'a str)> + Clone,
) -> Result<I, Refusal> {
    let by_name = objects
        .clone()
        .filter(|(_, name)| !text.is_empty() && same_name(name, text));
    let by_prefix = objects.filter(|(id, _)| !text.is_empty() && id.to_string().starts_with(text));
    let named: Vec<I> = by_name.map(|(id, _)| id).collect();
    let found = if named.is_empty() {
        by_prefix.map(|(id, _)| id).collect()
    } else {
        named
    };
    match found[..] {
        [] => Err(Refusal::not_found(noun.what, text, noun.list)),
        [id] => Ok(id),
        _ => Err(ambiguous(noun, text, &found)),
    }
}

fn ambiguous<I: Display>(noun: &Noun, text: &str, found: &[I]) -> Refusal {
    let ids: Vec<String> = found.iter().take(5).map(I::to_string).collect();
    let cause = format!(
        "{text:?} means {} {}s: {}",
        found.len(),
        noun.what,
        ids.join(", ")
    );
    Refusal::new(
        Kind::Invalid,
        cause,
        format!("use the id instead; `{}` shows it", noun.list),
    )
}
