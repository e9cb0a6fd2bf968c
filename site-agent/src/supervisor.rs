//! Starts the trainer, talks to it, and outlives it.
//!
//! The trainer is this same program as a child process with an empty environment and no descriptor
//! but its pipe and its log. However it ends, by a signal, an abort or a panic, that is an answer
//! here and never an end of the agent; the next round gets a new one after a pause.

use std::collections::VecDeque;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::backoff;
use crate::pipe::{
    self, Assignment, CohortSummary, Failure, FromTrainer, PIPE_VERSION, Progress, Setup,
    ToTrainer, Trained,
};

/// How long a new trainer may take to find its device and its data.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a trainer may take to give a round up before it is killed.
pub const CANCEL_GRACE: Duration = Duration::from_secs(10);

/// How long a trainer may take to end once its pipe is closed.
const EXIT_GRACE: Duration = Duration::from_secs(2);

/// The pause before the first restart.
const RESTART_FIRST: Duration = Duration::from_millis(500);

/// The longest pause before a restart.
const RESTART_MAX: Duration = Duration::from_secs(60);

/// Messages of the trainer that wait to be looked at; more wait in the pipe.
const MESSAGES_MAX: usize = 16;

/// How much of the trainer's log is kept to tell what it died of.
const LOG_TAIL_BYTES: usize = 4 << 10;

/// How Rust's runtime begins its last words when an allocation fails.
const OUT_OF_MEMORY_WORDS: &str = "memory allocation of ";

/// The environment variables that a trainer is given, if the agent has them: where to find GPU
/// libraries and temporary files, which log lines to write, which devices to see, and where a test
/// breaks it.
const ENVIRONMENT: &[&str] = &[
    "CUDA_VISIBLE_DEVICES",
    "CUBECL_AUTOTUNE_LEVEL",
    fedpaint_proto::failpoint::VARIABLE,
    "LD_LIBRARY_PATH",
    "PATH",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "TMPDIR",
    "VK_DRIVER_FILES",
    "VK_ICD_FILENAMES",
];

/// Why a round was not trained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The program does not start as a trainer.
    #[error("cannot start the trainer: {0}")]
    Start(String),
    /// It did not say hello in time.
    #[error("the trainer said nothing within {} s of its start", HELLO_TIMEOUT.as_secs())]
    Silent,
    /// It said what it may not say, or in another version.
    #[error("the trainer broke the protocol: {0}")]
    Protocol(String),
    /// It ended without an answer.
    #[error("the trainer died: {0}")]
    Died(Death),
    /// It answered that it cannot.
    #[error("{detail}")]
    Failed {
        /// Why, in a form that may leave the site.
        failure: Failure,
        /// Why, for the log.
        detail: String,
    },
}

/// How a trainer ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Death {
    /// An allocation failed.
    #[error("it was out of memory")]
    OutOfMemory,
    /// Anything else: a signal, an abort, a panic.
    #[error("{0}")]
    Other(String),
}

/// What a trainer said at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The device, in words.
    pub device: String,
    /// What it found in the data folder.
    pub cohort: CohortSummary,
}

/// The trainer of one agent, through all its lives.
#[derive(Debug)]
pub struct Supervisor {
    program: PathBuf,
    setup: Setup,
    trainer: Option<Trainer>,
    deaths: u32,
    not_before: Instant,
}

impl Supervisor {
    /// A supervisor that has started nothing yet. `program` is this program.
    pub fn new(program: PathBuf, setup: Setup) -> Supervisor {
        Supervisor { program, setup, trainer: None, deaths: 0, not_before: Instant::now() }
    }

    /// Starts the trainer where there is none, not before the pause after its last death is over.
    ///
    /// # Errors
    /// If it does not start or cannot work with the setup; then it is not running.
    pub async fn start(&mut self) -> Result<Hello, Error> {
        if let Some(trainer) = &self.trainer {
            return Ok(trainer.hello.clone());
        }
        tokio::time::sleep_until(self.not_before).await;
        match Trainer::start(&self.program, &self.setup).await {
            Ok(trainer) => Ok(self.trainer.insert(trainer).hello.clone()),
            Err(error) => {
                self.mourn();
                Err(error)
            }
        }
    }

