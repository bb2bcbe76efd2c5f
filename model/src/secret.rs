//! The secret part of a join token.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::base36;

const LENGTH: usize = 25;

/// 128 random bits that let a host in, written as 25 digits of base 36. `Debug` does not show them.
#[derive(Clone)]
pub struct Secret(u128);

/// Text that is not a secret. Never holds the text itself.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
#[error("a secret takes 25 digits of base 36 and fits 128 bits")]
pub struct SecretError;

impl Secret {
    /// The secret of these bits.
    pub fn new(bits: u128) -> Self {
        Self(bits)
    }
}

impl PartialEq for Secret {
    /// Takes the same time whatever differs.
    fn eq(&self, other: &Self) -> bool {
        std::hint::black_box(self.0 ^ other.0) == 0
    }
}

impl Eq for Secret {}

impl fmt::Display for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&base36::encode(self.0, LENGTH))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret")
    }
}

impl FromStr for Secret {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        base36::decode(text, LENGTH).map(Self).ok_or(SecretError)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClusterCommand, Command, Role};

    #[test]
    fn every_secret_is_25_digits_that_hold_all_bits() {
        let written = [(0, "0".repeat(25)), (35, format!("{}z", "0".repeat(24)))];
        for (bits, text) in written
            .into_iter()
            .chain([(u128::MAX, "f5lxx1zz5pnorynqglhzmsp33".to_owned())])
        {
            assert_eq!(Secret::new(bits).to_string(), text);
            assert_eq!(text.parse(), Ok(Secret::new(bits)));
        }
    }

    #[test]
    fn malformed_secrets_are_refused() {
        for text in ["", "0", &"z".repeat(25), &"A".repeat(25), &"0".repeat(26)] {
            assert_eq!(text.parse::<Secret>(), Err(SecretError), "{text}");
        }
    }

    #[test]
    fn no_command_shows_a_secret_in_a_log() {
        let secret = Secret::new(u128::MAX);
        let command = Command::Cluster(ClusterCommand::RotateToken {
            role: Role::Worker,
            secret: secret.clone(),
        });
        assert!(!format!("{command:?}").contains(&secret.to_string()));
    }
}
