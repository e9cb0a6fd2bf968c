//! `phantom`: how long a synthetic patient takes on one core, by stage.
//!
//! One patient of each scanner, `--patients` times, at `--size` (default 1 mm, the grid of BraTS).
//! Nothing here starts a thread, so that seconds are seconds of one core.

use std::time::Instant;

use fedpaint_site_agent::phantom::anatomy::Template;
use fedpaint_site_agent::phantom::head::Head;
use fedpaint_site_agent::phantom::scanner::Scanner;
use fedpaint_site_agent::phantom::seed::PatientSeed;
use fedpaint_site_agent::phantom::{image_grid, patient_images, write_patient};
use serde_json::{Value, json};

/// Measures and reports.
pub(crate) fn run(args: &[String]) -> Value {
    let option = |name: &str, default: f64| {
        let at = args.iter().position(|arg| arg == name);
        at.map_or(default, |at| args[at + 1].parse().expect("a number follows the option"))
    };
    let (patients, size_mm) = (option("--patients", 1.0) as u64, option("--size", 1.0));
    let template = Template::new().expect("the template is part of the program");
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    // Head and tumour; acquisition; writing nine compressed files.
    let mut seconds = [0.0; 3];
    for (scanner, patient) in
        Scanner::ALL.into_iter().flat_map(|scanner| (0..patients).map(move |i| (scanner, i)))
    {
        let seed = PatientSeed { cohort: 1, scanner: scanner.letter(), patient };
        let start = Instant::now();
        let head = Head::new(&template, &image_grid(size_mm), &seed);
        let grown = start.elapsed().as_secs_f64();
        drop(head);
        let start = Instant::now();
        let images = patient_images(&template, &scanner.protocol(), size_mm, &seed);
        let imaged = start.elapsed().as_secs_f64();
        let start = Instant::now();
        write_patient(folder.path(), &format!("P-{}-{patient}", scanner.letter()), &images)
            .expect("a temporary folder can be written");
        let written = start.elapsed().as_secs_f64();
        let parts = [grown, imaged - grown, written];
        seconds.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
    }
    let made = (patients * Scanner::ALL.len() as u64) as f64;
    let [head, acquisition, writing] = seconds.map(|sum| sum / made);
    json!({
        "benchmark": "phantom",
        "patients": made,
        "size_mm": size_mm,
        "dims": image_grid(size_mm).dims,
        "seconds_per_patient": head + acquisition + writing,
        "head_and_tumour_s": head,
        "acquisition_s": acquisition,
        "writing_s": writing,
        "peak_memory_mib": peak_memory_mib(),
    })
}

/// The most memory this process has had, where the system tells (Linux).
fn peak_memory_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}
