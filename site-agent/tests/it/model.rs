//! A model made to order, exchanged with PyTorch, and run bare.

use std::path::PathBuf;

use fedpaint_site_agent::model::checkpoint;
use fedpaint_site_agent::model::spec::{
    EmbMode, Heads, ModelSpec, NoiseRegion, Prediction, Preset, Schedule,
};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tempfile::TempDir;

use crate::site::program;

/// A folder to work in.
struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Runs the program; a word with a dot is a file of this folder. Gives what it printed, or why it
    /// failed and with which code.
    fn run(&self, line: &str) -> Result<String, (i32, String)> {
        let word = |word: &str| match word.contains('.') {
            true => self.path(word).to_str().unwrap().to_owned(),
            false => word.to_owned(),
        };
        let words: Vec<String> = line.split(' ').map(word).collect();
        let output = program(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let error = String::from_utf8(output.stderr).unwrap();
        match output.status.code() {
            Some(0) => Ok(String::from_utf8(output.stdout).unwrap()),
            code => Err((code.unwrap(), error)),
        }
    }

    fn refused(&self, line: &str, code: i32, named: &str) {
        let (found, error) = self.run(line).unwrap_err();
        assert_eq!(found, code, "{line}: {error}");
        assert!(error.contains(named), "{line}: {error}");
    }

    /// Writes three slices of 16 x 16 for a bare network.
    fn inputs(&self, name: &str, t: (Dtype, &[u8])) {
        let wave = |n: usize| -> Vec<u8> {
            (0..n).flat_map(|i| (0.1 * i as f32).sin().to_le_bytes()).collect()
        };
        let (x, y) = (wave(3 * 9 * 256), wave(3 * 6));
        let view = |dtype, shape: &[usize], data| TensorView::new(dtype, shape.to_vec(), data);
        let tensors = [
            ("x", view(Dtype::F32, &[3, 9, 16, 16], &x).unwrap()),
            ("t", view(t.0, &[3], t.1).unwrap()),
            ("y", view(Dtype::F32, &[3, 6], &y).unwrap()),
        ];
        std::fs::write(self.path(name), safetensors::serialize(tensors, None).unwrap()).unwrap();
    }
}

#[test]
fn a_model_is_made_as_its_options_say() {
    let folder = Folder::new();
    let options = "--image-size 16 --emb-mode add --learn-sigma --no-null-condition --schedule linear \
                   --zero-terminal-snr --prediction sample --noise-region full --trained-timesteps 10";
    folder.run(&format!("init-model --preset tiny {options} --out m.safetensors")).unwrap();
    let expected = ModelSpec {
        image_size: 16,
        emb_mode: EmbMode::Add,
        learn_sigma: true,
        null_condition: false,
        schedule: Schedule::Linear,
        zero_terminal_snr: true,
        prediction: Prediction::Sample,
        noise_region: NoiseRegion::Full,
        trained_timesteps: 10,
        ..ModelSpec::preset(Preset::Tiny)
    };
    assert_eq!(checkpoint::load(&folder.path("m.safetensors")).unwrap().spec(), &expected);
}

#[test]
fn every_part_of_the_network_can_be_chosen() {
    let folder = Folder::new();
    let options =
        "--channels 24 --channel-mult 1,2 --res-blocks 2 --attention-ds none --heads 3 --groups 6";
    folder.run(&format!("init-model --preset tiny {options} --out m.safetensors")).unwrap();
    let expected = ModelSpec {
        channels: 24,
        channel_mult: vec![1, 2],
        res_blocks: 2,
        attention_ds: vec![],
        heads: Heads::Count(3),
        groups: 6,
        ..ModelSpec::preset(Preset::Tiny)
    };
    let made = checkpoint::load(&folder.path("m.safetensors")).unwrap();
    assert_eq!(made.spec(), &expected);
    // A state dict says nothing of groups and heads: whoever takes it up does.
    folder.run("model export --model m.safetensors --out state.safetensors").unwrap();
    let import = "model import --state state.safetensors --preset tiny";
    folder.run(&format!("{import} {options} --out again.safetensors")).unwrap();
    assert_eq!(folder.read("m.safetensors"), folder.read("again.safetensors"));
    folder.refused(&format!("{import} --out other.safetensors"), 1, "is missing");

    let options = "--attention-ds 2,4 --head-channels 8";
    folder.run(&format!("init-model --preset tiny {options} --out n.safetensors")).unwrap();
    let made = checkpoint::load(&folder.path("n.safetensors")).unwrap();
    assert_eq!((&made.spec().attention_ds, made.spec().heads), (&vec![2, 4], Heads::Dim(8)));
}

#[test]
fn options_that_do_not_go_together_are_refused_and_leave_nothing() {
    let folder = Folder::new();
    for (options, code, named) in [
        ("--zero-terminal-snr --prediction epsilon", 1, "prediction is epsilon"),
        ("--learn-sigma --prediction direct", 1, "learn_sigma"),
        ("--trained-timesteps 1001", 1, "trained_timesteps"),
        ("--groups 5", 1, "groups is 5, it must be a divisor of 16"),
        ("--head-channels 5", 1, "heads is 5"),
        ("--attention-ds 3", 1, "attention_ds is 3"),
        ("--attention-ds x", 2, "attention-ds"),
        ("--heads 4 --head-channels 8", 2, "cannot be used with"),
        ("--emb-mode film", 2, "expected `concat` or `add`"),
        ("--schedule quadratic", 2, "expected `cosine` or `linear`"),
    ] {
        let line = format!("init-model --preset tiny {options} --out m.safetensors");
        folder.refused(&line, code, named);
    }
    assert!(!folder.path("m.safetensors").exists());
}

