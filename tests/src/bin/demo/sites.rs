//! The demo's hospitals: synthetic ones with unlike scanners, or folders of real scans.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use fedpaint_proto::names::SiteName;
use fedpaint_tests::process::run;

/// The synthetic hospitals: name, scanner, patients, seed.
const HOSPITALS: [(&str, &str, &str, &str); 3] =
    [("north", "A", "18", "101"), ("river", "B", "14", "102"), ("summit", "C", "10", "103")];

/// The edge of a synthetic voxel in millimetres.
const VOXEL_MM: &str = "2";

/// What the numbers of a synthetic segmentation mean.
const SCHEME: &str = "brats2023";

/// The one contrast the demo trains, because minutes on two cores do not teach four.
pub(crate) const CONTRAST: &str = "t1n";

/// The most sites the demo starts on one machine.
const SITES_MAX: usize = 16;

/// A hospital of the demo.
#[derive(Debug)]
pub(crate) struct Site {
    /// Its name in the federation.
    pub(crate) name: String,
    /// Its patients' folder.
    pub(crate) data: PathBuf,
    /// What the numbers of its segmentations mean.
    pub(crate) label_scheme: String,
    /// A word about it, for people.
    pub(crate) about: String,
}

impl Site {
    /// What its agent's `[data]` says beside the path.
    pub(crate) fn data_lines(&self) -> String {
        format!("contrasts = [\"{CONTRAST}\"]\nlabel_scheme = \"{}\"\n", self.label_scheme)
    }
}

/// The sites of `data`, whose labels mean what `label_scheme` says, or synthetic ones made in `work`.
pub(crate) fn prepare(
    data: Option<&Path>,
    label_scheme: &str,
    work: &Path,
) -> anyhow::Result<Vec<Site>> {
    match data {
        Some(folder) => existing(folder, label_scheme),
        None => HOSPITALS.iter().map(|hospital| synthetic(work, *hospital)).collect(),
    }
}

fn existing(folder: &Path, label_scheme: &str) -> anyhow::Result<Vec<Site>> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .collect::<Result<Vec<_>, _>>()?;
    let mut folders: Vec<PathBuf> =
        entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    if folders.is_empty() || folders.len() > SITES_MAX {
        bail!(
            "{} holds {} site folders, the demo takes 1 to {SITES_MAX}: lay it out as \
             <site>/<patient>/<patient>-t1n.nii.gz",
            folder.display(),
            folders.len()
        );
    }
    folders.into_iter().map(|folder| site_of(folder, label_scheme)).collect()
}

fn site_of(folder: PathBuf, label_scheme: &str) -> anyhow::Result<Site> {
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name: SiteName = name
        .parse()
        .with_context(|| format!("rename the folder {} to name a site", folder.display()))?;
    let data = folder.canonicalize()?;
    let about = format!("scans in {}", folder.display());
    Ok(Site { name: name.to_string(), data, label_scheme: label_scheme.into(), about })
}

fn synthetic(
    work: &Path,
    (name, scanner, patients, seed): (&str, &str, &str, &str),
) -> anyhow::Result<Site> {
    let data = work.join("hospitals").join(name);
    let out = data.display().to_string();
    let args = ["phantom", "--out", &out, "--patients", patients, "--scanner", scanner];
    let more = ["--seed", seed, "--size", VOXEL_MM];
    run("fedpaint-site-agent", &[&args[..], &more].concat())?;
    let about = format!("{patients} synthetic patients from scanner {scanner}");
    Ok(Site { name: name.into(), data, label_scheme: SCHEME.into(), about })
}
