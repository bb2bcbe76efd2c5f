//! Join tokens: `SWMTKN-1-<digest of the root certificate>-<secret>`, both in base 36.

use std::{fmt, str::FromStr};

use model::Secret;
use sha2::{Digest, Sha256};

const PREFIX: &str = "SWMTKN-1-";
const DIGEST_DIGITS: usize = 50;
const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// A join token: pins the cluster's root certificate, and proves that an operator of the cluster
/// issued it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the root certificate (DER): 50 digits of base 36.
    pub digest: String,
    /// What only operators of the cluster know.
    pub secret: Secret,
}

/// Text that is not a token. Never holds the text itself: part of it may be a secret.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
#[error("this is not a join token: {0}")]
pub struct TokenError(&'static str);

impl TokenError {
    /// What to do about it.
    pub fn next(&self) -> String {
        "copy the whole token, of the form SWMTKN-1-<50 digits>-<25 digits>, that `swarmctl token \
         worker` or `swarmctl token manager` prints on a manager"
            .to_owned()
    }
}

impl Token {
    /// The token of the cluster with this root certificate (DER).
    pub fn new(root: &[u8], secret: Secret) -> Self {
        Self {
            digest: digest(root),
            secret,
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{PREFIX}{}-{}", self.digest, self.secret)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let rest = text
            .trim()
            .strip_prefix(PREFIX)
            .ok_or(TokenError("it does not begin with SWMTKN-1-"))?;
        let (digest, secret) = rest
            .split_once('-')
            .ok_or(TokenError("its secret is missing"))?;
        if digest.len() != DIGEST_DIGITS {
            return Err(TokenError("its digest is not 50 digits long"));
        }
        if !digest.bytes().all(|byte| DIGITS.contains(&byte)) {
            return Err(TokenError(
                "its digest has characters other than 0-9 and a-z",
            ));
        }
        let secret = secret
            .parse()
            .map_err(|_| TokenError("its secret is not 25 digits of 0-9 and a-z"))?;
        Ok(Self {
            digest: digest.to_owned(),
            secret,
        })
    }
}

/// The digest part of the tokens of the cluster with this root certificate (DER).
pub(crate) fn digest(root: &[u8]) -> String {
    base36(&Sha256::digest(root), DIGEST_DIGITS)
}

/// The big-endian number in base 36, padded with zeros on the left.
fn base36(number: &[u8], length: usize) -> String {
    let mut number = number.to_vec();
    let mut digits = vec![b'0'; length];
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0;
        for byte in &mut number {
            let value = remainder * 256 + u32::from(*byte);
            *byte = (value / 36) as u8;
            remainder = value % 36;
        }
        *digit = DIGITS[remainder as usize];
    }
    digits.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_read_back_as_written() {
        let token = Token::new(b"root", Secret::new(rand::random()));
        assert_eq!(token.to_string().parse(), Ok(token));
    }

    #[test]
    fn the_largest_numbers_fit() {
        assert_eq!(base36(&[0xff; 16], 25), "f5lxx1zz5pnorynqglhzmsp33");
        assert_eq!(base36(&[0, 0, 0, 36], 4), "0010");
        assert!(!base36(&[0xff; 32], DIGEST_DIGITS).starts_with("00"));
    }

    #[test]
    fn malformed_tokens_are_refused_without_repeating_them() {
        let good = Token::new(b"root", Secret::new(rand::random())).to_string();
        for text in [
            "",
            "x",
            "SWMTKN-1-abc",
            &good[..good.len() - 1],
            &good.to_uppercase(),
            &good.replace('-', "_"),
        ] {
            let error = text.parse::<Token>().unwrap_err();
            assert!(error.next().contains("SWMTKN-1-<50 digits>"), "{error}");
            assert!(
                text.len() < 2 || !error.to_string().contains(text),
                "{error}"
            );
        }
    }
}
