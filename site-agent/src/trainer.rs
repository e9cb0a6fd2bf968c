//! The trainer's process: scans and device at one end, the pipe at the other, and nothing else.
//!
//! It has no key, no socket and no runtime for either. It ends when its pipe closes, however busy it
//! is, so that none is left behind when an agent dies.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use burn::tensor::Device;
use fedpaint_proto::names::Blob;
use fedpaint_proto::plan::RunPlan;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::cohort::{self, Cohort};
use crate::local_round::{self, Machine, RoundKey, RoundResult, Watch, train_round};
use crate::model::checkpoint::{self, CheckpointError};
use crate::model::device::{self, DeviceError};
use crate::pipe::{
    self, Assignment, Failure, FromTrainer, PIPE_VERSION, Setup, ToTrainer, Trained,
};
use crate::settings::ComputeSettings;
use crate::workspace::{blob_of, model_path, new_update_path, update_path};

/// The folder of the workspace that prepared scans are kept in, which the agent never opens.
const SCANS_CACHE: &str = "scans-cache";

/// The file of the workspace that says which scans trained.
const SPLIT: &str = "split.json";

/// Why the trainer cannot do what it was told. Texts may name files of the site.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the agent speaks version {0} of the pipe and the trainer {PIPE_VERSION}")]
    Version(u32),
    #[error("the agent's first word was not a hello")]
    NoHello,
    #[error("trainer.device: {0}")]
    Device(#[from] DeviceError),
    #[error("cannot limit the memory or the threads: {0}")]
    Limit(String),
    #[error(transparent)]
    Cohort(#[from] cohort::Error),
    #[error(transparent)]
    Plan(#[from] fedpaint_proto::plan::Error),
    #[error("the base model: {0}")]
    Base(CheckpointError),
    #[error(transparent)]
    Round(#[from] local_round::Error),
    #[error("the update: {0}")]
    Update(CheckpointError),
    #[error("{}: {source}", path.display())]
    Disk { path: PathBuf, source: io::Error },
}

impl Error {
    fn failure(&self) -> Failure {
        match self {
            Error::Version(_) | Error::NoHello | Error::Limit(_) => Failure::Internal,
            Error::Device(_) => Failure::Device,
            Error::Cohort(error) => error.failure(),
            Error::Plan(_) => Failure::Plan,
            Error::Base(_) => Failure::BaseModel,
            Error::Round(error) => error.failure(),
            Error::Update(_) | Error::Disk { .. } => Failure::Disk,
        }
    }
}

/// What a trainer works with.
struct Bench {
    workspace: PathBuf,
    cohort: Cohort,
    machine: Machine,
}

/// Serves the agent over standard input and output until it closes the pipe.
pub fn run() -> ExitCode {
    // A copy of the descriptor, because the standard stream buffers by lines of text.
    let Ok(out) = io::stdout().as_fd().try_clone_to_owned() else { return ExitCode::FAILURE };
    match serve(io::stdin(), &mut File::from(out)) {
        Ok(()) | Err(pipe::Error::Closed) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(mut stdin: io::Stdin, out: &mut File) -> Result<(), pipe::Error> {
    let bench = match pipe::read(&mut stdin).map(prepare)? {
        Ok(bench) => bench,
        Err(error) => return answer_failure(out, &error),
    };
    let hello = FromTrainer::Hello {
        version: PIPE_VERSION,
        device: device::describe(&bench.machine.device),
        cohort: bench.cohort.summary(),
    };
    pipe::write(out, &hello)?;
    let is_stopped = Arc::new(AtomicBool::new(false));
    let assignments = listen(stdin, Arc::clone(&is_stopped));
    for assignment in assignments {
        let mut broken = None;
        let mut watch = Watch {
            is_stopped: &|| is_stopped.load(Ordering::Relaxed),
            progress: &mut |progress| {
                let told = pipe::write(out, &FromTrainer::Progress(progress));
                broken = broken.take().or(told.err());
            },
        };
        let trained = train(&bench, &assignment, &mut watch);
        if let Some(error) = broken {
            return Err(error);
        }
        match trained {
            Ok(trained) => pipe::write(out, &FromTrainer::Trained(trained))?,
            Err(error) => answer_failure(out, &error)?,
        }
    }
    Ok(())
}

fn answer_failure(out: &mut File, error: &Error) -> Result<(), pipe::Error> {
    let (failure, detail) = (error.failure(), pipe::detail(error));
    pipe::write(out, &FromTrainer::Failed { failure, detail })
}

/// Hears the agent on a thread of its own, so that a word to stop is heard in the middle of a step.
fn listen(
    mut stdin: impl Read + Send + 'static,
    stop: Arc<AtomicBool>,
) -> mpsc::Receiver<Assignment> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        loop {
            match pipe::read(&mut stdin) {
                Ok(ToTrainer::Train(assignment)) => {
                    stop.store(false, Ordering::Relaxed);
                    // The receiver lives as long as the process.
                    let _ = sender.send(assignment);
                }
                Ok(ToTrainer::Cancel) => stop.store(true, Ordering::Relaxed),
                Err(pipe::Error::Closed) => std::process::exit(0),
                Ok(ToTrainer::Hello { .. }) => {
                    tracing::error!("the agent said hello twice");
                    std::process::exit(1);
                }
                Err(error) => {
                    tracing::error!("{error}");
                    std::process::exit(1);
                }
            }
        }
    });
    receiver
}

fn prepare(first: ToTrainer) -> Result<Bench, Error> {
    let Setup { workspace, mut data, compute } = match first {
        ToTrainer::Hello { version: PIPE_VERSION, setup } => setup,
        ToTrainer::Hello { version, .. } => return Err(Error::Version(version)),
        ToTrainer::Train(_) | ToTrainer::Cancel => return Err(Error::NoHello),
    };
    let device = device::open(compute.device.parse()?)?;
    limit(&compute, &device)?;
    data.cache.get_or_insert_with(|| workspace.join(SCANS_CACHE));
    let memory_max = compute.memory_mib_max.map(|mib| mib << 20);
    let machine = Machine { device, memory_max };
    Ok(Bench { workspace, cohort: Cohort::discover(&data)?, machine })
}

/// Sets what the configuration allows this process before it does anything large.
pub(crate) fn limit_threads(threads: Option<u32>) -> Result<(), String> {
    let threads = threads.map_or(0, |threads| threads as usize);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    pool.map_err(|e| e.to_string())
}

fn limit(compute: &ComputeSettings, device: &Device) -> Result<(), Error> {
    // A GPU's driver reserves far more addresses than it takes memory, so there the limit is held by
    // the estimate before a training alone.
    if let Some(mib) = compute.memory_mib_max.filter(|_| *device == Device::flex()) {
        let bytes = Some(mib << 20);
        setrlimit(Resource::As, Rlimit { current: bytes, maximum: bytes })
            .map_err(|e| Error::Limit(e.to_string()))?;
    }
    limit_threads(compute.threads).map_err(Error::Limit)
}

fn train(bench: &Bench, assignment: &Assignment, watch: &mut Watch<'_>) -> Result<Trained, Error> {
    let Assignment { number, site, plan_toml, base, .. } = assignment;
    let plan = RunPlan::from_toml(plan_toml)?;
    // Everything about the file is checked before a network is made of it.
    let base = checkpoint::load(&model_path(&bench.workspace, base.digest)).map_err(Error::Base)?;
    let key = RoundKey { plan: &plan.training, number: *number, site };
    let RoundResult { weights, examples, report, .. } =
        train_round(&base, &bench.cohort, &bench.machine, key, watch)?;
    let split = bench.workspace.join(SPLIT);
    bench.cohort.manifest().write(&split).map_err(|source| Error::Disk { path: split, source })?;
    let path = new_update_path(&bench.workspace);
    checkpoint::save(&weights, &path).map_err(Error::Update)?;
    let update = name_by_digest(&bench.workspace, &path)?;
    Ok(Trained { update, examples, report })
}

/// Gives a whole update the name of its digest.
fn name_by_digest(workspace: &Path, path: &Path) -> Result<Blob, Error> {
    let disk = |source| Error::Disk { path: path.to_owned(), source };
    let blob = blob_of(path).map_err(disk)?;
    let blob = blob.ok_or_else(|| disk(io::Error::from(io::ErrorKind::NotFound)))?;
    fs::rename(path, update_path(workspace, blob.digest)).map_err(disk)?;
    Ok(blob)
}
