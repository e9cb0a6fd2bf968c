//! The processes that measure, and what they say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use fedpaint_tests::process;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::load::Load;

/// The program that trains.
const TOOL: &str = "fedpaint-site-agent";
/// PyTorch's side.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/reference/bench_train.py");

/// What is measured.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) preset: String,
    pub(crate) batch: usize,
    pub(crate) steps: u32,
    pub(crate) warmup: u32,
    pub(crate) device: String,
    pub(crate) precision: String,
    /// PyTorch is measured with this one.
    pub(crate) python: Option<PathBuf>,
}

/// What a training process of ours says.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Ours {
    pub(crate) preset: String,
    pub(crate) batch: usize,
    pub(crate) steps: usize,
    pub(crate) warmup: usize,
    pub(crate) precision: String,
    pub(crate) device: String,
    pub(crate) threads: usize,
    pub(crate) parameters: usize,
    pub(crate) flop: u64,
    pub(crate) operations: BTreeMap<String, f64>,
    #[serde(flatten)]
    pub(crate) run: Run,
}

/// What any training process says, ours or PyTorch's.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Run {
    /// Milliseconds of each timed step.
    pub(crate) steps_ms: Vec<f64>,
    pub(crate) peak_rss_bytes: Option<u64>,
    pub(crate) losses: Vec<f64>,
    pub(crate) gradient_norms: Vec<f64>,
}

/// GFLOP/s of a product of f32 matrices.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Sgemm {
    pub(crate) gflops: f64,
}

/// One turn: our training, and PyTorch's right after it.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) ours: Ours,
    pub(crate) torch: Option<Torch>,
    /// The share of the machine's processors that others used meanwhile.
    pub(crate) others: Option<f64>,
}

/// PyTorch's part of a turn.
#[derive(Clone, Debug)]
pub(crate) struct Torch {
    pub(crate) eager: Run,
    pub(crate) channels_last: Run,
    pub(crate) sgemm: Sgemm,
}

/// What `torch.compile` makes of it, or why nothing.
pub(crate) type Compiled = Result<Run, String>;

impl Job {
    /// Writes the model and every step's inputs into `folder`, for PyTorch.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let mut args = self.args();
        args.extend(["--write".into(), folder.display().to_string()]);
        process::run(TOOL, &args).map(drop)
    }

    /// Measures once, with this many threads.
    pub(crate) fn turn(&self, threads: usize, folder: &Path) -> anyhow::Result<Turn> {
        let mut args = self.args();
        args.extend(
            ["--device", &self.device, "--threads", &threads.to_string()].map(String::from),
        );
        let before = Load::now();
        let ours: Ours = last_line(TOOL, &process::run(TOOL, &args)?)?;
        let torch = self.python.as_deref().map(|python| -> anyhow::Result<Torch> {
            let run = |mode| self.script(python, mode, threads, folder);
            let mut rates: BTreeMap<String, Sgemm> =
                last_line("sgemm", &self.script(python, "sgemm", threads, folder)?)?;
            Ok(Torch {
                eager: last_line("eager", &run("eager")?)?,
                channels_last: last_line("channels_last", &run("channels_last")?)?,
                sgemm: rates.remove(&threads.to_string()).context("sgemm has no rate")?,
            })
        });
        let torch = torch.transpose()?;
        let others = before.zip(Load::now()).map(|(before, now)| now.others_since(before));
        Ok(Turn { ours, torch, others })
    }

    /// Measures `torch.compile`, which need not work everywhere.
    pub(crate) fn compiled(&self, threads: usize, folder: &Path) -> anyhow::Result<Compiled> {
        let python = self.python.as_deref().context("there is no Python to measure with")?;
        eprintln!("torch.compile");
        match self.script(python, "compile", threads, folder) {
            Ok(text) => Ok(Ok(last_line("compile", &text)?)),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    fn args(&self) -> Vec<String> {
        let (batch, steps) = (self.batch.to_string(), self.steps.to_string());
        let warmup = self.warmup.to_string();
        let args = ["bench", "--preset", &self.preset, "--batch", &batch, "--steps", &steps];
        let more = ["--warmup", &warmup, "--precision", &self.precision];
        args.into_iter().chain(more).map(String::from).collect()
    }

    /// Runs one mode of PyTorch's side to its end and gives what it prints.
    fn script(
        &self,
        python: &Path,
        mode: &str,
        threads: usize,
        folder: &Path,
    ) -> anyhow::Result<String> {
        let threads = threads.to_string();
        let mut command = Command::new(python);
        command.args([SCRIPT, "--mode", mode, "--device", &self.device, "--threads", &threads]);
        command.args(["--warmup", &self.warmup.to_string(), "--precision", &self.precision]);
        command.arg("--files").arg(folder);
        // Libraries count the threads they may use when they are loaded.
        command.env("OMP_NUM_THREADS", &threads).env("MKL_NUM_THREADS", &threads);
        command.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null());
        let named = || format!("cannot start {}", python.display());
        let output = command.output().with_context(named)?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let last = stderr.lines().rfind(|line| !line.trim().is_empty());
            bail!("{mode} ended with {}: {}", output.status, last.unwrap_or_default());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// The JSON on the last line of what `name` prints.
fn last_line<T: DeserializeOwned>(name: &str, text: &str) -> anyhow::Result<T> {
    let line = text.lines().last().with_context(|| format!("{name} printed nothing"))?;
    serde_json::from_str(line)
        .with_context(|| format!("{name} printed something else than a report"))
}
