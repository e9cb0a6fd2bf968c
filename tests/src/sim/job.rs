//! A site's round in hand, as a model of the real agent's job: base model, training with checkpoints,
//! upload from where it broke off, submission. Every step may be made again.

use std::time::Duration;

use fedpaint_coordinator::driver::core::Submission;
use fedpaint_coordinator::round::Report;
use fedpaint_proto::limits::{CALL_TIMEOUT, TRANSFER_STALL_TIMEOUT};
use fedpaint_proto::names::{Blob, Digest, RoundId};
use fedpaint_proto::reason::Reason;
use fedpaint_proto::v1::WithdrawalReason;
use fedpaint_site_agent::backoff;
use fedpaint_site_agent::client::Activity;
use fedpaint_site_agent::pipe::Progress;

use super::network::{Ask, Failed, Heard};
use super::site::{Site, Trained};
use super::world::{Event, World};

/// The steps of a round's training; each ends with a checkpoint.
const STEPS: u64 = 4;

/// How long a step takes, in milliseconds, at the fastest site and more at every other.
const STEP_MS: (u64, u64) = (2_500, 1_200);

/// Bytes of an update, and of a piece of it.
const BYTES: (usize, usize) = (256, 64);

/// How long the coordinator may take to read an update.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(300);

/// The wait before a call that failed is made again, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// How often a call is made again before the round is given up.
const ATTEMPTS_MAX: u32 = 30;

/// The round in hand.
#[derive(Debug)]
pub(super) struct Job {
    id: u64,
    round: RoundId,
    base: Blob,
    stage: Stage,
    /// The call that waits for its answer.
    pub(super) call: Option<u64>,
    /// Calls that failed in a row.
    failures: u32,
    /// Whether bytes came that were not those of their digest.
    wrong_bytes: bool,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The base model is to be fetched.
    Prepare,
    /// So many steps are done.
    Train(u64),
    /// The coordinator is to be asked how much it has.
    Status,
    /// The next piece begins there.
    Piece(u64),
    /// The update is there and to be named.
    Submit,
}

impl Site {
    fn job(&mut self) -> Option<&mut Job> {
        self.process.as_mut()?.job.as_mut()
    }

    /// The update of the round in hand, if it was trained before and is unharmed.
    fn recall(&self, number: u32, base: &Digest) -> Option<&Trained> {
        let trained = self.workspace.trained.as_ref()?;
        let same = trained.number == number && trained.base == *base;
        (same && Digest::of(&trained.bytes) == trained.blob.digest).then_some(trained)
    }

    /// What a training comes to: it follows from run, round, site and base.
    fn train(&self, round: &RoundId, base: &Digest) -> Trained {
        let (name, number) = (&self.name, round.number);
        let mut bytes = format!("update {} {number} {name} {base} ", round.run).into_bytes();
        bytes.resize(BYTES.0, b'.');
        let blob = Blob { digest: Digest::of(&bytes), size: bytes.len() as u64 };
        Trained { number, base: *base, blob, bytes }
    }
}

impl World {
    /// Takes a round in hand.
    pub(super) fn begin(&mut self, site: usize, round: RoundId, base: Blob) {
        let id = self.number();
        if let Some(agent) = &mut self.sites[site].process {
            agent.activity = Activity::Training(round.clone(), Progress::default());
            let (stage, call, failures) = (Stage::Prepare, None, 0);
            agent.job = Some(Job { id, round, base, stage, call, failures, wrong_bytes: false });
        }
        self.go_on(site);
    }

    /// A step of the training is done, or a call is to be made again.
    pub(super) fn job_due(&mut self, site: usize, job: u64) {
        let held = &mut self.sites[site];
        let Some(found) = held.job().filter(|found| found.id == job) else { return };
        if let Stage::Train(done) = found.stage {
            found.stage = Stage::Train(done + 1);
            let (round, base) = (found.round.clone(), found.base.digest);
            if !held.workspace.full {
                held.workspace.checkpoint = Some((round.number, base, done + 1));
            }
            if let Some(agent) = &mut held.process {
                let progress = Progress { step: done as u32 + 1, steps: STEPS as u32, loss: None };
                agent.activity = Activity::Training(round, progress);
            }
        }
        self.go_on(site);
    }

    /// Does what is next.
    fn go_on(&mut self, site: usize) {
        let held = &mut self.sites[site];
        let Some(job) = held.job() else { return };
        let (id, round, base, stage) = (job.id, job.round.clone(), job.base, job.stage);
        match stage {
            Stage::Prepare => self.prepare(site, &round, &base),
            Stage::Train(done) if done >= STEPS => {
                if held.workspace.full {
                    return self.withdraw(site, WithdrawalReason::Disk);
                }
                held.workspace.trained = Some(held.train(&round, &base.digest));
                self.upload(site, round);
            }
            Stage::Train(_) => {
                let step = (STEP_MS.0 + STEP_MS.1 * site as u64) * held.slow;
                self.after(Duration::from_millis(step), Event::JobDue { site, job: id });
            }
            Stage::Status => {
                let trained = held.workspace.trained.as_ref();
                let Some(blob) = trained.map(|trained| trained.blob) else { return };
                self.job_asks(site, Ask::Status(blob), CALL_TIMEOUT);
            }
            Stage::Piece(offset) => {
                let Some(trained) = &held.workspace.trained else { return };
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(trained.bytes.len());
                let end = (start + BYTES.1).min(trained.bytes.len());
                let (blob, bytes) = (trained.blob, trained.bytes[start..end].to_vec());
                let ask = Ask::Piece { round, blob, offset, bytes };
                self.job_asks(site, ask, TRANSFER_STALL_TIMEOUT);
            }
            Stage::Submit => {
                let trained = held.workspace.trained.as_ref();
                let Some(weights) = trained.map(|trained| trained.blob) else { return };
                let examples = 10 + site as u64;
                let (base, report) = (base.digest, Report::default());
                let submission =
                    Submission { round, base, weights, examples, report, signature: None };
                self.job_asks(site, Ask::Submit(submission), SUBMIT_TIMEOUT);
            }
        }
    }

