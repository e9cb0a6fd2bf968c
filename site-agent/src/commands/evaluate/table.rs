//! An evaluation for people: a line per scan and method, per patient where a patient has several
//! scans, and per method overall.

use comfy_table::{Table, presets};

use super::Evaluation;
use crate::data::layout::Contrast;
use crate::evaluate::report::{MethodScores, NotJudged, OverallScores};
use crate::metrics::spread::{INTERVAL_PATIENTS_MIN, Spread};

pub(super) fn of(evaluation: &Evaluation<'_>) -> String {
    let mut scores = bordered();
    scores.set_header(["case", "contrast", "method", "SSIM", "SSIM 3-D", "PSNR dB", "MSE"]);
    for scan in evaluation.scans {
        for row in &scan.methods {
            scores.add_row(line(&scan.case, scan.contrast.name(), row));
        }
    }
    for patient in evaluation.patients.iter().filter(|patient| patient.scans > 1) {
        let name = format!("patient {}", patient.patient);
        for row in &patient.methods {
            scores.add_row(line(&name, "all", row));
        }
    }
    let mut overall = bordered();
    overall.set_header(["method", "SSIM", "SSIM 3-D", "PSNR dB", "MSE"]);
    let patients = evaluation.patients.len();
    for OverallScores { method, scores } in evaluation.overall {
        overall.add_row([
            (*method).to_owned(),
            told(&scores.ssim, 4, patients),
            told(&scores.ssim_3d, 4, patients),
            told(&scores.psnr_01, 2, patients),
            told(&scores.mse, 5, patients),
        ]);
    }
    let site = evaluation.site.map_or(String::new(), |site| format!(" of {site}"));
    let aside = set_aside(evaluation.set_aside);
    let text = format!("{scores}\n{}\n{overall}{aside}", heading(patients, &site));
    if evaluation.twin.is_some() { text } else { format!("{text}\n{NO_TWIN}") }
}

/// What is said of a comparison that nobody asked for.
const NO_TWIN: &str = "No regression twin was given, so this does not say what diffusion is worth: make one with \
     `init-model --prediction direct`, train it by the same plan, and give it as --twin.";

/// What was not judged, a line each; nothing where there is nothing.
fn set_aside(all: &[NotJudged]) -> String {
    let line = |NotJudged { case, contrast, reason }: &NotJudged| {
        let contrast = contrast.map_or("all", Contrast::name);
        format!("\n  {case} {contrast}  {reason}")
    };
    let lines: String = all.iter().map(line).collect();
    if all.is_empty() { lines } else { format!("\nSet aside: {}{lines}", all.len()) }
}

/// What the overall figures are.
fn heading(patients: usize, site: &str) -> String {
    match patients {
        1 => format!("Over 1 patient{site}: the scores, which have no spread"),
        _ if patients < INTERVAL_PATIENTS_MIN => format!(
            "Over {patients} patients{site}: mean, standard deviation; an interval takes \
             {INTERVAL_PATIENTS_MIN} patients"
        ),
        _ => format!(
            "Over {patients} patients{site}: mean, standard deviation, 95 % interval of the mean \
             (bootstrap over patients)"
        ),
    }
}

fn bordered() -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table
}

fn line(name: &str, contrast: &str, row: &MethodScores) -> [String; 7] {
    let MethodScores { method, scores } = row;
    [
        name.to_owned(),
        contrast.to_owned(),
        (*method).to_owned(),
        format!("{:.4}", scores.ssim),
        format!("{:.4}", scores.ssim_3d),
        format!("{:.2}", scores.psnr_01),
        format!("{:.5}", scores.mse),
    ]
}

fn told(spread: &Spread, digits: usize, patients: usize) -> String {
    let Spread { mean, sd, interval_95 } = spread;
    if patients < 2 {
        return format!("{mean:.digits$}");
    }
    let text = format!("{mean:.digits$} ± {sd:.digits$}");
    match interval_95 {
        Some([low, high]) => format!("{text} [{low:.digits$}, {high:.digits$}]"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::{Evaluation, heading, of, told};
    use crate::metrics::spread::{Resamples, spread};
    use fedpaint_proto::names::Digest;

    #[test]
    fn a_report_without_a_twin_says_so_and_how_to_get_one() {
        let report = |twin| {
            let (site, model, mean, set_aside) = (None, None, None, &[]);
            of(&Evaluation {
                site,
                model,
                twin,
                scans: &[],
                patients: &[],
                overall: &[],
                mean,
                set_aside,
            })
        };
        for word in ["No regression twin", "init-model --prediction direct", "--twin"] {
            assert!(report(None).contains(word), "{word}");
            assert!(!report(Some(Digest::of(b"a twin"))).contains(word), "{word}");
        }
    }

    #[test]
    fn the_heading_promises_what_the_figures_below_it_have() {
        for patients in 1..=4_usize {
            let values: Vec<f64> = (0..patients).map(|i| i as f64).collect();
            let figure = told(&spread(&values, &Resamples::of(patients)), 2, patients);
            let heading = heading(patients, " of mayo");
            assert_eq!(figure.contains('['), heading.contains("95 % interval"), "{heading}");
            assert_eq!(figure.contains('±'), heading.contains("standard deviation"), "{heading}");
            assert!(heading.starts_with(&format!("Over {patients} patient")), "{heading}");
        }
    }
}
