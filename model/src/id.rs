//! Identifiers: 64 random-looking bits, written as 13 digits of base 36 (`0`-`9`, `a`-`z`), most significant first.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const LENGTH: usize = 13;

/// Text that is not an id.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
#[error("{0:?} is not an id: it takes 13 digits of base 36 and fits 64 bits")]
pub struct IdError(pub String);

fn encode(mut value: u64) -> String {
    let mut digits = [b'0'; LENGTH];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(value % 36) as usize];
        value /= 36;
    }
    digits.iter().map(|&digit| char::from(digit)).collect()
}

fn decode(text: &str) -> Result<u64, IdError> {
    let refuse = || IdError(text.to_owned());
    if text.len() != LENGTH {
        return Err(refuse());
    }
    text.bytes().try_fold(0u64, |value, byte| {
        let digit = DIGITS.iter().position(|&known| known == byte).ok_or_else(refuse)?;
        value.checked_mul(36).and_then(|value| value.checked_add(digit as u64)).ok_or_else(refuse)
    })
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
    /// The joint of one sandbox and one network.
    EndpointId
);

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
    fn what_is_no_id_is_refused() {
        for text in ["", "0", "zzzzzzzzzzzzz", "000000000000A", "00000000000000"] {
            assert!(text.parse::<NodeId>().is_err(), "{text}");
        }
    }
}
