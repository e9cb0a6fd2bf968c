//! Compiles the protocol without `protoc`, so that a fresh machine needs only Rust and a C compiler.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["admin", "blob", "federation", "identity", "types"]
        .map(|name| format!("fedpaint/v1/{name}.proto"));
    let descriptors = protox::compile(&files, ["."])?;
    println!("cargo::rerun-if-changed=fedpaint");
    // What can be called, for the table of who may.
    let mut methods = Vec::new();
    for file in &descriptors.file {
        for service in &file.service {
            for method in &service.method {
                methods.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("methods.rs"), format!("{methods:#?}\n"))?;
    tonic_prost_build::configure()
        // Chunks of a blob are shared, not copied.
        .bytes(".fedpaint.v1.UploadRequest.data")
        .bytes(".fedpaint.v1.DownloadResponse.data")
        .compile_fds(descriptors)?;
    Ok(())
}
