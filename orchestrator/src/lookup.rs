//! Finds objects by what people type: name, id, or unique prefix of an id.

use std::{collections::BTreeMap, fmt::Display, str::FromStr};

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
        let named = self.derived.nodes.named(&text.to_ascii_lowercase());
        find(&noun, text, named.copied().collect(), &self.nodes)
    }

    pub(crate) fn find_network(&self, text: &str) -> Result<NetworkId, Refusal> {
        let noun = Noun {
            what: "network",
            list: "swarmctl network ls",
        };
        let named = self.derived.networks.named(&text.to_ascii_lowercase());
        find(&noun, text, named.copied().collect(), &self.networks)
    }

    pub(crate) fn find_service(&self, text: &str) -> Result<ServiceId, Refusal> {
        let noun = Noun {
            what: "service",
            list: "swarmctl service ls",
        };
        let named = self.derived.services.named(&text.to_ascii_lowercase());
        find(&noun, text, named.copied().collect(), &self.services)
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
        find(&noun, text, Vec::new(), &self.tasks)
    }

    fn newest_run(&self, name: &str) -> Option<&TaskRecord> {
        let (service, slot) = name.rsplit_once('.')?;
        let slot: u32 = slot.parse().ok()?;
        let mut named = self.derived.services.named(&service.to_ascii_lowercase());
        let record = self.services.get(named.next()?)?;
        self.records(&record.slots.get(&slot)?.tasks).next_back()
    }
}

/// The object that is meant, given those with this name. Names are one to DNS whatever their case
/// (RFC 4343).
fn find<I: Copy + Display + FromStr + Ord, V>(
    noun: &Noun,
    text: &str,
    named: Vec<I>,
    objects: &BTreeMap<I, V>,
) -> Result<I, Refusal> {
    let found = if named.is_empty() {
        with_prefix(text, objects)
    } else {
        named
    };
    match found[..] {
        [] => Err(Refusal::not_found(noun.what, text, noun.list)),
        [id] => Ok(id),
        _ => Err(ambiguous(noun, text, &found)),
    }
}

/// The objects whose id begins with this text.
fn with_prefix<I: Copy + Display + FromStr + Ord, V>(
    text: &str,
    objects: &BTreeMap<I, V>,
) -> Vec<I> {
    if text.is_empty() {
        return Vec::new();
    }
    // All ids are of one length, so that a whole one begins no other.
    let whole = text.parse().ok().filter(|id: &I| id.to_string() == text);
    match whole {
        Some(id) => objects
            .contains_key(&id)
            .then_some(id)
            .into_iter()
            .collect(),
        None => {
            let ids = objects.keys().copied();
            ids.filter(|id| id.to_string().starts_with(text)).collect()
        }
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
