//! Numbers in base 36 (`0`-`9`, `a`-`z`), most significant digit first, in a fixed number of
//! digits.

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// The last `length` digits of a number.
pub(crate) fn encode(mut value: u128, length: usize) -> String {
    let mut digits = vec![b'0'; length];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(value % 36) as usize];
        value /= 36;
    }
    digits.into_iter().map(char::from).collect()
}

/// The number of exactly `length` digits; `None` for other text, and for a number of more than 128
/// bits.
pub(crate) fn decode(text: &str, length: usize) -> Option<u128> {
    if text.len() != length {
        return None;
    }
    text.bytes().try_fold(0u128, |value, byte| {
        let digit = DIGITS.iter().position(|&known| known == byte)?;
        value.checked_mul(36)?.checked_add(digit as u128)
    })
}