    /// Fetches the base model if it is not there, and trains what was not trained before.
    fn prepare(&mut self, site: usize, round: &RoundId, base: &Blob) {
        let held = &mut self.sites[site];
        let there =
            held.workspace.model.as_ref().is_some_and(|(digest, bytes)| {
                *digest == base.digest && Digest::of(bytes) == *digest
            });
        if !there {
            return self.job_asks(site, Ask::Base(base.digest), TRANSFER_STALL_TIMEOUT);
        }
        if held.recall(round.number, &base.digest).is_some() {
            return self.upload(site, round.clone());
        }
        let done = match held.workspace.checkpoint {
            Some((number, from, done)) if number == round.number && from == base.digest => done,
            _ => 0,
        };
        if let Some(job) = held.job() {
            job.stage = Stage::Train(done);
        }
        self.go_on(site);
    }

    fn upload(&mut self, site: usize, round: RoundId) {
        if let Some(agent) = &mut self.sites[site].process {
            agent.activity = Activity::Uploading(round);
        }
        self.next(site, Stage::Status);
    }

    fn next(&mut self, site: usize, stage: Stage) {
        if let Some(job) = self.sites[site].job() {
            job.stage = stage;
            job.failures = 0;
        }
        self.go_on(site);
    }

    fn job_asks(&mut self, site: usize, ask: Ask, timeout: Duration) {
        let call = self.ask(site, ask, timeout);
        if let Some(job) = self.sites[site].job() {
            job.call = Some(call);
        }
    }

    /// The answer to the job's call.
    pub(super) fn heard_of_job(&mut self, site: usize, answer: Result<Heard, Failed>) {
        let held = &mut self.sites[site];
        let Some(job) = held.job() else { return };
        let (stage, base) = (job.stage, job.base);
        match (stage, answer) {
            (Stage::Prepare, Ok(Heard::Bytes(bytes))) => {
                if held.workspace.full {
                    self.withdraw(site, WithdrawalReason::Disk);
                } else if Digest::of(&bytes) == base.digest {
                    held.workspace.model = Some((base.digest, bytes));
                    self.next(site, Stage::Prepare);
                } else {
                    self.wrong_bytes(site, WithdrawalReason::Internal);
                }
            }
            (Stage::Status | Stage::Piece(_), Ok(Heard::Committed(committed, complete))) => {
                self.next(site, if complete { Stage::Submit } else { Stage::Piece(committed) });
            }
            (Stage::Submit, Ok(_)) => self.done(site),
            // What the coordinator had may be torn by a crash: one whole upload more is worth it.
            (Stage::Piece(_), Err(Failed::Refused(Reason::WrongDigest))) => {
                self.wrong_bytes(site, WithdrawalReason::UpdateRefused);
            }
            (_, Err(failed)) if failed.is_transient() => self.again(site),
            (Stage::Status | Stage::Piece(_) | Stage::Submit, Err(Failed::Refused(reason)))
                if reason.is_about_the_bytes() =>
            {
                // The same bytes would be refused again.
                held.workspace.trained = None;
                held.workspace.checkpoint = None;
                self.withdraw(site, WithdrawalReason::UpdateRefused);
            }
            _ => self.withdraw(site, WithdrawalReason::Internal),
        }
    }

    /// Other bytes arrived than those of the digest: once more, and only once.
    fn wrong_bytes(&mut self, site: usize, why: WithdrawalReason) {
        let Some(job) = self.sites[site].job() else { return };
        if std::mem::replace(&mut job.wrong_bytes, true) {
            self.withdraw(site, why);
        } else {
            self.again(site);
        }
    }

    /// Makes the call again after a while; an upload asks first how much is there.
    fn again(&mut self, site: usize) {
        let Site { name, process, .. } = &mut self.sites[site];
        let Some(job) = process.as_mut().and_then(|agent| agent.job.as_mut()) else { return };
        if job.failures == ATTEMPTS_MAX {
            return self.withdraw(site, WithdrawalReason::Internal);
        }
        let wait = backoff::delay(job.failures, RETRY.0, RETRY.1, name.as_str());
        job.failures += 1;
        if let Stage::Piece(_) = job.stage {
            job.stage = Stage::Status;
        }
        let job = job.id;
        self.after(wait, Event::JobDue { site, job });
    }

    fn withdraw(&mut self, site: usize, why: WithdrawalReason) {
        let Some(agent) = &mut self.sites[site].process else { return };
        let Some(job) = agent.job.take() else { return };
        agent.activity = Activity::Withdrawing(job.round, why);
        self.hurry(site);
    }

    fn done(&mut self, site: usize) {
        if let Some(agent) = &mut self.sites[site].process {
            agent.job = None;
            agent.activity = Activity::Idle;
            self.hurry(site);
        }
    }
}
