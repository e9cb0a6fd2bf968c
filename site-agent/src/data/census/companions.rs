//! What is wrong with the files of the BraTS inpainting set that training does not read: the voided scan
//! and the masks it was voided with. Their case is used all the same, so nothing here is an error.

use std::path::Path;

use crate::data::image;
use crate::data::layout::{Case, Companion, Contrast};
use crate::data::nifti::header::FileGeometry;
use crate::data::problem::{Kind, Problem, Severity};
use crate::data::volume::Volume;

/// Reads the companions of a case and compares them with each other, its scan and its lesion, on the
/// case's grid.
pub(super) fn problems(case: &Case, grid: Option<&FileGeometry>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let Some(grid) = grid.filter(|_| !case.companions.is_empty()) else { return problems };
    let mut read = |path: Option<&Path>| -> Option<Volume> {
        let found = image::read_like(path?, grid);
        found.map_err(|error| problems.push(lessened(error.into()))).ok()
    };
    let mut companion = |which| read(case.companions.get(&which).map(|path| path.as_path()));
    let [mask, healthy] = [Companion::Mask, Companion::MaskHealthy].map(&mut companion);
    let voided = companion(Companion::Voided);
    // Files of the case itself that do not read are told elsewhere, and set it aside.
    let own = |path: Option<&Path>| path.and_then(|path| image::read_like(path, grid).ok());
    let unhealthy = own(case.segmentation.as_deref());
    let scan = own(case.scans.get(&Contrast::T1n).map(|path| path.as_path()));
    let mut warn = |which, kind, detail: String| {
        let problem = Problem::warning(kind, detail);
        problems.extend(case.companions.get(&which).map(|path| problem.in_file(path)));
    };
    if let (Some(mask), Some(healthy), Some(unhealthy)) = (&mask, &healthy, &unhealthy) {
        let parts = healthy.voxels.iter().zip(&unhealthy.voxels);
        let other = |(&m, (&h, &u)): (&f32, (&f32, &f32))| (m != 0.0) != (h != 0.0 || u != 0.0);
        let count = mask.voxels.iter().zip(parts).filter(|&pair| other(pair)).count();
        if count > 0 {
            let detail = format!("{count} voxels are not those of mask-healthy and the lesion");
            warn(Companion::Mask, Kind::Mask, detail);
        }
    }
    if let (Some(mask), Some(voided)) = (&mask, &voided) {
        let hidden = mask.voxels.iter().zip(&voided.voxels);
        let shown = hidden.filter(|&(&m, &v)| m != 0.0 && v != 0.0).count();
        if shown > 0 {
            let detail = format!("{shown} voxels inside the mask are not 0");
            warn(Companion::Voided, Kind::Mask, detail);
        }
        let others =
            mask.voxels.iter().zip(voided.voxels.iter()).zip(scan.iter().flat_map(|s| &s.voxels));
        let changed = others.filter(|&((&m, v), s)| m == 0.0 && v != s).count();
        if changed > 0 {
            let detail = format!("{changed} voxels outside the mask are not those of the scan");
            warn(Companion::Voided, Kind::Mask, detail);
        }
    }
    problems
}

/// The problem of a file that nothing depends on.
fn lessened(problem: Problem) -> Problem {
    let detail = format!("{} (training does not read it)", problem.detail);
    Problem { severity: Severity::Warning, detail, ..problem }
}
