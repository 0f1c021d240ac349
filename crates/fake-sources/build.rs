//! Generates the messages and the service of the SPIFFE Workload API.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    // Compiles the definition without protoc.
    let definition = protox::compile(["proto/workload.proto"], ["proto"])?;
    tonic_prost_build::configure().build_client(false).compile_fds(definition)?;
    Ok(())
}
