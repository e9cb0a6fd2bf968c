//! Compiles the protocol without `protoc`, so that a fresh machine needs only Rust and a C compiler.

use prost_types::FileDescriptorSet;

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
    std::fs::write(out.join("wire.txt"), wire(&descriptors)?.join("\n"))?;
    std::fs::write(out.join("methods.rs"), format!("{methods:#?}\n"))?;
    tonic_prost_build::configure()
        // Chunks of a blob are shared, not copied.
        .bytes(".fedpaint.v1.UploadRequest.data")
        .bytes(".fedpaint.v1.DownloadResponse.data")
        .compile_fds(descriptors)?;
    Ok(())
}

/// What an older program knows of the protocol, a line for each call, field and value: for the test that none of
/// them changes.
fn wire(descriptors: &FileDescriptorSet) -> Result<Vec<String>, String> {
    let mut wire = Vec::new();
    for file in descriptors.file.iter().filter(|file| file.package() == "fedpaint.v1") {
        for service in &file.service {
            for method in &service.method {
                let stream = |streams| if streams { "stream " } else { "" };
                wire.push(format!(
                    "{}.{}: {}{} -> {}{}",
                    service.name(),
                    method.name(),
                    stream(method.client_streaming()),
                    method.input_type().trim_start_matches('.'),
                    stream(method.server_streaming()),
                    method.output_type().trim_start_matches('.'),
                ));
            }
        }
        for message in &file.message_type {
            if !(message.nested_type.is_empty() && message.enum_type.is_empty()) {
                return Err(format!("{} has types within it, which go unlisted", message.name()));
            }
            for field in &message.field {
                let (name, number) = (field.name(), field.number());
                let kind = match field.type_name() {
                    "" => field.r#type().as_str_name().trim_start_matches("TYPE_").to_lowercase(),
                    of => of.trim_start_matches('.').to_owned(),
                };
                let label = match field.label().as_str_name() {
                    "LABEL_REPEATED" => "repeated ",
                    _ if field.proto3_optional() => "optional ",
                    _ => "",
                };
                wire.push(format!("{}.{name} = {number}: {label}{kind}", message.name()));
            }
        }
        for values in &file.enum_type {
            for value in &values.value {
                wire.push(format!("{}.{} = {}", values.name(), value.name(), value.number()));
            }
        }
    }
    Ok(wire)
}
