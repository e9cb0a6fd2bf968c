//! `data preview`: a contact sheet of a folder's cases, to look at before anything is trained.
//!
//! It draws a few cases, evenly chosen, and those that cannot be read with the reason. The picture
//! shows scans and names, so it is for the site's own people.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::commands::output;
use crate::data::exam::{self, Exam};
use crate::data::example::Region;
use crate::data::labels::LabelScheme;
use crate::data::layout::{self, Case, Contrast, Discovery};
use crate::data::mask::{HealthyMask, Room, TRAINING_DIAMETER_MM};
use crate::data::problem::{Kind, Problem};
use crate::data::stream::stream;
use crate::data::volume::Volume;
use crate::panel::sheet::{Content, Frame, Overlay, Sheet, Tile, best_slice};

/// The most cases of a sheet: more would not be looked at.
const CASES_MAX: i64 = 48;

/// Example masks of a case.
const MASKS: usize = 2;

/// Options of `data preview`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The data folder, or a manifest.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Where the picture goes.
    #[arg(long, value_name = "FILE.png")]
    out: PathBuf,
    /// What labels mean where no manifest says so: brats2021 (1, 2, 4), brats2023 (1, 2, 3),
    /// brats_post (1, 2, 3, 4 cavity) or lesion (any number).
    #[arg(long, value_name = "SCHEME")]
    label_scheme: Option<LabelScheme>,
    /// How many cases, evenly chosen.
    #[arg(long, value_name = "N", default_value_t = 12,
          value_parser = clap::value_parser!(u16).range(1..=CASES_MAX))]
    cases: u16,
    /// The contrasts to draw, such as `t1n,t2f`. By default every one that is there.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    contrasts: Option<Vec<Contrast>>,
}

