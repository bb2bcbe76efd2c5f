//! The daemon of every host, as a library: the binary in `main.rs` only parses arguments and starts it.
