//! `inpaint` as a program: maps of labels, several samples, and what neither model nor map allows.

use std::path::{Path, PathBuf};

use fedpaint_proto::names::Digest;
use fedpaint_site_agent::data::nifti;
use fedpaint_site_agent::data::volume::Volume;
use serde_json::{Value, json};

use crate::site::{model, program, scans};

/// A folder with a model, beside a scan of the cohort.
struct Desk {
    folder: tempfile::TempDir,
    image: PathBuf,
}

impl Desk {
    fn new() -> Desk {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("m"), model()).unwrap();
        let mut cases: Vec<PathBuf> =
            std::fs::read_dir(scans()).unwrap().map(|case| case.unwrap().path()).collect();
        cases.retain(|case| case.is_dir());
        cases.sort();
        let name = cases[0].file_name().unwrap().to_str().unwrap().to_owned();
        Desk { folder, image: cases[0].join(format!("{name}-t1n.nii.gz")) }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Writes a map whose label at voxel (x, y, z), relative to the middle, is `label`.
    fn map(&self, name: &str, label: impl Fn([i64; 3]) -> f32) -> Volume {
        let scan = nifti::read(&self.image).unwrap();
        let [nx, ny, nz] = scan.volume.dims;
        let at = |i: usize, n: usize| i as i64 - n as i64 / 2;
        let voxel = |i: usize| [at(i % nx, nx), at(i / nx % ny, ny), at(i / (nx * ny), nz)];
        let voxels = (0..nx * ny * nz).map(|i| label(voxel(i))).collect();
        let map = scan.volume.with_voxels(voxels);
        nifti::write_like(self.path(name).as_ref(), &map, &scan.geometry, "labels").unwrap();
        map
    }

    /// Exit code and what was said.
    fn inpaint(&self, more: &[&str]) -> (Option<i32>, String) {
        let (model, image) = (self.path("m"), self.image.to_str().unwrap());
        let args = [&["inpaint", "--model", &model, "--image", image], more].concat();
        let done = program(&args);
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    }
}

fn read(path: &str) -> Volume {
    nifti::read(Path::new(path)).unwrap().volume
}

#[test]
fn what_is_known_of_a_scan_names_its_noise_and_what_is_hidden_does_not() {
    let desk = Desk::new();
    // A new model predicts no noise at all, so that what one step paints is the noise, clipped.
    let (model, seen) = (desk.path("m"), nifti::read(&desk.image).unwrap());
    let made = program(
        &[
            &["init-model", "--preset", "tiny", "--image-size", "16", "--prediction", "epsilon"],
            &["--out", &model][..],
        ]
        .concat(),
    );
    assert_eq!(made.status.code(), Some(0));
    let labels = desk.map("map.nii", |[x, y, z]| {
        f32::from(u8::from((-6..6).contains(&x) && (-6..6).contains(&y) && (-3..3).contains(&z)))
    });
    let painted = |name: &str, change: &dyn Fn(usize, f32) -> f32| -> Vec<f32> {
        let voxels = seen.volume.voxels.iter().enumerate().map(|(i, &v)| change(i, v)).collect();
        let (image, out) =
            (desk.path(&format!("{name}-t1n.nii")), desk.path(&format!("{name}.nii")));
        let volume = seen.volume.with_voxels(voxels);
        nifti::write_like(image.as_ref(), &volume, &seen.geometry, "changed").unwrap();
        let (map, step) = (desk.path("map.nii"), ["--sampler", "ddim", "--steps", "1"]);
        let files =
            ["inpaint", "--model", &model, "--image", &image, "--labels", &map, "--out", &out];
        let done = program(&[&files[..], &step].concat());
        assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
        let inside = read(&out).voxels.into_iter().zip(&labels.voxels);
        inside.filter(|&(_, &label)| label > 0.0).map(|(voxel, _)| voxel).collect()
    };
    let first = painted("a", &|_, voxel| voxel);
    let differ = |other: Vec<f32>| first.iter().zip(other).filter(|&(&a, b)| a != b).count();
    let somewhere = (0..labels.voxels.len())
        .find(|&i| labels.voxels[i] == 0.0 && seen.volume.voxels[i] > 0.0)
        .unwrap();
    let other = painted("b", &|i, voxel| if i == somewhere { voxel + 1.0 } else { voxel });
    assert!(4 * differ(other) > first.len(), "another scan has other noise");
    let voided = painted("c", &|i, voxel| if labels.voxels[i] > 0.0 { 0.0 } else { voxel });
    assert_eq!(differ(voided), 0, "the scan without what is hidden is the same scan");
}

