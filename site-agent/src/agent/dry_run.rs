//! A round that is trained and does not leave: the very bytes that would have been sent, and a report of
//! them, in a folder of this site. What the coordinator was asked is listed in the report; `preview` does it.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::names::{Blob, Digest, RoundId};
use fedpaint_proto::weights::{self, ModelFile, TensorSpec, Update};
use serde::Serialize;

use crate::pipe::{Report, Trained};
use crate::policy::judge::{self, Verdict};
use crate::policy::{Metric, Policy};

/// What the update is called in the folder.
pub const UPDATE: &str = "update.safetensors";

/// What the report is called there, for programs.
pub const REPORT: &str = "report.json";

/// And for people.
pub const TEXT: &str = "report.txt";

/// What the coordinator is sent by a dry run, all of it.
const SENT: [&str; 5] = [
    "the TLS handshake, with this site's certificate",
    "the question which rounds are open",
    "the question for the run's plan",
    "the questions for the base model and for what it, and those of missed rounds, are made of",
    "no heartbeat, no byte of an update, no number of the training",
];

/// Why a dry run leaves nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder cannot be written.
    #[error("cannot write the dry run's {}: {source}", path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A model does not read.
    #[error(transparent)]
    Model(#[from] weights::Error),
}

/// A round that was trained.
#[derive(Clone, Copy, Debug)]
pub struct Round<'a> {
    /// Which one.
    pub id: &'a RoundId,
    /// Its plan.
    pub plan: Digest,
    /// Its base model.
    pub base: &'a Path,
    /// The update's file.
    pub update: &'a Path,
    /// What was trained.
    pub trained: &'a Trained,
    /// What the policy says of the round, the plan and the update.
    pub verdicts: &'a [Verdict],
}

/// What would have left.
#[derive(Debug, Serialize)]
struct Told<'a> {
    round: String,
    plan: Digest,
    /// Whether the update would have been sent.
    would_leave: bool,
    update: File,
    examples: Option<u64>,
    report: Report,
    withheld: Vec<Metric>,
    tensors: Vec<Tensor>,
    policy: &'a [Verdict],
    sent_by_this_dry_run: [&'static str; 5],
}

#[derive(Debug, Serialize)]
struct File {
    name: &'static str,
    /// How its numbers are written, and which of them.
    form: String,
    blake3: Digest,
    bytes: u64,
}

/// A tensor of the update.
#[derive(Debug, Serialize)]
struct Tensor {
    name: String,
    shape: Vec<usize>,
    bytes: u64,
    /// The Euclidean norm of its values.
    norm: f64,
    /// And of what the training changed.
    change_norm: f64,
}

/// Writes update and report into `folder`, which is made where it is not there; the report for people. Each file
/// appears whole or not, in place of one that an earlier dry run has left.
///
/// # Errors
/// If a file does not read or write.
pub fn write(folder: &Path, policy: &Policy, round: &Round<'_>) -> Result<String, Error> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    fs::create_dir_all(folder).map_err(io(folder))?;
    let update = folder.join(UPDATE);
    let copy = |to: &Path| {
        reach("dry_run.update")?;
        fs::copy(round.update, to).map(drop)
    };
    replace(&update, copy).map_err(io(&update))?;
    let told = tell(policy, round)?;
    let json = serde_json::to_vec_pretty(&told)
        .map_err(|error| Error::Io { path: folder.join(REPORT), source: error.into() })?;
    let text = in_words(&told);
    for (name, bytes) in [(REPORT, json.as_slice()), (TEXT, text.as_bytes())] {
        let path = folder.join(name);
        let write = |to: &Path| {
            reach("dry_run.report")?;
            fs::write(to, bytes)
        };
        replace(&path, write).map_err(io(&path))?;
    }
    Ok(text)
}

/// Has a file written beside `path`, and given this name once it is whole.
fn replace(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let temporary = path.with_added_extension("writing");
    let replaced = write(&temporary).and_then(|()| fs::rename(&temporary, path));
    if replaced.is_err() {
        // It may never have been there.
        let _ = fs::remove_file(&temporary);
    }
    replaced
}

fn tell<'a>(policy: &Policy, round: &Round<'a>) -> Result<Told<'a>, Error> {
    let Round { id, plan, trained, verdicts, .. } = *round;
    let examples = policy.allows(Metric::Examples).then_some(trained.examples);
    let update = Update::open(round.update)?;
    let form = update.form().to_string();
    let Blob { digest: blake3, size: bytes } = trained.update;
    Ok(Told {
        round: id.to_string(),
        plan,
        would_leave: verdicts.iter().all(|verdict| verdict.passes),
        update: File { name: UPDATE, form, blake3, bytes },
        examples,
        report: judge::report(policy, trained.report),
        withheld: Metric::ALL.into_iter().filter(|metric| !policy.allows(*metric)).collect(),
        tensors: tensors(update, round.base)?,
        policy: verdicts,
        sent_by_this_dry_run: SENT,
    })
}

