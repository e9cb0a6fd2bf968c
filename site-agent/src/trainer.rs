//! The trainer's process: scans and device at one end, the pipe at the other, and nothing else.
//!
//! It has no key, no socket and no runtime for either. It ends when its pipe closes, however busy it
//! is, so that none is left behind when an agent dies.

mod sending;
mod stop;

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc;

use burn::tensor::Device;
use fedpaint_proto::disk::may_pass;
use fedpaint_proto::failpoint::reach;
use fedpaint_proto::names::{Blob, Digest};
use fedpaint_proto::plan::RunPlan;
use fedpaint_proto::weights::{self, Encoded};
use rustix::process::{Resource, Rlimit, setrlimit};

use self::sending::Outbox;
use self::stop::Stop;
use crate::checkpoints::{self, Checkpoints};
use crate::cohort::{self, Cohort};
use crate::cpu::tile;
use crate::data::told::words;
use crate::disk;
use crate::local_round::{self, Machine, RoundKey, Watch, train_round};
use crate::model::checkpoint::{self, CheckpointError};
use crate::model::device::{self, DeviceError};
use crate::pipe::{
    self, Assignment, CohortSummary, Failure, FromTrainer, PIPE_VERSION, Report, Setup, ToTrainer,
    Trained,
};
use crate::rehearsal::{self, Rehearsal};
use crate::settings::{ComputeSettings, RehearsalSettings};
use crate::train::TrainError;
use crate::train::journal::Journal;
use crate::train::snapshot::{Key, Snapshot};
use crate::workspace::{blob_of, model_path, trained};

/// The folder of the workspace that prepared scans are kept in, which the agent never opens.
const SCANS_CACHE: &str = "scans-cache";

/// What the agent hears of scans that cannot be trained on.
const SCANS_AT_FAULT: &str = "none of the scans can be used, or one has changed since it was looked at: \
                              `fedpaint-site-agent data check` says which, and why";

/// What of the disk a trainer works on, as the log names it: paths may be a patient's name.
const WORKSPACE: &str = "the workspace";
const BASE: &str = "the base model";
const REMAINDER: &str = "what the last update left out";
const SPLIT: &str = "the split, `data.split`";