#[test]
fn a_map_of_labels_is_painted_box_and_all_with_the_mean_and_the_spread_of_its_samples() {
    let desk = Desk::new();
    let labels = desk.map("labels.nii.gz", |[x, y, z]| match [x, y, z] {
        [-6..0, -3..3, 0] => 3.0,
        // The corners of a box of 6 by 6.
        [2 | 7, -3, 0] | [2..8, 2, 0] | [2, -3..2, 0] => 6.0,
        _ => 0.0,
    });
    let (map, out, std) = (desk.path("labels.nii.gz"), desk.path("x.nii.gz"), desk.path("s.nii"));
    let samples =
        ["--samples", "3", "--steps", "3", "--guidance", "2", "--guidance-rescale", "0.7"];
    let what = ["--labels", &map, "--box-class", "necrosis", "--out", &out, "--std", &std];
    let (code, error) = desk.inpaint(&[&what[..], &samples[..]].concat());
    assert_eq!(code, Some(0), "{error}");
    let (before, after, spread) = (read(desk.image.to_str().unwrap()), read(&out), read(&std));
    let [nx, ny, nz] = labels.dims;
    let mut painted = 0;
    for i in 0..labels.voxels.len() {
        let (x, y, z) = (i % nx, i / nx % ny, i / (nx * ny));
        let near = |at: usize, n: usize, from: i64, to: i64| {
            (from..to).contains(&(at as i64 - n as i64 / 2))
        };
        let inside =
            near(z, nz, 0, 1) && near(y, ny, -3, 3) && (near(x, nx, -6, 0) || near(x, nx, 2, 8));
        if inside {
            painted += usize::from(spread.voxels[i] > 0.0 && before.voxels[i] != after.voxels[i]);
        } else {
            assert_eq!((after.voxels[i], spread.voxels[i]), (before.voxels[i], 0.0));
        }
    }
    assert!(painted > 40, "{painted} of 72");
    let sidecar: Value =
        serde_json::from_slice(&std::fs::read(desk.path("x.json")).unwrap()).unwrap();
    let digest = Digest::of(&std::fs::read(&map).unwrap()).to_string();
    assert_eq!((&sidecar["mask"], &sidecar["box_class"]), (&json!(digest), &json!("necrosis")));
    assert_eq!(sidecar["tissues"], json!(["necrosis", "oedema"]));
    let sampling = &sidecar["sampling"];
    assert_eq!((&sampling["samples"], &sampling["guidance"]), (&json!(3), &json!(2.0)));
}

#[test]
fn what_neither_map_nor_model_allows_is_refused_and_nothing_is_written() {
    let desk = Desk::new();
    desk.map("odd.nii", |at| if at == [0, 0, 0] { 7.0 } else { 0.0 });
    desk.map("box.nii", |at| if at == [0, 0, 0] { 6.0 } else { 0.0 });
    desk.map("mask.nii", |at| f32::from(u8::from(at == [0, 0, 0])));
    let (odd, boxed, mask) = (desk.path("odd.nii"), desk.path("box.nii"), desk.path("mask.nii"));
    let (out, std) = (desk.path("y.nii"), desk.path("std.nii"));
    for (args, code, named) in [
        (&["--labels", &odd][..], 1, "the labels 7 mean nothing"),
        (&["--labels", &boxed], 1, "label 6 is a box"),
        (&["--labels", &mask, "--box-class", "mixed"], 1, "no voxel has label 6"),
        (&["--labels", &boxed, "--box-class", "healthy"], 1, "a box cannot hold"),
        (&["--labels", &boxed, "--mask", &mask], 2, "cannot be used with"),
        (&["--mask", &mask, "--box-class", "mixed"], 2, "cannot be used with"),
        (&[], 2, "--mask"),
        (&["--mask", &mask, "--std", &std], 1, "--samples 2"),
        (&["--mask", &mask, "--std", &mask, "--samples", "2"], 1, "are one file"),
        (&["--mask", &mask, "--sampler", "repaint"], 1, "repaint needs"),
        (&["--mask", &mask, "--steps", "1001"], 1, "steps is 1001"),
        (&["--mask", &mask, "--eta", "0.5"], 1, "eta is 0.5"),
    ] {
        let (found, error) = desk.inpaint(&[args, &["--out", &out]].concat());
        assert_eq!(found, Some(code), "{args:?}: {error}");
        assert!(error.contains(named), "{args:?}: {error}");
    }
    assert!(
        ["y.nii", "y.json", "std.nii"].iter().all(|name| !Path::new(&desk.path(name)).exists())
    );
}
