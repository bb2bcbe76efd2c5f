//! The program `netd-cni`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cni_plugin::cni()
}
