//! Compiles what tests say to a runtime of Kubernetes, and benchmarks to etcd.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=tests/runtimes/cri.proto");
    println!("cargo:rerun-if-changed=benches/control/etcd.proto");
    for (file, directory) in [
        ("cri.proto", "tests/runtimes"),
        ("etcd.proto", "benches/control"),
    ] {
        let descriptors = protox::compile([file], [directory])?;
        tonic_prost_build::configure()
            .build_server(false)
            .compile_fds(descriptors)?;
    }
    Ok(())
}
