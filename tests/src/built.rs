//! The programs that a run starts, built before it: `cargo run -p fedpaint-tests --bin chaos` builds none of them.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::process::program;

/// What a federation is made of.
const PROGRAMS: [&str; 3] = ["fedpaint-coordinator", "fedctl", "fedpaint-site-agent"];

/// The workspace.
const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");

/// The variable that cargo sets for what it runs; `process::output` takes it from what a test starts.
pub(crate) const CARGO: &str = "CARGO";

/// Has the cargo that runs this program build the others as they are now, which takes a moment where they are
/// built already. A program that was started otherwise takes what lies beside it.
///
/// # Errors
/// If they do not build, or are not there.
pub fn programs() -> anyhow::Result<()> {
    if let Some(cargo) = std::env::var_os(CARGO) {
        let words = build(&std::env::current_exe()?);
        let said = format!("cargo {}", words.join(" "));
        eprintln!("building the programs: {said}");
        let mut command = Command::new(cargo);
        command.args(&words).args(["--manifest-path", MANIFEST]);
        let ended = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
        let ended = ended.with_context(|| format!("cannot run `{said}`"))?;
        ensure!(ended.success(), "`{said}` ended with {ended}");
    }
    PROGRAMS.iter().try_for_each(|name| program(name).map(drop))
}

/// What cargo is told: to build as it has built `me`.
fn build(me: &Path) -> Vec<&'static str> {
    let folder = me.parent().and_then(Path::file_name).unwrap_or_default();
    let release = (folder != "debug").then_some("--release");
    ["build"].into_iter().chain(release).chain(["--workspace", "--locked"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_built_as_the_one_that_starts_them_is() {
        let release = ["build", "--release", "--workspace", "--locked"];
        assert_eq!(build(Path::new("target/release/chaos")), release);
        assert_eq!(build(Path::new("target/debug/chaos")), ["build", "--workspace", "--locked"]);
    }
}
