//! The cases of a manifest, as far as they can be told without opening a scan. One that lists none says
//! what the labels of its folder's cases mean.
//!
//! It never follows a path out of the manifest's folder.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::data::layout::names::Role;
use crate::data::layout::walk::{self, flaw_of_target};
use crate::data::layout::{Contrast, Discovery, Error, Found, FoundFile};
use crate::data::manifest::{self, BYTES_MAX, Format, Manifest, Row};

/// The cases that the manifest at `path` lists, or those of its folder, and what is no case.
pub(super) fn found(path: &Path, format: Format) -> Result<(Vec<Found>, Discovery), Error> {
    let failed = |source| Error::Io { path: path.to_path_buf(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    let Manifest { rows, labels } = manifest::parse(&bytes, format)
        .map_err(|source| Error::Manifest { path: path.to_path_buf(), source })?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if rows.is_empty() && labels.is_some() {
        let (mut found, others) = walk::found(folder)?;
        found.iter_mut().for_each(|case| case.label_scheme = labels);
        return Ok((found, others));
    }
    let root = folder.canonicalize().map_err(failed)?;
    let found = rows.into_iter().map(|row| found_row(row, folder, &root)).collect();
    Ok((found, Discovery::default()))
}

fn found_row(row: Row, folder: &Path, root: &Path) -> Found {
    let Row { line, case, patient, scans, segmentation, labels } = row;
    let scans = Contrast::ALL.into_iter().zip(scans);
    let scans = scans.filter_map(|(contrast, path)| Some((Role::Scan(contrast), path?)));
    let all = scans.chain(segmentation.map(|path| (Role::Segmentation, path)));
    let files = all.map(|(role, path)| {
        let path = folder.join(path);
        let flaw = flaw_of_target(&path, root, role != Role::Segmentation);
        FoundFile { role, path, flaw }
    });
    let files = files.collect();
    let place = format!("line {line} of the manifest");
    Found { name: case, patient, label_scheme: labels, place, files }
}
