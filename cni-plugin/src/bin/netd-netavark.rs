//! The program `netd-netavark`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cni_plugin::netavark()
}
