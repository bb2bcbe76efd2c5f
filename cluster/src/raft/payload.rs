//! A batch on its way through the log. Its JSON is made once, for the disk and for every other
//! manager; its commands go to the state machine once, without a copy.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use model::{Batch, Level};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::value::{RawValue, to_raw_value};

/// In JSON it is the batch. Clones share it.
#[derive(Clone)]
pub(crate) struct Payload(Arc<Shared>);

struct Shared {
    level: Level,
    json: Box<RawValue>,
    /// Gone once the state machine has it.
    batch: Mutex<Option<Batch>>,
}

impl Payload {
    pub(crate) fn new(batch: Batch) -> serde_json::Result<Self> {
        let json = to_raw_value(&batch)?;
        Ok(Self::of(json, batch))
    }

    /// The level that its reader must know.
    pub(crate) fn level(&self) -> Level {
        self.0.level
    }

    /// The batch, for the one who applies it. Read again where another one has taken it.
    pub(crate) fn take(&self) -> serde_json::Result<Batch> {
        let mut batch = self.0.batch.lock().unwrap_or_else(PoisonError::into_inner);
        match batch.take() {
            Some(batch) => Ok(batch),
            None => serde_json::from_str(self.0.json.get()),
        }
    }

    fn of(json: Box<RawValue>, batch: Batch) -> Self {
        Self(Arc::new(Shared {
            level: batch.level,
            json,
            batch: Mutex::new(Some(batch)),
        }))
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Commands may carry keys.
        write!(out, "Payload({} bytes)", self.0.json.get().len())
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.0.json.get() == other.0.json.get()
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.json.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(from)?;
        let batch = serde_json::from_str(json.get()).map_err(D::Error::custom)?;
        Ok(Self::of(json, batch))
    }
}

#[cfg(test)]
mod tests {
    use model::{Command, Entry, RequestId, ServiceCommand};
    use serde_json::{from_str, to_string};

    use super::*;

    fn batch(level: Level) -> Batch {
        let command = Command::Service(ServiceCommand::PauseUpdate {
            service: model::ServiceId(7),
        });
        let entry = Entry {
            request: RequestId(1),
            now: 7,
            chance: None,
            command,
        };
        Batch {
            level,
            entries: vec![entry],
        }
    }

    #[test]
    fn a_payload_is_its_batch_in_json_at_each_level() {
        for level in (0..=Level::NEWEST.0).map(Level) {
            let payload = Payload::new(batch(level)).unwrap();
            let text = to_string(&payload).unwrap();
            assert_eq!(text, to_string(&batch(level)).unwrap());
            let read: Payload = from_str(&text).unwrap();
            assert_eq!((read.level(), &read), (level, &payload));
            // Whoever asks again gets the same.
            for _ in 0..2 {
                assert_eq!(read.take().unwrap(), batch(level));
            }
        }
    }
}