    /// The trainer's process id, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.trainer.as_ref().and_then(|t| t.child.id())
    }

    /// Has the trainer train one round. When `cancel` fires the round is given up, at the latest
    /// after [`CANCEL_GRACE`], by killing the trainer.
    ///
    /// # Errors
    /// If there is no update; [`Failure::Cancelled`] if that was the agent's wish. Whatever it was,
    /// the next call starts from a working trainer or with a new one.
    pub async fn train(
        &mut self,
        assignment: &Assignment,
        cancel: &CancellationToken,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Trained, Error> {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(cancelled()),
            started = self.start() => started?,
        };
        let Some(trainer) = &mut self.trainer else {
            return Err(Error::Start("it is gone".into()));
        };
        match trainer.train(assignment, cancel, progress).await {
            Ok(trained) => {
                self.deaths = 0;
                Ok(trained)
            }
            // A device that failed stays lost to the process that had it.
            Err(error @ Error::Failed { failure: Failure::Device, .. }) => {
                self.trainer = None;
                self.mourn();
                Err(error)
            }
            Err(error @ Error::Failed { .. }) => Err(error),
            Err(error) => {
                self.trainer = None;
                self.mourn();
                Err(if cancel.is_cancelled() { cancelled() } else { error })
            }
        }
    }

    /// Ends the trainer, kindly first.
    pub async fn stop(&mut self) {
        if let Some(trainer) = self.trainer.take() {
            trainer.end(EXIT_GRACE).await;
        }
    }

    fn mourn(&mut self) {
        let pause = backoff::delay(self.deaths, RESTART_FIRST, RESTART_MAX, "trainer");
        self.not_before = Instant::now() + pause;
        self.deaths = self.deaths.saturating_add(1);
    }
}

fn cancelled() -> Error {
    Error::Failed { failure: Failure::Cancelled, detail: "the round was given up".into() }
}

/// A running trainer. Dropping it kills it.
#[derive(Debug)]
struct Trainer {
    child: Child,
    /// What the trainer reads; closing it ends the trainer.
    stdin: ChildStdin,
    /// What it says, read by a task of its own so that no wait ever cuts a frame.
    messages: mpsc::Receiver<Result<FromTrainer, pipe::Error>>,
    log: JoinHandle<()>,
    log_tail: Arc<Mutex<VecDeque<u8>>>,
    hello: Hello,
}

impl Trainer {
    async fn start(program: &PathBuf, setup: &Setup) -> Result<Trainer, Error> {
        let mut child = command(program, setup)
            .spawn()
            .map_err(|error| Error::Start(format!("{}: {error}", program.display())))?;
        let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = streams else {
            return Err(Error::Start("it has no pipe".into()));
        };
        let log_tail = Arc::new(Mutex::new(VecDeque::new()));
        let mut trainer = Trainer {
            child,
            stdin,
            messages: listen(stdout),
            log: tokio::spawn(pass_log_on(stderr, Arc::clone(&log_tail))),
            log_tail,
            hello: Hello { device: String::new(), cohort: CohortSummary::default() },
        };
        let hello = ToTrainer::Hello { version: PIPE_VERSION, setup: setup.clone() };
        let answer = timeout(HELLO_TIMEOUT, async {
            trainer.say(&hello).await?;
            trainer.hear().await
        });
        match answer.await.unwrap_or(Err(Error::Silent))? {
            FromTrainer::Hello { version: PIPE_VERSION, device, cohort } => {
                trainer.hello = Hello { device, cohort };
                Ok(trainer)
            }
            FromTrainer::Hello { version, .. } => Err(Error::Protocol(format!(
                "it speaks version {version} and the agent {PIPE_VERSION}, restart the agent"
            ))),
            FromTrainer::Failed { failure, detail } => Err(Error::Failed { failure, detail }),
            other => Err(Error::Protocol(format!("{other:?} before its hello"))),
        }
    }

