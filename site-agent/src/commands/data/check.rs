//! `data check`: reads every scan of a folder and prints what [`crate::data::census`] finds.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};

use crate::commands::output::{self, Format};
use crate::data::census::summary::{Census, ProblemCounts, Summary, grid_text};
use crate::data::census::{CaseReport, LabelReport, mark_duplicates, survey};
use crate::data::labels::LabelScheme;
use crate::data::layout::{self, Contrast};
use crate::data::prefetch::{Ahead, ahead};
use crate::data::problem::{Kind, Problem, Severity};
use crate::data::readers::{READERS_MAX, readers};

/// Labels of one case that are listed one by one; lesions may be numbered by the hundred.
const LABELS_SHOWN: usize = 4;

/// Cases that are listed with the same problem before the rest are only counted.
const ALIKE_SHOWN: usize = 8;

/// Grids that are listed one by one.
const GRIDS_SHOWN: usize = 6;

/// Options of `data check`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The data folder, or a manifest.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// What labels mean where no manifest says so: brats2021 (1, 2, 4), brats2023 (1, 2, 3),
    /// brats_post (1, 2, 3, 4 cavity) or lesion (any number).
    #[arg(long, value_name = "SCHEME")]
    label_scheme: Option<LabelScheme>,
    /// The contrasts to use, such as `t1n,t2f`. By default every one that is there.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    contrasts: Option<Vec<Contrast>>,
    /// How to print.
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

const HELP: &str = "\
A case is set aside if one of its files cannot be used; the others are used all the same.
Exit code: 0 if some case can be used, 1 if none can, 2 for a wrong command line.

JSON: {summary, cases, set_aside}. A case has case, patient, usable, contrasts, grid {orientation,
dims, spacing_mm}, brain_ml, label_scheme, labels [{label, meaning, voxels, ml}], tasks and problems
[{severity, kind, file, detail}]; set_aside has case and one such problem each.";

