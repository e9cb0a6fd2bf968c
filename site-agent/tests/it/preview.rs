//! What is made to be looked at: a synthetic federation, and a contact sheet of a site's cases.

use std::path::Path;

use fedpaint_site_agent::phantom::MANIFEST;

use crate::site::program;

fn phantom(out: &Path) {
    let out = out.to_str().unwrap();
    let made = ["--out", out, "--sites", "fets", "--scale", "0.001", "--size", "8", "--seed", "5"];
    let output = program(&[&["phantom"], &made[..]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("site-01  scanner A  2 patients\n"), "{text}");
    assert!(text.ends_with("23 sites, 46 patients\n"), "{text}");
}

#[test]
fn a_sheet_shows_some_cases_of_a_federation_and_why_others_are_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let (data, png) = (folder.path().join("federation"), folder.path().join("sheet.png"));
    phantom(&data);
    let site = data.join("site-02");
    let bad = site.join("Phantom-B-00002-000/Phantom-B-00002-000-t2w.nii.gz");
    let whole = std::fs::read(&bad).unwrap();
    std::fs::write(&bad, &whole[..whole.len() / 2]).unwrap();
    let out = png.to_str().unwrap();
    let preview = |dir: &Path, more: &[&str]| {
        let args = ["data", "preview", dir.to_str().unwrap(), "--out", out];
        program(&[&args[..], more].concat())
    };
    let output = preview(&site, &["--label-scheme", "brats2023"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("2 of 2 cases, 1 of them set aside"), "{text}");
    assert!(std::fs::read(&png).unwrap().starts_with(b"\x89PNG"));
    // Without its bad contrast the case is drawn, and so are a few of many.
    let output = preview(&site, &["--label-scheme", "brats2023", "--contrasts", "t1n"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("2 of 2 cases, 0 of them set aside"));
    let output = preview(&data, &["--label-scheme", "brats2023", "--cases", "3"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("3 of 46 cases"));
    // The cohort says what its labels mean. When nobody does, every case says so, and there is a
    // picture all the same.
    let output = preview(&site, &[]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("2 of 2 cases, 1 of them set aside"));
    std::fs::remove_file(site.join(MANIFEST)).unwrap();
    let output = preview(&site, &[]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("2 of 2 cases, 2 of them set aside"));
    let nothing = preview(&folder.path().join("none"), &[]);
    assert_eq!(nothing.status.code(), Some(1));
}

#[test]
fn a_federation_takes_neither_patients_nor_scanner_and_a_cohort_needs_both() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x");
    for more in [
        &["--patients", "2"][..],
        &["--scanner", "A"],
        &["--sites", "fets", "--patients", "2"],
        &["--sites", "fets", "--scanner", "A"],
        &["--sites", "moon"],
        &["--patients", "2", "--scanner", "A", "--scale", "1"],
    ] {
        let output = program(&[&["phantom", "--out", out.to_str().unwrap()], more].concat());
        assert_eq!(output.status.code(), Some(2), "{more:?}");
    }
    assert!(!out.exists());
}