    async fn train(
        &mut self,
        assignment: &Assignment,
        cancel: &CancellationToken,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Trained, Error> {
        self.say(&ToTrainer::Train(assignment.clone())).await?;
        loop {
            let heard = tokio::select! {
                biased;
                () = cancel.cancelled() => return self.give_up().await,
                heard = self.hear() => heard?,
            };
            match heard {
                FromTrainer::Progress(done) => progress(done),
                FromTrainer::Trained(trained) => return Ok(trained),
                FromTrainer::Failed { failure, detail } => {
                    return Err(Error::Failed { failure, detail });
                }
                FromTrainer::Hello { .. } => {
                    return Err(Error::Protocol("a second hello".into()));
                }
            }
        }
    }

    /// Has the round in hand given up and waits for the trainer's word on it.
    async fn give_up(&mut self) -> Result<Trained, Error> {
        let answered = timeout(CANCEL_GRACE, async {
            self.say(&ToTrainer::Cancel).await?;
            loop {
                match self.hear().await? {
                    FromTrainer::Progress(_) => {}
                    FromTrainer::Trained(_) | FromTrainer::Failed { .. } => return Ok(()),
                    other => return Err(Error::Protocol(format!("{other:?} in a round"))),
                }
            }
        });
        answered.await.unwrap_or(Err(Error::Silent))?;
        Err(cancelled())
    }

    async fn say(&mut self, message: &ToTrainer) -> Result<(), Error> {
        match pipe::send(&mut self.stdin, message).await {
            Ok(()) => Ok(()),
            Err(pipe::Error::Io(_)) => Err(self.death().await),
            Err(error) => Err(Error::Protocol(error.to_string())),
        }
    }

    async fn hear(&mut self) -> Result<FromTrainer, Error> {
        match self.messages.recv().await {
            Some(Ok(message)) => Ok(message),
            None | Some(Err(pipe::Error::Closed | pipe::Error::Io(_))) => Err(self.death().await),
            Some(Err(error)) => Err(Error::Protocol(error.to_string())),
        }
    }

    /// What a trainer that has closed its pipe died of.
    async fn death(&mut self) -> Error {
        let status = timeout(EXIT_GRACE, self.child.wait()).await;
        let Ok(Ok(status)) = status else {
            return Error::Protocol("it closed its pipe and lives on".into());
        };
        // The last words may still be on their way; a grandchild could hold the stream open.
        let _ = timeout(EXIT_GRACE, &mut self.log).await;
        let mut tail = self.log_tail.lock().unwrap_or_else(PoisonError::into_inner);
        let words = String::from_utf8_lossy(tail.make_contiguous()).into_owned();
        Error::Died(cause_of_death(status, &words))
    }

    async fn end(self, grace: Duration) {
        let Trainer { mut child, stdin, .. } = self;
        drop(stdin);
        if timeout(grace, child.wait()).await.is_err() {
            // It may have ended in this moment; then there is nothing to kill.
            let _ = child.kill().await;
        }
    }
}

fn command(program: &PathBuf, setup: &Setup) -> Command {
    let mut command = Command::new(program);
    command.arg("trainer").env_clear().current_dir(&setup.workspace);
    for name in ENVIRONMENT {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A terminal's Ctrl-C reaches the whole process group; the agent alone decides when to end.
    command.process_group(0).kill_on_drop(true);
    command
}

fn listen(mut stdout: ChildStdout) -> mpsc::Receiver<Result<FromTrainer, pipe::Error>> {
    let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
    tokio::spawn(async move {
        loop {
            let message = pipe::receive(&mut stdout).await;
            let last = message.is_err();
            if sender.send(message).await.is_err() || last {
                return;
            }
        }
    });
    receiver
}

/// Copies the trainer's log to the agent's and keeps its end.
async fn pass_log_on(mut stderr: ChildStderr, tail: Arc<Mutex<VecDeque<u8>>>) {
    let mut buffer = [0; 1 << 10];
    while let Ok(bytes @ 1..) = stderr.read(&mut buffer).await {
        // Blocking like the agent's own log; a log that cannot be written is nothing to die of.
        let _ = std::io::stderr().write_all(&buffer[..bytes]);
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend(&buffer[..bytes]);
        let surplus = tail.len().saturating_sub(LOG_TAIL_BYTES);
        tail.drain(..surplus);
    }
}

fn cause_of_death(status: ExitStatus, last_words: &str) -> Death {
    if status.signal().is_some() && last_words.contains(OUT_OF_MEMORY_WORDS) {
        return Death::OutOfMemory;
    }
    Death::Other(status.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abort_after_a_failed_allocation_is_out_of_memory_and_another_is_not() {
        let abort = ExitStatus::from_raw(6);
        let words = "memory allocation of 4096 bytes failed\n";
        assert_eq!(cause_of_death(abort, words), Death::OutOfMemory);
        assert_ne!(cause_of_death(abort, "stack overflow"), Death::OutOfMemory);
        assert_ne!(cause_of_death(ExitStatus::from_raw(1 << 8), words), Death::OutOfMemory);
        let killed = cause_of_death(ExitStatus::from_raw(9), "").to_string();
        assert!(killed.contains('9'), "{killed}");
    }
}
