//! Updates in every form: what is made of a training is what is read of it, and what is left out is added
//! to the next.

use std::path::PathBuf;

use super::*;
use crate::names::Blob;
use crate::plan::Part;
use crate::weights::{Encoded, ModelWriter, Sources, encode};

const FORMS: [(Encoding, Part); 7] = [
    (Encoding::F32, Part::Decoder),
    (Encoding::Bf16, Part::All),
    (Encoding::Int8, Part::All),
    (Encoding::Int4, Part::All),
    (Encoding::Bf16, Part::Decoder),
    (Encoding::Int8, Part::Decoder),
    (Encoding::Int4, Part::Decoder),
];

/// Lengths that are whole blocks, one more, one less, and none of a block.
const TENSORS: [(&str, &[usize]); 5] = [
    ("input_blocks.0.0.weight", &[4, 16, 4]),
    ("middle_block.0.bias", &[7]),
    ("output_blocks.0.0.weight", &[257]),
    ("output_blocks.1.0.weight", &[3, 3, 59]),
    ("out.2.bias", &[1]),
];

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a model whose values follow from `seed`, each within `size` of those of `seed` 0.
    fn model(&self, name: &str, seed: u32, size: f32) -> PathBuf {
        let spec = |(name, shape): &(&str, &[usize])| TensorSpec {
            name: (*name).to_owned(),
            dtype: Dtype::F32,
            shape: shape.to_vec(),
        };
        let specs: Vec<TensorSpec> = TENSORS.iter().map(spec).collect();
        let description = BTreeMap::from([("fedpaint.model".to_owned(), "{}".to_owned())]);
        let path = self.path(name);
        let mut writer = ModelWriter::create(&path, specs.clone(), &description).unwrap();
        let (mut begin, mut move_by) = (noise(0), noise(seed));
        for spec in specs {
            let value = |_| begin() + size * move_by();
            writer.write(&(0..spec.len()).map(value).collect::<Vec<_>>()).unwrap();
        }
        writer.finish().unwrap();
        path
    }

    fn encode(&self, form: ExchangePlan, base: &Path, trained: &Path, name: &str) -> Encoded {
        let remainder = self.path(&format!("{name}.before"));
        let remainder = remainder.exists().then_some(remainder.as_path());
        let sources = Sources { base, trained, remainder };
        encode(form, sources, &self.path(name), &self.path(&format!("{name}.left"))).unwrap()
    }
}

/// Numbers in [-1, 1], the same for the same seed.
fn noise(seed: u32) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9);
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state as i32) as f32 / i32::MAX as f32
    }
}

fn form((encoding, part): (Encoding, Part)) -> ExchangePlan {
    ExchangePlan { encoding, part }
}

/// All values of an update, in pieces of `piece`.
fn values(update: &Path, base: &Path, piece: usize) -> Vec<f32> {
    let base = ModelFile::open(base).unwrap();
    let update = Update::open(update).unwrap().values(base.tensors()).unwrap().closed();
    let mut all = Vec::new();
    for (at, tensor) in base.tensors().iter().enumerate() {
        let before = base.read(at).unwrap();
        let mut values = vec![f32::NAN; tensor.len()];
        for (i, values) in values.chunks_mut(piece).enumerate() {
            let first = i * piece;
            let before = &before[first..first + values.len()];
            update.read_beside(at, first, before, values).unwrap();
        }
        all.extend(values);
    }
    all
}

fn whole(model: &Path) -> Vec<f32> {
    let model = ModelFile::open(model).unwrap();
    (0..model.tensors().len()).flat_map(|at| model.read(at).unwrap()).collect()
}

#[test]
fn an_update_reads_as_what_was_trained_within_a_step_and_in_any_pieces() {
    let folder = Folder::new();
    let (base, trained) = (folder.model("base", 0, 0.0), folder.model("trained", 1, 0.01));
    let (before, after) = (whole(&base), whole(&trained));
    assert_eq!(values(&trained, &base, 100), after, "a whole model is an update too");
    for form in FORMS.map(form) {
        folder.encode(form, &base, &trained, "update");
        let found = values(&folder.path("update"), &base, usize::MAX);
        for piece in [1, 50, 64, 300] {
            assert_eq!(values(&folder.path("update"), &base, piece), found, "{form} by {piece}");
        }
        // Half a step of the greatest change, and the last digit of the sum.
        let half_step = match form.encoding {
            Encoding::F32 => 0.0,
            Encoding::Bf16 => 0.01 / 256.0,
            Encoding::Int8 => 0.0101 / 254.0,
            Encoding::Int4 => 0.0101 / 14.0,
        };
        let travels = TENSORS.iter().flat_map(|(name, shape)| {
            std::iter::repeat_n(form.part.has(name), shape.iter().product())
        });
        for (((found, before), after), travels) in
            found.iter().zip(&before).zip(&after).zip(travels)
        {
            let expected = if travels { after } else { before };
            let error = (found - expected).abs();
            assert!(error <= half_step + 1e-7 && (travels || error == 0.0), "{form}: {error}");
        }
        let update = Update::open(&folder.path("update")).unwrap();
        let base = ModelFile::open(&base).unwrap();
        assert_eq!(update.matches(&base, form), Ok(()));
        let (tensors, bytes) = base.update(form).unwrap();
        assert_eq!(tensors, update.tensors());
        assert_eq!(bytes, std::fs::metadata(folder.path("update")).unwrap().len(), "{form}");
    }
}

