//! One entry of the log: commands that share its place in it and its flush to the disk.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error, ser::SerializeStruct};

use crate::{Command, Entry, EpochKey, Level, Millis, RequestId, level};

/// Commands that are applied one after the other, and written and replicated together.
///
/// In JSON `{"level": L, "entries": [..]}`. Before [`Level::BATCHES`] it is its only command,
/// bare, as the version before levels wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The level that its reader must know.
    pub level: Level,
    /// In their order; exactly one before [`Level::BATCHES`].
    pub entries: Vec<Entry>,
}

impl Batch {
    /// How many commands an entry of the log may carry in a cluster of this level.
    pub fn limit(level: Level, most: usize) -> usize {
        if level < Level::BATCHES { 1 } else { most }
    }
}

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.level < Level::BATCHES
            && let [only] = &self.entries[..]
        {
            return only.serialize(to);
        }
        let mut fields = to.serialize_struct("Batch", 2)?;
        fields.serialize_field("level", &self.level)?;
        fields.serialize_field("entries", &self.entries)?;
        fields.end()
    }
}

/// Both shapes at once, so that neither is read twice.
#[derive(Deserialize)]
struct Fields {
    #[serde(default)]
    level: Level,
    #[serde(default)]
    entries: Vec<Entry>,
    request: Option<RequestId>,
    now: Option<Millis>,
    chance: Option<EpochKey>,
    command: Option<Command>,
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let fields = Fields::deserialize(from)?;
        level::check("an entry of the log", fields.level, Level::NEWEST)
            .map_err(D::Error::custom)?;
        if fields.level >= Level::BATCHES {
            return Ok(Self {
                level: fields.level,
                entries: fields.entries,
            });
        }
        let only = Entry {
            request: fields
                .request
                .ok_or_else(|| D::Error::missing_field("request"))?,
            now: fields.now.ok_or_else(|| D::Error::missing_field("now"))?,
            chance: fields.chance,
            command: fields
                .command
                .ok_or_else(|| D::Error::missing_field("command"))?,
        };
        Ok(Self {
            level: fields.level,
            entries: vec![only],
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_str, to_string};

    use super::*;
    use crate::{ClusterCommand, ServiceCommand};

    fn entry(request: u64, command: impl Into<Command>) -> Entry {
        Entry {
            request: RequestId(request),
            now: 7,
            chance: None,
            command: command.into(),
        }
    }

    fn scale(request: u64) -> Entry {
        let service = "web".to_owned();
        entry(
            request,
            ServiceCommand::Scale {
                service,
                replicas: 3,
            },
        )
    }

    #[test]
    fn batches_read_back_as_written_at_each_level() {
        let one = Batch {
            level: Level::FIRST,
            entries: vec![scale(1)],
        };
        let raise = entry(2, ClusterCommand::RaiseLevel { level: Level(1) });
        let many = Batch {
            level: Level(1),
            entries: vec![raise, scale(3)],
        };
        for batch in [one, many] {
            let text = to_string(&batch).unwrap();
            assert_eq!(from_str::<Batch>(&text).unwrap(), batch, "{text}");
        }
    }

    #[test]
    fn the_first_level_is_the_bare_entry_of_before() {
        let text = concat!(
            r#"{"request":1,"now":7,"#,
            r#""command":{"kind":"scale_service","service":"web","replicas":3}}"#
        );
        let batch = Batch {
            level: Level::FIRST,
            entries: vec![scale(1)],
        };
        assert_eq!(to_string(&batch).unwrap(), text);
        assert_eq!(from_str::<Batch>(text).unwrap(), batch);
    }

    #[test]
    fn an_unreadable_entry_is_named() {
        let refused = |text| from_str::<Batch>(text).unwrap_err().to_string();
        let newer = r#"{"level":9999,"entries":[]}"#;
        assert!(
            refused(newer).contains("is of level 9999"),
            "{}",
            refused(newer)
        );
        let unknown = r#"{"request":1,"now":7,"command":{"kind":"fly"}}"#;
        assert!(
            refused(unknown).contains("\"fly\" is no command"),
            "{}",
            refused(unknown)
        );
        assert!(refused(r#"{"now":7}"#).contains("request"));
    }
}