#[test]
fn a_model_survives_pytorch_and_its_bare_network_is_the_same_on_both_sides() {
    let folder = Folder::new();
    folder.run("init-model --preset tiny --learn-sigma --seed 3 --out m.safetensors").unwrap();
    // Away from the zeros that a new model ends with, so that its output says something.
    let new = checkpoint::load(&folder.path("m.safetensors")).unwrap();
    let moved = new.iter().map(|(_, v)| v.iter().map(|v| v + 0.03).collect()).collect();
    checkpoint::save(&new.with_values(moved).unwrap(), &folder.path("m.safetensors")).unwrap();
    folder.run("model export --model m.safetensors --out state.safetensors").unwrap();
    let import = "model import --state state.safetensors --preset tiny";
    folder.run(&format!("{import} --learn-sigma --out again.safetensors")).unwrap();
    assert_eq!(folder.read("m.safetensors"), folder.read("again.safetensors"));
    folder.refused(
        &format!("{import} --out other.safetensors"),
        1,
        "out.2.weight has shape [2, 16",
    );

    let whole: Vec<u8> = [0_i64, 7, 999].iter().flat_map(|t| t.to_le_bytes()).collect();
    let short: Vec<u8> = [0_i32, 7, 999].iter().flat_map(|t| t.to_le_bytes()).collect();
    let same: Vec<u8> = [0_f32, 7.0, 999.0].iter().flat_map(|t| t.to_le_bytes()).collect();
    let between: Vec<u8> = [0.5_f32, 7.0, 999.0].iter().flat_map(|t| t.to_le_bytes()).collect();
    folder.inputs("whole.in", (Dtype::I64, &whole));
    folder.inputs("short.in", (Dtype::I32, &short));
    folder.inputs("same.in", (Dtype::F32, &same));
    folder.inputs("between.in", (Dtype::F32, &between));
    let forward = |model: &str, inputs: &str, out: &str| {
        folder.run(&format!(
            "model forward --model {model} --inputs {inputs} --out {out} --device cpu"
        ))
    };
    forward("m.safetensors", "whole.in", "a.out").unwrap();
    forward("m.safetensors", "short.in", "f.out").unwrap();
    forward("m.safetensors", "same.in", "b.out").unwrap();
    forward("m.safetensors", "between.in", "c.out").unwrap();
    let error = forward("state.safetensors", "same.in", "d.out").unwrap_err().1;
    assert!(error.contains("--preset"), "{error}");
    forward("state.safetensors --preset tiny --learn-sigma", "same.in", "d.out").unwrap();
    // The model says itself that it is a variant of what is asked for.
    for asked in ["--preset tiny", "--learn-sigma", "--preset tiny --head-channels 16 --groups 8"] {
        forward(&format!("m.safetensors {asked}"), "same.in", "e.out").unwrap();
        assert_eq!(folder.read("e.out"), folder.read("b.out"), "{asked}");
        std::fs::remove_file(folder.path("e.out")).unwrap();
    }
    for (asked, part) in [
        ("--preset small", "channels"),
        ("--preset tiny --channel-mult 1,2", "channel_mult"),
        ("--preset tiny --groups 4", "groups"),
        ("--heads 2", "heads"),
        ("--emb-mode add", "emb_mode"),
        ("--no-null-condition", "null_condition"),
    ] {
        let error = forward(&format!("m.safetensors {asked}"), "same.in", "e.out").unwrap_err().1;
        assert!(error.contains(&format!("has another {part} than")), "{asked}: {error}");
    }

    let names = ["a.out", "b.out", "c.out", "d.out", "f.out"];
    let [a, b, c, d, f] = names.map(|name| folder.read(name));
    assert!(a == b && b == d && b == f && b != c);
    let file = SafeTensors::deserialize(&b).unwrap();
    assert_eq!(file.tensor("out").unwrap().shape(), [3, 2, 16, 16]);
    assert!(!folder.path("e.out").exists());
}

#[test]
fn inputs_and_states_that_do_not_fit_are_refused_by_name() {
    let folder = Folder::new();
    folder.run("init-model --preset tiny --out m.safetensors").unwrap();
    folder.inputs("short.in", (Dtype::F16, &[0; 6]));
    folder.inputs("wrong.in", (Dtype::U16, &[0; 6]));
    folder.inputs("nan.in", (Dtype::F16, &[0xff; 6]));
    let forward = "model forward --model m.safetensors --out x.out --device cpu --inputs";
    folder.run(&format!("{forward} short.in")).unwrap();
    folder.refused(&format!("{forward} wrong.in"), 1, "t is of type U16");
    folder.refused(&format!("{forward} nan.in"), 1, "t has a value that is not finite");
    folder.refused(&format!("{forward} m.safetensors"), 1, "no tensor x");

    std::fs::write(folder.path("m.pt"), b"PK\x03\x04 and so on").unwrap();
    let import = "model import --preset tiny --out i.safetensors --state";
    folder.refused(&format!("{import} m.pt"), 1, "torch.load");
    folder.refused(&format!("{import} none.pt"), 1, "none.pt");
    assert!(!folder.path("i.safetensors").exists());
}