/// Reads everything and prints the report; fails if nothing can be used.
///
/// # Errors
/// If the folder as a whole cannot be used.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut discovery = layout::discover(&args.dir)?;
    if let Some(contrasts) = &args.contrasts {
        discovery.keep_contrasts(&contrasts.iter().copied().collect());
    }
    let bar = output::bar("cases");
    bar.set_length(discovery.cases.len() as u64);
    let cases = &discovery.cases;
    let look = |index: usize| survey(&cases[index], cases[index].scheme(args.label_scheme));
    let at_once = Ahead { threads: readers(), queue: 2 * READERS_MAX };
    let mut reports: Vec<CaseReport> = ahead(at_once, cases.len(), look, |reports| {
        std::iter::from_fn(|| reports.take().inspect(|_| bar.inc(1))).collect()
    });
    bar.finish_and_clear();
    mark_duplicates(&mut reports);
    let census = Census::new(&discovery, reports);
    let text = match args.output {
        Format::Json => serde_json::to_string_pretty(&census)?,
        Format::Table => page(&census, &args.dir),
    };
    output::print(&text)?;
    Ok(if census.summary.exams == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The whole report for people.
fn page(census: &Census, dir: &Path) -> String {
    let mut text = String::new();
    let usable: Vec<&CaseReport> = census.cases.iter().filter(|case| case.usable).collect();
    if !usable.is_empty() {
        text += &cases_table(&usable);
        text += "\n\n";
    }
    let warned = usable.iter().flat_map(|case| {
        let warnings = case.problems.iter().filter(|p| p.severity == Severity::Warning);
        warnings.map(|problem| (case.case.as_str(), problem))
    });
    text += &listing("To look at", warned.collect(), dir);
    let aside = census.set_aside.iter().map(|aside| (aside.case.as_str(), &aside.problem));
    text += &listing("Set aside", aside.collect(), dir);
    text += &summary_text(&census.summary);
    text
}

fn cases_table(cases: &[&CaseReport]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    let head = ["case", "contrasts", "axes", "voxels", "mm", "brain mL", "labels mL", "trains"];
    table.set_header(head);
    for case in cases {
        let (dims, mm) = case.grid.as_ref().map(grid_text).unwrap_or_default();
        let contrasts: Vec<&str> = case.contrasts.iter().map(|contrast| contrast.name()).collect();
        let tasks: Vec<&str> = case.tasks.iter().map(|task| task.name()).collect();
        table.add_row([
            shown(&case.case),
            contrasts.join(" "),
            case.grid.as_ref().map_or_else(String::new, |grid| grid.orientation.clone()),
            dims,
            mm,
            case.brain_ml.map_or_else(String::new, |ml| format!("{ml:.0}")),
            labels_text(&case.labels),
            tasks.join(" "),
        ]);
    }
    if let Some(column) = table.column_mut(5) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// The volumes of a case's labels.
fn labels_text(labels: &[LabelReport]) -> String {
    if labels.len() > LABELS_SHOWN {
        let ml: f64 = labels.iter().map(|label| label.ml).sum();
        return format!("{} labels: {ml:.1}", labels.len());
    }
    let texts = labels.iter().map(|label| format!("{}: {:.1}", label.label, label.ml));
    texts.collect::<Vec<_>>().join("  ")
}

/// Problems with their cases, one a line; of many alike, the first. JSON has them all.
fn listing(title: &str, problems: Vec<(&str, &Problem)>, dir: &Path) -> String {
    if problems.is_empty() {
        return String::new();
    }
    let width = |of: fn(&(&str, &Problem)) -> usize| problems.iter().map(of).max().unwrap_or(0);
    let (case_width, kind_width) =
        (width(|(case, _)| case.chars().count()), width(|(_, p)| p.kind.name().len()));
    let mut text = format!("{title}: {}\n", problems.len());
    let mut alike: BTreeMap<(Kind, &str), usize> = BTreeMap::new();
    for (case, problem) in problems {
        let seen = alike.entry((problem.kind, &problem.detail)).or_default();
        *seen += 1;
        if *seen > ALIKE_SHOWN {
            continue;
        }
        let file = problem.file.as_deref().map(|file| file.strip_prefix(dir).unwrap_or(file));
        let file = file.map_or_else(String::new, |file| format!("{}: ", file.display()));
        let (case, kind) = (shown(case), problem.kind.name());
        let detail = shown(&format!("{file}{}", problem.detail));
        let _ = writeln!(text, "  {case:<case_width$}  {kind:<kind_width$}  {detail}");
    }
    for ((kind, detail), seen) in alike.into_iter().filter(|(_, seen)| *seen > ALIKE_SHOWN) {
        let (more, kind) = (seen - ALIKE_SHOWN, kind.name());
        let case = format!("… {more} more");
        let _ = writeln!(text, "  {case:<case_width$}  {kind:<kind_width$}  {}", shown(detail));
    }
    text + "\n"
}

fn summary_text(summary: &Summary) -> String {
    let mut lines: Vec<(&str, String)> = Vec::new();
    let Summary { patients, exams, set_aside, segmented, .. } = summary;
    let (exam, patient) = (plural(*exams, "exam"), plural(*patients, "patient"));
    lines.push(("usable", format!("{exam} of {patient}, {segmented} with labels")));
    lines.push(("set aside", counted(*set_aside, &summary.set_aside_by_kind)));
    if *exams > 0 {
        lines.push(("contrasts", counts(summary.contrasts.iter().map(|(c, n)| (c.name(), *n)))));
        lines.push(("axes", counts(summary.orientations.iter().map(|(o, n)| (o.as_str(), *n)))));
        lines.extend(grid_lines(summary));
    }
    if let Some(brain) = summary.brain_ml {
        let text = format!("{:.0} mL ({:.0} to {:.0})", brain.median, brain.min, brain.max);
        lines.push(("brain", text));
    }
    let labels = summary.labels.iter().take(LABELS_SHOWN).map(|(label, all)| {
        let meaning = all.meaning.unwrap_or("?");
        format!("{label} {meaning}: {:.1} mL in {}", all.ml, plural(all.cases, "exam"))
    });
    let labels: Vec<String> = labels.collect();
    if !labels.is_empty() {
        let more = if summary.labels.len() > LABELS_SHOWN { ", …" } else { "" };
        lines.push(("labels", labels.join(", ") + more));
    }
    if *exams > 0 {
        lines.push(("trains", counts(summary.tasks.iter().map(|(t, n)| (t.name(), *n)))));
    }
    let notes = summary.notes.iter();
    lines.extend(notes.map(|(note, n)| ("note", format!("{note}: {}", plural(*n, "exam")))));
    if summary.files_passed_over > 0 {
        let files = plural(summary.files_passed_over, "NIfTI file");
        let text = format!("{files}, whose names make no case");
        lines.push(("passed over", text));
    }
    let ProblemCounts { error, warning, note } = summary.problems;
    let parts = [plural(error, "error"), plural(warning, "warning"), plural(note, "note")];
    let text = parts.join(", ");
    lines.push(("problems", text));
    let lines = lines.iter().map(|(key, value)| format!("{key:<11}  {}", shown(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// The grids, the most frequent first.
fn grid_lines(summary: &Summary) -> Vec<(&'static str, String)> {
    let mut grids: Vec<(&String, &usize)> = summary.grids.iter().collect();
    grids.sort_by_key(|(_, cases)| Reverse(**cases));
    let rest = grids.len().saturating_sub(GRIDS_SHOWN);
    let shown = grids.iter().take(GRIDS_SHOWN);
    let lines = shown.map(|(grid, cases)| ("grid", format!("{grid}: {}", plural(**cases, "exam"))));
    lines.chain((rest > 0).then(|| ("grid", format!("… {rest} more")))).collect()
}

/// As in `1 exam`, `2 exams`.
fn plural(count: usize, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

/// As in `48: 4 grid, 4 truncated`.
fn counted(all: usize, parts: &BTreeMap<&str, usize>) -> String {
    let parts = counts(parts.iter().map(|(kind, n)| (*kind, *n)));
    if parts.is_empty() { all.to_string() } else { format!("{all}: {parts}") }
}

/// As in `7 t1n, 5 t2f`.
fn counts<'a>(parts: impl Iterator<Item = (&'a str, usize)>) -> String {
    let parts = parts.map(|(name, count)| format!("{count} {name}"));
    parts.collect::<Vec<_>>().join(", ")
}

/// A text without what could move a terminal's cursor.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