/// Draws the sheet and says how many cases are on it.
///
/// # Errors
/// If the folder as a whole cannot be used or the picture not be written.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut discovery = layout::discover(&args.dir)?;
    if let Some(contrasts) = &args.contrasts {
        discovery.keep_contrasts(&contrasts.iter().copied().collect());
    }
    let all = entries(&discovery);
    let shown = evenly(all.len(), args.cases.into()).map(|i| all[i]);
    let shown: Vec<(&str, Entry<'_>)> = shown.collect();
    let contrasts = shown.iter().filter_map(|(_, entry)| entry.ok());
    let contrasts: BTreeSet<Contrast> =
        contrasts.flat_map(|case| case.scans.keys().copied()).collect();
    // The contrasts, the labels, the masks.
    let mut sheet = Sheet::new(contrasts.len() + 1 + MASKS);
    let bar = output::bar("cases");
    let mut bad = 0;
    for (i, (name, entry)) in shown.iter().enumerate() {
        let drawn = match entry {
            Err(problem) => Err((*problem).clone()),
            Ok(case) => draw(case, case.scheme(args.label_scheme), &contrasts, &mut sheet),
        };
        if let Err(problem) = drawn {
            sheet.draw(name, &Content::Bad(reason(&problem))).context("a row of text")?;
            bad += 1;
        }
        output::advance(&bar, i + 1, shown.len());
    }
    bar.finish_and_clear();
    let note = format!("{} of {} cases, {bad} of them set aside", shown.len(), all.len());
    output::write_file(&args.out, &sheet.png(&note)?)
        .with_context(|| args.out.display().to_string())?;
    output::print(&format!("{}: {note}", args.out.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// A case, or why it is none.
type Entry<'a> = Result<&'a Case, &'a Problem>;

/// Every case and what was set aside, by name.
fn entries(discovery: &Discovery) -> Vec<(&str, Entry<'_>)> {
    let cases = discovery.cases.iter().map(|case| (case.name.as_str(), Ok(case)));
    let others = discovery.set_aside.iter().map(|s| (s.case.as_str(), Err(&s.problem)));
    let mut all: Vec<(&str, Entry<'_>)> = cases.chain(others).collect();
    all.sort_by_key(|&(name, _)| name);
    all
}

/// `wanted` of `count` places (or all), with equal gaps.
fn evenly(count: usize, wanted: usize) -> impl Iterator<Item = usize> {
    let shown = wanted.min(count);
    (0..shown).map(move |i| (2 * i + 1) * count / (2 * shown))
}

/// Why a case is not drawn, for people.
fn reason(problem: &Problem) -> String {
    let file = problem.file.as_deref().and_then(Path::file_name);
    let file = file.map_or(String::new(), |name| format!("{}: ", name.to_string_lossy()));
    format!("{file}{}", problem.detail)
}

/// The first of the wanted contrasts that is there.
fn first_of<'a>(exam: &'a Exam, wanted: &[Contrast]) -> Option<&'a Volume> {
    wanted.iter().find_map(|contrast| exam.images.get(contrast))
}

/// Reads a case and draws its row.
fn draw(
    case: &Case,
    scheme: Option<LabelScheme>,
    contrasts: &BTreeSet<Contrast>,
    sheet: &mut Sheet,
) -> Result<(), Problem> {
    let empty = || Problem::error(Kind::Empty, "the scan is empty: every voxel is 0");
    let exam = exam::read(case, scheme).map_err(|error| error.problem(case))?;
    let first = first_of(&exam, &Contrast::ALL).ok_or_else(empty)?;
    let lesion = exam.lesion.as_deref();
    let z = best_slice(first, lesion).ok_or_else(empty)?;
    let mut tiles: Vec<Option<Tile<'_>>> = contrasts
        .iter()
        .map(|contrast| {
            let title = format!("{} z {z}", contrast.name());
            let image = exam.images.get(contrast)?;
            Some(Tile { title, image, z, overlay: Overlay::None })
        })
        .collect();
    // A contrast that shows the parts of a tumour, if there is one.
    let under = first_of(&exam, &[Contrast::T1c, Contrast::T2f]).unwrap_or(first);
    tiles.push(lesion.map(|lesion| {
        let title = format!("labels z {z}");
        Tile { title, image: under, z, overlay: Overlay::Lesion(lesion) }
    }));
    let masks = masks(&case.name, first, lesion);
    tiles.extend(masks.iter().enumerate().map(|(i, mask)| {
        let z = fullest_slice(&mask.voxels, first)?;
        let overlay = Overlay::Hidden { mask: &mask.voxels, lesion };
        Some(Tile { title: format!("mask {} z {z}", i + 1), image: first, z, overlay })
    }));
    let failed = |error: crate::panel::sheet::Error| Problem::error(Kind::Brain, error.to_string());
    let frame = Frame::around(first).map_err(failed)?;
    sheet.draw(&case.name, &Content::Tiles(frame, tiles)).map_err(failed)
}

/// Healthy masks as training draws them; fewer, or none, where there is no room.
fn masks(name: &str, image: &Volume, lesion: Option<&[Option<Region>]>) -> Vec<HealthyMask> {
    let is_lesion = |i: usize| lesion.is_some_and(|lesion| lesion[i].is_some());
    let Ok(room) = Room::new(image, is_lesion) else { return Vec::new() };
    let draw = |index: usize| {
        let parts: [&[u8]; 2] = [name.as_bytes(), &(index as u64).to_le_bytes()];
        room.draw(TRAINING_DIAMETER_MM, &mut stream("fedpaint 2026 preview masks", &parts)).ok()
    };
    (0..MASKS).filter_map(draw).collect()
}

/// The axial slice that has most of a mask.
fn fullest_slice(mask: &[u32], image: &Volume) -> Option<usize> {
    let area = image.dims[0] * image.dims[1];
    let mut counts = vec![0; image.dims[2]];
    mask.iter().for_each(|&voxel| counts[voxel as usize / area] += 1);
    (0..counts.len()).max_by_key(|&z| counts[z]).filter(|&z| counts[z] > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_of_many_cases_are_spread_over_all() {
        assert_eq!(evenly(10, 12).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
        assert_eq!(evenly(100, 4).collect::<Vec<_>>(), [12, 37, 62, 87]);
        assert_eq!(evenly(1, 12).collect::<Vec<_>>(), [0]);
        assert_eq!(evenly(0, 12).count(), 0);
    }
}
