//! Model files, good and bad.

use super::*;
use crate::names::{Blob, Digest};

fn tensor(name: &str, shape: &[usize]) -> TensorSpec {
    TensorSpec { name: name.into(), dtype: Dtype::F32, shape: shape.into() }
}

fn folder(name: &str) -> PathBuf {
    let folder =
        std::env::temp_dir().join(format!("fedpaint-weights-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn write(path: &Path, values: &[f32]) -> Blob {
    let description = BTreeMap::from([("fedpaint.model".to_owned(), "{}".to_owned())]);
    let specs = vec![tensor("a", &[2, 2]), tensor("b", &[values.len() - 4])];
    let mut writer = ModelWriter::create(path, specs, &description).unwrap();
    writer.write(&values[..4]).unwrap();
    writer.write(&values[4..]).unwrap();
    writer.finish().unwrap()
}

#[test]
fn a_model_reads_back_and_its_blob_is_what_was_written() {
    let path = folder("roundtrip").join("m.safetensors");
    let blob = write(&path, &[1.0, -2.0, 3.5, 0.0, 9.0]);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(blob, Blob { digest: Digest::of(&bytes), size: bytes.len() as u64 });

    let model = ModelFile::open(&path).unwrap();
    assert_eq!(model.read(0).unwrap(), [1.0, -2.0, 3.5, 0.0]);
    assert_eq!(model.read(1).unwrap(), [9.0]);
    assert_eq!(model.first_not_finite().unwrap(), None);
    // The reference implementation reads the same.
    let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(reference.tensor("b").unwrap().data(), 9.0_f32.to_le_bytes());
}

#[test]
fn a_value_that_is_not_finite_is_found_by_its_tensor() {
    let path = folder("finite").join("m.safetensors");
    let found = |values: &[f32]| {
        write(&path, values);
        ModelFile::open(&path).unwrap().first_not_finite().unwrap()
    };
    assert_eq!(found(&[1.0, 2.0, 3.0, 4.0, 0.0, f32::NAN]).as_deref(), Some("b"));
    assert_eq!(found(&[1.0, f32::INFINITY, 3.0, 4.0, 0.0]).as_deref(), Some("a"));
    // Also where it is the last of several parts.
    let mut long = vec![0.5; 50_000];
    assert_eq!(found(&long), None);
    long[49_999] = f32::NEG_INFINITY;
    assert_eq!(found(&long).as_deref(), Some("b"));
}

#[test]
fn a_model_that_is_written_and_read_in_parts_is_the_same_as_whole() {
    let folder = folder("parts");
    // More than one buffer holds, and no multiple of it.
    let values: Vec<f32> = (0..40_000).map(|i| i as f32 * 0.1 - 7.0).collect();
    let whole = write(&folder.join("whole"), &values);
    let path = folder.join("parts");
    let description = BTreeMap::from([("fedpaint.model".to_owned(), "{}".to_owned())]);
    let specs = vec![tensor("a", &[2, 2]), tensor("b", &[values.len() - 4])];
    let mut writer = ModelWriter::create(&path, specs, &description).unwrap();
    for part in [&values[..1], &values[1..4], &values[4..30_000]] {
        writer.write_part(part).unwrap();
    }
    let wrong = [writer.write(&[0.0; 4]), writer.write_part(&vec![0.0; 10_001])];
    for refused in wrong {
        let left = 10_000;
        assert!(matches!(refused, Err(Error::Length { expected, .. }) if expected == left));
    }
    writer.write_part(&values[30_000..]).unwrap();
    assert_eq!(writer.finish().unwrap(), whole);

    let model = ModelFile::open(&path).unwrap();
    let mut part = vec![0.0; 20_000];
    model.read_part(1, 19_000, &mut part).unwrap();
    assert_eq!(part, values[19_004..39_004]);
    assert!(matches!(model.read_part(1, 20_000, &mut part), Err(Error::Length { .. })));
    assert!(matches!(model.read_part(0, usize::MAX, &mut part), Err(Error::Length { .. })));
    // Another order of tensors, and no file that stays open.
    let ranges = Ranges::new(model, &[1, 0]).unwrap();
    for ranges in [ranges.closed(), Ranges::new(ModelFile::open(&path).unwrap(), &[1, 0]).unwrap()]
    {
        ranges.read_part(0, 19_000, &mut part).unwrap();
        assert_eq!(part, values[19_004..39_004]);
        ranges.read_part(1, 2, &mut part[..2]).unwrap();
        assert_eq!(part[..2], values[2..4]);
    }
}

#[test]
fn every_difference_to_the_base_model_is_named() {
    let folder = folder("mismatch");
    let make = |name: &str, specs: Vec<TensorSpec>, note: &str| {
        let path = folder.join(name);
        let description = BTreeMap::from([("fedpaint.model".to_owned(), note.to_owned())]);
        let mut writer = ModelWriter::create(&path, specs, &description).unwrap();
        while let Some(due) = writer.due() {
            let zeros = vec![0.0; due.len()];
            writer.write(&zeros).unwrap();
        }
        writer.finish().unwrap();
        ModelFile::open(&path).unwrap()
    };
    let base = make("base", vec![tensor("a", &[2]), tensor("b", &[3])], "x");
    let same = make("same", vec![tensor("b", &[3]), tensor("a", &[2])], "x");
    assert_eq!(same.matches(&base), Ok(()), "the order in the file does not matter");
    let missing = make("missing", vec![tensor("a", &[2])], "x");
    assert_eq!(missing.matches(&base), Err(Mismatch::Missing("b".into())));
    assert_eq!(base.matches(&missing), Err(Mismatch::Unknown("b".into())));
    let shape = make("shape", vec![tensor("a", &[2]), tensor("b", &[3, 1])], "x");
    assert!(matches!(shape.matches(&base), Err(Mismatch::Shape { name, .. }) if name == "b"));
    let note = make("note", vec![tensor("a", &[2]), tensor("b", &[3])], "y");
    assert_eq!(note.matches(&base), Err(Mismatch::Description));
}

#[test]
fn a_file_that_is_not_a_model_is_refused() {
    let folder = folder("bad");
    let path = folder.join("m.safetensors");
    write(&path, &[1.0; 6]);
    let good = std::fs::read(&path).unwrap();
    let huge_header = [&u64::MAX.to_le_bytes()[..], &good[8..]].concat();
    let cases: [(&str, &[u8]); 5] = [
        ("empty", b""),
        ("text", b"this is not a model at all"),
        ("cut", &good[..good.len() - 1]),
        ("cut in the header", &good[..20]),
        ("header bomb", &huge_header),
    ];
    for (name, bytes) in cases {
        std::fs::write(&path, bytes).unwrap();
        assert!(ModelFile::open(&path).is_err(), "{name}");
    }
}

#[test]
fn a_model_that_is_not_finished_leaves_no_file() {
    let folder = folder("unfinished");
    let path = folder.join("m.safetensors");
    let specs = vec![tensor("a", &[2])];
    let mut writer = ModelWriter::create(&path, specs.clone(), &BTreeMap::new()).unwrap();
    assert!(matches!(writer.write(&[1.0]), Err(Error::Length { .. })));
    drop(writer);
    assert!(ModelWriter::create(&path, specs, &BTreeMap::new()).unwrap().finish().is_err());
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}

/// A file with this header and `data_bytes` of weights.
fn write_raw(path: &Path, header: &str, data_bytes: usize) {
    let length = (header.len() as u64).to_le_bytes();
    let bytes = [&length, header.as_bytes(), &vec![0; data_bytes]].concat();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn what_a_file_says_of_itself_is_told_bounded_and_steers_no_terminal() {
    let folder = folder("hostile");
    let path = folder.join("m");
    let tensor = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    write_raw(&path, &format!(r#"{{"a\u001b[31m":{tensor}}}"#), 4);
    let error = ModelFile::open(&path).unwrap_err().to_string();
    assert_eq!(error, "not a safetensors file: a tensor's name holds a control character");

    write_raw(&path, &format!(r#"{{"a":{{"\u001b{}":1}}}}"#, "x".repeat(9_000)), 4);
    let error = ModelFile::open(&path).unwrap_err().to_string();
    assert!(error.len() < 300 && !error.contains('\u{1b}'), "{error:?}");

    let shape = ["1"; 100_000].join(",");
    let tensor = format!(r#"{{"dtype":"F32","shape":[{shape}],"data_offsets":[0,4]}}"#);
    write_raw(&path, &format!(r#"{{"a":{tensor}}}"#), 4);
    let base = folder.join("base");
    write_raw(&base, r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4);
    let (many, base) = (ModelFile::open(&path).unwrap(), ModelFile::open(&base).unwrap());
    assert_eq!(
        many.matches(&base).unwrap_err().to_string(),
        "tensor a has shape [1, 1, 1, 1, 1, 1, 1, 1] and so on, 100000 axes, the base model has [1]"
    );
}
