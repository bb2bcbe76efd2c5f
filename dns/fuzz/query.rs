//! Any bytes as a query: what comes out is checked by the same rules as in dns/tests/hostile.rs.

#![no_main]

#[path = "../tests/hostile/rules.rs"]
mod rules;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rules::holds(bytes));