fn tensors(update: Update, base: &Path) -> Result<Vec<Tensor>, Error> {
    let base = ModelFile::open(base)?;
    let sent = update.tensors().to_vec();
    // What the base model has not is shown as it would be sent.
    let known = |sent: &TensorSpec| base.position(&sent.name).map(|at| base.tensors()[at].clone());
    let specs: Vec<_> = sent.iter().map(|sent| known(sent).unwrap_or(sent.clone())).collect();
    let trained = update.values(&specs)?;
    let mut tensors = Vec::with_capacity(specs.len());
    for (index, (spec, sent)) in specs.into_iter().zip(sent).enumerate() {
        let before = base.position(&spec.name).map(|at| base.read(at)).transpose()?;
        let before = before.unwrap_or_else(|| vec![0.0; spec.len()]);
        let mut values = vec![0.0; spec.len()];
        trained.read_beside(index, 0, &before, &mut values)?;
        let norm =
            |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let mut change = values.iter().zip(&before).map(|(v, b)| f64::from(*v) - f64::from(*b));
        tensors.push(Tensor {
            bytes: sent.bytes() as u64,
            norm: norm(&mut values.iter().map(|v| f64::from(*v))),
            change_norm: norm(&mut change),
            name: spec.name,
            shape: spec.shape,
        });
    }
    Ok(tensors)
}

fn in_words(told: &Told<'_>) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut line = |said: String| {
        let _ = writeln!(text, "{said}");
    };
    let Told { round, plan, update, report, .. } = told;
    line(format!("dry run of round {round}, plan {plan}"));
    let would = if told.would_leave { "would have left" } else { "would NOT have left" };
    line(format!(
        "{} {would}: {}, {} bytes, BLAKE3 {}",
        update.name, update.form, update.bytes, update.blake3
    ));
    let examples = told.examples.map_or("withheld".to_owned(), |examples| examples.to_string());
    line(format!("beside it: examples {examples}, report {report:?}"));
    let withheld = serde_json::to_string(&told.withheld).unwrap_or_default();
    line(format!("withheld by the policy, told as 0: {withheld}"));
    line("\nthe policy:".to_owned());
    for Verdict { rule, passes, detail } in told.policy {
        let word = if *passes { "pass" } else { "REFUSE" };
        line(format!("  {word:<6}  {rule:<10}  {detail}"));
    }
    line("\nsent by this dry run:".to_owned());
    told.sent_by_this_dry_run.iter().for_each(|sent| line(format!("  {sent}")));
    line(format!("\n{} tensors:", told.tensors.len()));
    for Tensor { name, shape, bytes, norm, change_norm } in &told.tensors {
        let shape = format!("{shape:?}");
        let size = format!("{bytes} bytes");
        line(format!(
            "  {name:<44} {shape:<18} {size:>14}  norm {norm:.4}, changed by {change_norm:.4}"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fedpaint_proto::rule::Rule;
    use fedpaint_proto::weights::{Dtype, ModelWriter, TensorSpec};

    use super::*;

    /// A model of two tensors whose values are all `value`.
    fn model(path: &Path, value: f32) -> Blob {
        let spec = |name: &str, shape: &[usize]| TensorSpec {
            name: name.into(),
            dtype: Dtype::F32,
            shape: shape.into(),
        };
        let specs = vec![spec("in.weight", &[4, 3]), spec("out.bias", &[5])];
        let mut writer = ModelWriter::create(path, specs.clone(), &BTreeMap::new()).unwrap();
        for spec in &specs {
            writer.write(&vec![value; spec.len()]).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn the_bytes_are_those_that_were_trained_and_the_report_says_what_each_tensor_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        model(&path("base"), 1.0);
        let blob = model(&path("update"), 1.5);
        let update = fs::read(path("update")).unwrap();
        let report = Report { steps: 3, loss_mean: 0.25, ..Report::default() };
        let data = Digest::of(b"what it learnt from");
        let trained = Trained { update: blob, examples: 6, report, data, remainder: None };
        let refused = Verdict { rule: Rule::Bytes, passes: false, detail: "too many".into() };
        let mut policy = Policy::open();
        policy.egress.metrics = vec![Metric::Examples, Metric::LossMean];
        let id = RoundId { run: "brain".parse().unwrap(), number: 1, attempt: 1 };
        let text = write(
            &path("out"),
            &policy,
            &Round {
                id: &id,
                plan: Digest::of(b"plan"),
                base: &path("base"),
                update: &path("update"),
                trained: &trained,
                verdicts: &[refused],
            },
        )
        .unwrap();
        assert!(fs::read(path("out").join(UPDATE)).unwrap() == update);
        let told: serde_json::Value =
            serde_json::from_slice(&fs::read(path("out").join(REPORT)).unwrap()).unwrap();
        assert_eq!(told["would_leave"], false);
        assert_eq!(told["policy"][0]["rule"], "bytes");
        assert_eq!(
            (&told["report"]["loss_mean"], &told["report"]["steps"]),
            (&0.25.into(), &0.into())
        );
        assert_eq!(told["update"]["blake3"], blob.digest.to_string());
        let tensors = told["tensors"].as_array().unwrap();
        assert_eq!(tensors.len(), 2);
        for tensor in tensors {
            let values = tensor["bytes"].as_f64().unwrap() / 4.0;
            for (norm, value) in [("norm", 1.5), ("change_norm", 0.5)] {
                let found = tensor[norm].as_f64().unwrap();
                assert!((found - value * values.sqrt()).abs() < 1e-6, "{tensor}");
            }
        }
        assert!(text.contains("would NOT have left") && text.contains("REFUSE  bytes"), "{text}");
        assert_eq!(fs::read_to_string(path("out").join(TEXT)).unwrap(), text);
    }
}
