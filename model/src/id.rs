//! Identifiers: 64 random-looking bits, written as 13 digits of base 36 (`0`-`9`, `a`-`z`), most
//! significant first.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::base36;

const LENGTH: usize = 13;

/// Text that is not an id.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
#[error("{0:?} is not an id: it takes 13 digits of base 36 and fits 64 bits")]
pub struct IdError(pub String);

fn encode(value: u64) -> String {
    base36::encode(value.into(), LENGTH)
}

fn decode(text: &str) -> Result<u64, IdError> {
    let value = base36::decode(text, LENGTH).and_then(|value| u64::try_from(value).ok());
    value.ok_or_else(|| IdError(text.to_owned()))
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.pad(&encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, concat!(stringify!($name), "({})"), encode(self.0))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                decode(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

id!(
    /// A machine of the cluster; also its Raft id.
    NodeId
);
id!(
    /// A network.
    NetworkId
);
id!(
    /// A service.
    ServiceId
);
id!(
    /// One run of one slot of a service.
    TaskId
);
id!(
    /// The network namespace of a task, which has the same number, or of a container that others
    /// run.
    SandboxId
);
id!(
    /// The joint of one sandbox and one network.
    EndpointId
);

impl From<TaskId> for SandboxId {
    fn from(task: TaskId) -> Self {
        Self(task.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_as_written() {
        for value in [0, 1, 35, 36, u64::MAX] {
            let id = NodeId(value);
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!(id.to_string().len(), LENGTH);
        }
    }

    #[test]
    fn malformed_ids_are_refused() {
        for text in ["", "0", "zzzzzzzzzzzzz", "000000000000A", "00000000000000"] {
            assert!(text.parse::<NodeId>().is_err(), "{text}");
        }
    }
}
