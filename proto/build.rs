//! Compiles the protocol without `protoc`, so that a fresh machine needs only Rust and a C compiler.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files =
        ["admin", "blob", "federation", "types"].map(|name| format!("fedpaint/v1/{name}.proto"));
    let descriptors = protox::compile(&files, ["."])?;
    println!("cargo::rerun-if-changed=fedpaint");
    tonic_prost_build::configure()
        // Chunks of a blob are shared, not copied.
        .bytes(".fedpaint.v1.UploadRequest.data")
        .bytes(".fedpaint.v1.DownloadResponse.data")
        .compile_fds(descriptors)?;
    Ok(())
}