#[test]
fn the_same_training_gives_the_same_bytes_and_another_remainder_gives_others() {
    let folder = Folder::new();
    let (base, trained) = (folder.model("base", 0, 0.0), folder.model("trained", 1, 0.01));
    let int4 = form((Encoding::Int4, Part::All));
    let first = folder.encode(int4, &base, &trained, "one");
    assert_eq!(folder.encode(int4, &base, &trained, "other"), first);
    let bytes = std::fs::read(folder.path("one")).unwrap();
    assert_eq!(
        first.update,
        Blob { digest: crate::names::Digest::of(&bytes), size: bytes.len() as u64 }
    );
    std::fs::copy(folder.path("one.left"), folder.path("other.before")).unwrap();
    assert_ne!(folder.encode(int4, &base, &trained, "other").update, first.update);
}

#[test]
fn what_an_update_leaves_out_is_in_the_next_ones_so_that_in_the_long_run_nothing_is_lost() {
    let folder = Folder::new();
    let base = folder.model("base", 0, 0.0);
    let trained = folder.model("trained", 1, 0.01);
    let (before, after) = (whole(&base), whole(&trained));
    let form = form((Encoding::Int4, Part::All));
    let mut sent = vec![0.0_f64; before.len()];
    let rounds = 40;
    for _ in 0..rounds {
        folder.encode(form, &base, &trained, "update");
        for (sent, (found, before)) in
            sent.iter_mut().zip(values(&folder.path("update"), &base, 4096).iter().zip(&before))
        {
            *sent += f64::from(*found) - f64::from(*before);
        }
        std::fs::rename(folder.path("update.left"), folder.path("update.before")).unwrap();
    }
    // A change of a tenth of a step is never sent without feedback; with it, the sum is off by a step or
    // two whatever the number of rounds.
    let step = 0.0101 / 7.0;
    for (sent, (after, before)) in sent.iter().zip(after.iter().zip(&before)) {
        let wanted = f64::from(rounds) * (f64::from(*after) - f64::from(*before));
        assert!((sent - wanted).abs() <= 2.0 * step, "{sent} {wanted}");
    }
}

#[test]
fn an_update_of_another_form_or_other_tensors_is_told_by_what_differs() {
    let folder = Folder::new();
    let (base, trained) = (folder.model("base", 0, 0.0), folder.model("trained", 1, 0.01));
    let open = |path: &Path| ModelFile::open(path).unwrap();
    let [int8, int4] = [Encoding::Int8, Encoding::Int4].map(|encoding| form((encoding, Part::All)));
    folder.encode(int8, &base, &trained, "update");
    let update = Update::open(&folder.path("update")).unwrap();
    for other in [int4, ExchangePlan::default(), form((Encoding::Int8, Part::Decoder))] {
        let expected = Err(Mismatch::Form { found: int8, expected: other });
        assert_eq!(update.matches(&open(&base), other), expected);
    }
    let told = Mismatch::Form { found: int8, expected: ExchangePlan::default() }.to_string();
    assert_eq!(told, "the update is int8, the plan asks for f32");
    let plain = Update::open(&trained).unwrap();
    let expected = Err(Mismatch::Form { found: ExchangePlan::default(), expected: int8 });
    assert_eq!(plain.matches(&open(&base), int8), expected);

    // Another model, of which a tensor is shorter.
    let smaller = folder.path("smaller");
    let spec = TensorSpec { name: "out.2.bias".into(), dtype: Dtype::F32, shape: vec![2] };
    let mut writer = ModelWriter::create(&smaller, vec![spec], &BTreeMap::new()).unwrap();
    writer.write(&[0.0; 2]).unwrap();
    writer.finish().unwrap();
    let differs = update.matches(&open(&smaller), int8);
    assert!(matches!(differs, Err(Mismatch::Shape { name, .. }) if name == "out.2.bias"));
    let read = Update::open(&folder.path("update")).unwrap().values(open(&smaller).tensors());
    assert!(matches!(read, Err(Error::Length { .. })), "{read:?}");

    // A model that has nothing of the part.
    let names = folder.path("names");
    let spec = TensorSpec { name: "a".into(), dtype: Dtype::F32, shape: vec![2] };
    let mut writer = ModelWriter::create(&names, vec![spec], &BTreeMap::new()).unwrap();
    writer.write(&[0.0; 2]).unwrap();
    writer.finish().unwrap();
    let decoder = form((Encoding::Int8, Part::Decoder));
    folder.encode(decoder, &names, &names, "empty");
    let empty = Update::open(&folder.path("empty")).unwrap();
    assert_eq!(empty.matches(&open(&names), decoder), Err(Mismatch::NoPart));
}

#[test]
fn numbers_that_overflow_and_files_of_other_tensors_make_no_update() {
    let folder = Folder::new();
    let (base, far) = (folder.model("base", 0, 0.0), folder.model("far", 1, f32::INFINITY));
    let int8 = form((Encoding::Int8, Part::All));
    let make = |trained: &Path, remainder: Option<&Path>| {
        let sources = Sources { base: &base, trained, remainder };
        encode(int8, sources, &folder.path("update"), &folder.path("left")).unwrap_err()
    };
    let error = make(&far, None);
    assert!(matches!(&error, Error::Blocks { error: blocks::Error::NotFinite, .. }), "{error}");
    let decoder = form((Encoding::F32, Part::Decoder));
    folder.encode(decoder, &base, &base, "part");
    let error = make(&base, Some(&folder.path("part"))).to_string();
    assert!(error.contains("what the last update left out has no tensor input_blocks"), "{error}");
    let left: Vec<_> =
        std::fs::read_dir(folder.0.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name == "update" || name == "left"), "{left:?}");
}
