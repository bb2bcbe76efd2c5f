//! What runtimes write to a plugin's standard input.

use std::io::{self, Read};

/// The largest input that is read, in bytes: no runtime writes a tenth of it for one container.
const LIMIT: u64 = 4 << 20;

/// All of standard input. Errors: it cannot be read, or is too large.
pub(crate) fn read() -> io::Result<Vec<u8>> {
    bounded(io::stdin().lock(), LIMIT)
}

fn bounded(from: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut input = Vec::new();
    from.take(limit + 1).read_to_end(&mut input)?;
    if input.len() as u64 > limit {
        return Err(io::Error::other(format!("it has more than {limit} bytes")));
    }
    Ok(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_beyond_the_limit_is_refused() {
        assert_eq!(bounded(&b"abc"[..], 3).unwrap(), b"abc");
        let error = bounded(io::repeat(0), 3).unwrap_err();
        assert!(error.to_string().contains("3 bytes"), "{error}");
    }
}
