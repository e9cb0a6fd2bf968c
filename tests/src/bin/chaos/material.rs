//! What sites really train on here: a few synthetic patients of low resolution, and a very small network.

use std::path::{Path, PathBuf};

use fedpaint_proto::names::{Blob, Digest};
use fedpaint_tests::process::run;

/// What scanners there are; sites have them in turn.
const SCANNERS: [&str; 2] = ["A", "B"];

/// What the first site's scans are made from; each further one has the next.
const SEED: u32 = 11;

/// Scans of every site, and an initial model.
#[derive(Debug)]
pub(crate) struct Material {
    /// The folder of each site's scans.
    pub(crate) scans: Vec<PathBuf>,
    /// The initial model.
    pub(crate) model: PathBuf,
    /// What that is.
    pub(crate) blob: Blob,
}

impl Material {
    /// Makes it in `folder` for so many sites; it is the same each time.
    ///
    /// # Errors
    /// If the agent's program, which makes it, is missing or fails.
    pub(crate) fn make(folder: &Path, sites: usize) -> anyhow::Result<Material> {
        std::fs::create_dir_all(folder)?;
        let mut scans = Vec::new();
        for (seed, scanner) in (SEED..).zip(SCANNERS.into_iter().cycle()).take(sites) {
            let out = folder.join(format!("scans-{seed}"));
            let (text, seed) = (out.display().to_string(), seed.to_string());
            let args = ["--patients", "2", "--scanner", scanner, "--seed", &seed, "--size", "4"];
            run("fedpaint-site-agent", &[&["phantom", "--out", &text][..], &args].concat())?;
            scans.push(out);
        }
        let model = folder.join("initial.safetensors");
        let text = model.display().to_string();
        let args = ["--preset", "tiny", "--image-size", "16", "--seed", "3", "--out", &text];
        run("fedpaint-site-agent", &[&["init-model"][..], &args].concat())?;
        let bytes = std::fs::read(&model)?;
        let blob = Blob { digest: Digest::of(&bytes), size: bytes.len() as u64 };
        Ok(Material { scans, model, blob })
    }
}