/// Why the trainer cannot do what it was told. Texts may name files of the site, see [`Error::told`].
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
    #[error("{0} in the workspace is no longer what it was: its disk loses bits")]
    Rotten(&'static str),
    #[error("the rehearsal: {0}")]
    Rehearsal(#[from] rehearsal::Error),
    #[error("the round was given up while its files were written")]
    Stopped,
    #[error(transparent)]
    Round(#[from] local_round::Error),
    #[error("the update: {0}")]
    Update(CheckpointError),
    #[error("the update cannot be encoded: {0}")]
    Encoding(weights::Error),
    #[error("{what}: {}", words(source))]
    Disk { what: &'static str, source: io::Error },
}

impl Error {
    fn failure(&self) -> Failure {
        match self {
            Error::Version(_) | Error::NoHello | Error::Limit(_) => Failure::Internal,
            Error::Device(_) => Failure::Device,
            Error::Cohort(error) => error.failure(),
            Error::Plan(_) => Failure::Plan,
            Error::Base(_) => Failure::BaseModel,
            Error::Rehearsal(error) => error.failure(),
            Error::Round(error) => error.failure(),
            Error::Stopped => Failure::Cancelled,
            Error::Encoding(weights::Error::Blocks { .. }) => Failure::NotFinite,
            Error::Encoding(_) => Failure::BaseModel,
            Error::Rotten(_) | Error::Update(_) | Error::Disk { .. } => Failure::Disk,
        }
    }

    /// What the agent is told. It logs it, and a log may be sent to others: nothing here names a scan, a case or
    /// a path of data.
    fn told(&self) -> String {
        match self {
            Error::Cohort(cohort::Error::Known(error)) => error.told(),
            Error::Cohort(cohort::Error::Cache(error)) => error.told(),
            error if error.may_name_scans() => SCANS_AT_FAULT.to_owned(),
            error => pipe::detail(error),
        }
    }

    /// Whether it is the trainer's training that cannot go on from what was kept of it.
    fn is_of_the_checkpoint(&self) -> bool {
        let Error::Round(local_round::Error::Train(error)) = self else { return false };
        matches!(error, TrainError::Checkpoint { .. })
    }

    /// Whether its text may name a scan or the place of one, which may be a patient's name.
    fn may_name_scans(&self) -> bool {
        let reads = |error: &TrainError| {
            matches!(error, TrainError::Examples { .. } | TrainError::Example { .. })
        };
        self.failure() == Failure::NoData
            || matches!(self, Error::Round(local_round::Error::Train(error)) if reads(error))
    }
}

/// What a trainer works with.
struct Bench {
    workspace: PathBuf,
    checkpoints: Checkpoints,
    checkpoint_steps: u32,
    build: String,
    work: Work,
}

/// What it does with a round.
enum Work {
    Train { cohort: Box<Cohort>, machine: Machine, split: Option<PathBuf> },
    Rehearse(RehearsalSettings),
}

/// Writes a trained model as the bytes of its file, as often as it is asked to.
type Writing = Box<dyn Fn(&mut dyn Write) -> io::Result<()>>;

/// What a training made.
struct Made {
    write: Writing,
    examples: u64,
    report: Report,
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

fn serve(stdin: io::Stdin, out: &mut File) -> Result<(), pipe::Error> {
    let stop = Arc::new(Stop::default());
    let mut words = listen(stdin, Arc::clone(&stop)).into_iter();
    let bench = match words.next().ok_or(pipe::Error::Closed).map(prepare)? {
        Ok(bench) => bench,
        Err(error) => return answer_failure(out, &error),
    };
    let (device, cohort) = match &bench.work {
        Work::Train { cohort, machine, .. } => {
            (device::describe(&machine.device), cohort.summary())
        }
        Work::Rehearse(_) => (rehearsal::MACHINE.to_owned(), CohortSummary::default()),
    };
    pipe::write(out, &FromTrainer::Hello { version: PIPE_VERSION, device, cohort })?;
    for word in words {
        let ToTrainer::Train(assignment) = word else { continue };
        let mut broken = None;
        let mut watch = Watch {
            is_stopped: &|| stop.is_set(),
            progress: &mut |progress| {
                // A step touches no disk: a rule can only end the process here.
                let _ = reach("train.step");
                let told = pipe::write(out, &FromTrainer::Progress(progress));
                broken = broken.take().or(told.err());
            },
        };
        let trained = train(&bench, &assignment, &stop, &mut watch);
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
    let (failure, detail) = (error.failure(), error.told());
    pipe::write(out, &FromTrainer::Failed { failure, detail })
}

/// Hears the agent on a thread of its own, so that its end is heard while scans are looked for, and a
/// word to stop in the middle of a step. Hands on the first word, whatever it is, and what to train.
fn listen(mut stdin: impl Read + Send + 'static, stop: Arc<Stop>) -> mpsc::Receiver<ToTrainer> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut is_first = true;
        loop {
            match pipe::read(&mut stdin) {
                Ok(word) if is_first || matches!(word, ToTrainer::Train(_)) => {
                    is_first = false;
                    stop.set(false);
                    // The receiver lives as long as the process.
                    let _ = sender.send(word);
                }
                Ok(ToTrainer::Hello { .. }) => {
                    tracing::error!("the agent said hello twice");
                    std::process::exit(1);
                }
                Ok(_) => stop.set(true),
                Err(pipe::Error::Closed) => std::process::exit(0),
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
    let Setup { workspace, mut data, compute, rehearsal } = match first {
        ToTrainer::Hello { version: PIPE_VERSION, setup } => setup,
        ToTrainer::Hello { version, .. } => return Err(Error::Version(version)),
        ToTrainer::Train(_) | ToTrainer::Cancel => return Err(Error::NoHello),
    };
    let (checkpoints, build) = (Checkpoints::of(&workspace), checkpoints::build());
    if let Some(settings) = rehearsal {
        tracing::warn!("this site rehearses: it opens no scan, and what it sends is made up");
        let checkpoint_steps = settings.checkpoint_steps.unwrap_or(compute.checkpoint_steps);
        let work = Work::Rehearse(settings);
        return Ok(Bench { workspace, checkpoints, checkpoint_steps, build, work });
    }
    let device = device::open(compute.device.parse()?)?;
    limit(&compute, &device)?;
    data.cache.get_or_insert_with(|| workspace.join(SCANS_CACHE));
    let memory_max = compute.memory_mib_max.map(|mib| mib << 20);
    let machine = Machine { device, memory_max };
    let split = data.split.clone();
    let work = Work::Train { cohort: Box::new(Cohort::discover(&data)?), machine, split };
    let checkpoint_steps = compute.checkpoint_steps;
    Ok(Bench { workspace, checkpoints, checkpoint_steps, build, work })
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

fn train(
    bench: &Bench,
    assignment: &Assignment,
    stop: &Stop,
    watch: &mut Watch<'_>,
) -> Result<Trained, Error> {
    let plan = RunPlan::from_toml(&assignment.plan_toml)?;
    check(BASE, &model_path(&bench.workspace, assignment.base.digest), assignment.base)?;
    let data = match &bench.work {
        Work::Train { cohort, .. } => {
            cohort.survey(&|| stop.is_set(), &mut |_, _| {})?;
            cohort.training()
        }
        Work::Rehearse(_) => Digest::of(rehearsal::MACHINE.as_bytes()),
    };
    let known = patiently(stop, WORKSPACE, || trained(&bench.workspace, assignment, data))?;
    if let Some(known) = known {
        tracing::info!("this round is trained already");
        return Ok(known);
    }
    let key = key(bench, assignment, data);
    let made = bench.checkpoints.go_on(&key, Error::is_of_the_checkpoint, |from| {
        let keep = &mut |snapshot: &Snapshot<Cow<'_, [f32]>>| {
            bench.checkpoints.keep(&key, snapshot);
        };
        let journal = Journal { from, every: bench.checkpoint_steps as usize, keep: Some(keep) };
        make(bench, (assignment, &plan), &key, journal, stop, watch)
    });
    let Made { write, examples, report } = made?;
    let outbox = Outbox { workspace: &bench.workspace, stop };
    let Encoded { update, remainder } = outbox.put(plan.exchange, assignment, write)?;
    Ok(Trained { update, examples, report, data, remainder })
}

/// Trains, or rehearses, from where the journal says it was.
fn make(
    bench: &Bench,
    (assignment, plan): (&Assignment, &RunPlan),
    key: &Key,
    journal: Journal<'_>,
    stop: &Stop,
    watch: &mut Watch<'_>,
) -> Result<Made, Error> {
    let path = model_path(&bench.workspace, assignment.base.digest);
    match &bench.work {
        Work::Train { cohort, machine, split } => {
            let key = RoundKey {
                plan: &plan.training,
                number: assignment.number,
                site: &assignment.site,
                part: plan.exchange.part,
            };
            // Everything about the file is checked before a network is made of it.
            let base = checkpoint::load(&path).map_err(Error::Base)?;
            let done = train_round(&base, cohort, machine, key, journal, watch)?;
            if let Some(split) = split {
                patiently(stop, SPLIT, || {
                    reach("train.split")?;
                    cohort.manifest().write(split)
                })?;
            }
            let update = checkpoint::to_bytes(&done.weights).map_err(Error::Update)?;
            let write: Writing = Box::new(move |out| out.write_all(&update));
            Ok(Made { write, examples: done.examples, report: done.report })
        }
        Work::Rehearse(settings) => {
            let rehearsal = Rehearsal { base: &path, key, plan: &plan.training, settings };
            let wait = &|time| stop.wait(time);
            let (update, summary) = rehearsal.run(journal, wait, watch)?;
            let write: Writing = Box::new(move |out| update.write(out));
            Ok(Made { write, examples: summary.examples, report: local_round::report(&summary) })
        }
    }
}

/// Whether a file that was right when it came here is so still.
fn check(what: &'static str, path: &Path, blob: Blob) -> Result<(), Error> {
    let disk = |source| Error::Disk { what, source };
    reach("train.base").map_err(disk)?;
    match blob_of(path).map_err(disk)? {
        Some(found) if found == blob => Ok(()),
        _ => Err(Error::Rotten(what)),
    }
}

fn key(bench: &Bench, assignment: &Assignment, data: Digest) -> Key {
    let Assignment { run, number, site, plan_toml, base, .. } = assignment;
    let machine = match &bench.work {
        // The processor gives the same bytes on any number of threads, and others by other vectors.
        Work::Train { machine, .. } if machine.device == Device::flex() => {
            format!("cpu, vectors of {}", tile::lanes())
        }
        Work::Train { machine, .. } => device::describe(&machine.device),
        Work::Rehearse(_) => rehearsal::MACHINE.to_owned(),
    };
    Key {
        run: run.clone(),
        number: *number,
        site: site.clone(),
        plan: Digest::of(plan_toml.as_bytes()),
        base: base.digest,
        data,
        machine,
        build: bench.build.clone(),
    }
}

/// Works on the disk until it lets us: what was trained is not thrown away for want of room.
fn patiently<T>(
    stop: &Stop,
    what: &'static str,
    mut work: impl FnMut() -> io::Result<T>,
) -> Result<T, Error> {
    let mut retries = 0;
    loop {
        match work() {
            Ok(done) => return Ok(done),
            Err(error) if may_pass(&error) && retries < disk::RETRIES_MAX => {
                if retries == 0 {
                    let error = words(&error);
                    tracing::warn!("{what}: {error}; trying again until there is room");
                }
                retries += 1;
                if stop.wait(disk::RETRY_WAIT) {
                    return Err(Error::Stopped);
                }
            }
            Err(source) => return Err(Error::Disk { what, source }),
        }
    }
}
