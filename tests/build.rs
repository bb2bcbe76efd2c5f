//! Compiles what tests say to a runtime of Kubernetes.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=tests/runtimes/cri.proto");
    let descriptors = protox::compile(["cri.proto"], ["tests/runtimes"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds(descriptors)?;
    Ok(())
}
