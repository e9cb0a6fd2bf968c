//! Rounds in which a bit turns at the worst moment, of two sites of our own and a real coordinator: in an update on
//! its way, in one that is about to be submitted, in one that was taken, and in the base model. None is averaged.

use std::path::{Path, PathBuf};

use anyhow::Context;
use fedpaint_proto::names::{Blob, Digest};
use fedpaint_proto::reason::Reason;
use fedpaint_proto::v1;
use fedpaint_tests::fake_site::FakeSite;
use fedpaint_tests::lab::Lab;
use fedpaint_tests::models;
use rand_chacha::ChaCha12Rng;
use tokio::time::timeout;
use tonic::Status;

use super::{Flip, Found, Tally, found, fsck};
use crate::disk::STUCK;
use crate::federation::RUN;

/// How many examples each update says that it has seen.
const EXAMPLES: u64 = 8;

/// Has a bit turn in each of so many rounds.
///
/// # Errors
/// If the coordinator does not go on.
pub(super) async fn used(
    folder: &Path,
    count: u32,
    rng: &mut ChaCha12Rng,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let mut rounds = Rounds::open(folder, count).await?;
    for turn in 0..count {
        let victim = Victim::ALL[turn as usize % Victim::ALL.len()];
        let (flip, found) = rounds.disturbed(victim, turn, rng).await?;
        tally.note(&flip, vec![(victim.name(), found)]);
    }
    rounds.undisturbed(count).await
}

/// What loses a bit.
#[derive(Clone, Copy)]
enum Victim {
    /// An update at its site, before it is uploaded.
    Sent,
    /// One that was uploaded, before it is submitted.
    Submitted,
    /// One that was accepted, before it is averaged.
    Averaged,
    /// The base model, before the last update is held against it and averaged with the others.
    Base,
}

impl Victim {
    const ALL: [Victim; 4] = [Victim::Sent, Victim::Submitted, Victim::Averaged, Victim::Base];

    fn name(self) -> &'static str {
        match self {
            Victim::Sent => "upload",
            Victim::Submitted => "submission",
            Victim::Averaged => "average_of_update",
            Victim::Base => "average_of_base_model",
        }
    }
}

/// An update in its file.
struct Made {
    blob: Blob,
    file: PathBuf,
}

/// A coordinator with two sites.
struct Rounds {
    lab: Lab,
    folder: PathBuf,
    alpha: FakeSite,
    beta: FakeSite,
    /// The round that selects.
    round: v1::RoundRef,
}

impl Rounds {
    /// Begins a run with a round for each of so many flips, and one more.
    async fn open(folder: &Path, flips: u32) -> anyhow::Result<Rounds> {
        let lab = Lab::start(folder)?;
        let file = folder.join("initial.safetensors");
        let model = models::write(&file, models::specs(), |t, i| (t * 100 + i) as f32)?;
        let plan = format!(
            "version = 1\nrounds = {}\n\n[round]\nsites_min = 2\nsites_goal = 2\nselection_s = 3600\n\
             reporting_s = 3600\nfailures_max = 1000\n",
            flips + 2
        );
        lab.create_run(RUN, &plan, &file, model).await?;
        let alpha = FakeSite::enroll(&lab, "alpha").await?;
        let beta = FakeSite::enroll(&lab, "beta").await?;
        let round = opened(&lab, None).await?;
        Ok(Rounds { lab, folder: folder.to_owned(), alpha, beta, round })
    }

    /// A round in which a bit of the victim turns, and what came of it.
    async fn disturbed(
        &mut self,
        victim: Victim,
        turn: u32,
        rng: &mut ChaCha12Rng,
    ) -> anyhow::Result<(Flip, Found)> {
        let base = self.join().await?;
        let (alpha, beta) = (self.made("alpha", turn)?, self.made("beta", turn)?);
        let (file, bytes) = match victim {
            Victim::Sent => (alpha.file.clone(), alpha.blob.size),
            Victim::Submitted => (self.kept(&beta.blob), beta.blob.size),
            Victim::Averaged => (self.kept(&alpha.blob), alpha.blob.size),
            Victim::Base => (self.kept(&base), base.size),
        };
        let flip = Flip::of(&file, bytes, rng);
        if matches!(victim, Victim::Sent) {
            let found = self.sent(&alpha, &flip).await?;
            self.report(base.digest, &alpha, &beta).await?;
            self.submit(base.digest, &beta).await?;
            self.go_on().await?;
            return Ok((flip, found));
        }
        self.report(base.digest, &alpha, &beta).await?;
        let found = self.sealed(base.digest, &beta, &flip).await?;
        Ok((flip, found))
    }

    /// A round that nobody disturbs is made in the end, and nothing is damaged.
    async fn undisturbed(mut self, turn: u32) -> anyhow::Result<()> {
        let base = self.join().await?;
        let (alpha, beta) = (self.made("alpha", turn)?, self.made("beta", turn)?);
        self.report(base.digest, &alpha, &beta).await?;
        self.submit(base.digest, &beta).await?;
        let before = self.round.number;
        self.go_on().await?;
        anyhow::ensure!(self.round.number == before + 1, "an undisturbed round was not made");
        let (well, said) = fsck(&self.lab.path("coordinator.toml"))?;
        anyhow::ensure!(well, "after all flipped bits were turned back: {said}");
        self.lab.coordinator()?.stop()?;
        Ok(())
    }

    /// Both sites join; the model that they train.
    async fn join(&mut self) -> anyhow::Result<Blob> {
        self.alpha.join().await?;
        self.beta.join().await?;
        let base = self.alpha.task().await?.base_model.context("a base model")?;
        Ok(Blob::try_from(&base)?)
    }

    /// An update that no other site or turn has.
    fn made(&self, name: &str, turn: u32) -> anyhow::Result<Made> {
        let file = self.folder.join(format!("update-{name}-{turn}"));
        let value = turn as f32 + 1.0 / name.len() as f32;
        let blob = models::write(&file, models::specs(), |t, i| value + (t + i) as f32)?;
        Ok(Made { blob, file })
    }

    /// Where the coordinator keeps a blob.
    fn kept(&self, blob: &Blob) -> PathBuf {
        let digest = blob.digest.to_string();
        let blobs = PathBuf::from(self.lab.path("coordinator/blobs"));
        blobs.join(&digest[..2]).join(digest)
    }

    /// Uploads a file that has lost a bit.
    async fn sent(&self, update: &Made, flip: &Flip) -> anyhow::Result<Found> {
        flip.turn()?;
        let told = self.alpha.upload(&self.round, update.blob, &update.file).await;
        flip.turn()?;
        Ok(match told {
            Ok(()) => Err("it was taken".into()),
            Err(error) => found(error.reason() == Some(Reason::WrongDigest), || error.to_string()),
        })
    }

    /// Has one update be accepted, and the other be uploaded.
    async fn report(&mut self, base: Digest, alpha: &Made, beta: &Made) -> anyhow::Result<()> {
        self.alpha.upload(&self.round, alpha.blob, &alpha.file).await?;
        self.alpha.submit(&self.round, base, alpha.blob, EXAMPLES).await?;
        self.beta.upload(&self.round, beta.blob, &beta.file).await?;
        Ok(())
    }

    /// Submits the last update of the round, which then is averaged.
    async fn submit(&mut self, base: Digest, update: &Made) -> Result<(), Status> {
        self.beta.submit(&self.round, base, update.blob, EXAMPLES).await.map(drop)
    }

    /// Submits the last update beside a turned bit. Either it is refused, as long as the bit is turned, because a
    /// file has changed; or the round is given up because of that.
    async fn sealed(&mut self, base: Digest, last: &Made, flip: &Flip) -> anyhow::Result<Found> {
        flip.turn()?;
        let submitted = self.submit(base, last).await;
        let Err(status) = submitted else {
            let found = self.given_up(flip).await?;
            flip.turn_back()?;
            return Ok(found);
        };
        let is_set_aside = flip.aside().exists();
        flip.turn_back()?;
        self.submit(base, last).await?;
        self.go_on().await?;
        let reason = Reason::of(&status);
        let is_told = matches!(reason, Some(Reason::BlobUnknown | Reason::BlobRotten));
        Ok(found(is_told && is_set_aside, || format!("the update was refused: {status}")))
    }

    /// Whether the round is given up because of the turned bit, and not made.
    async fn given_up(&mut self, flip: &Flip) -> anyhow::Result<Found> {
        let sealed = self.round.clone();
        self.go_on().await?;
        let over = self.over(&sealed).await?;
        let is_given_up = over.phase() == v1::RoundPhase::Abandoned
            && over.reason.contains("cannot be used")
            && self.round.number == sealed.number;
        Ok(found(is_given_up && flip.aside().exists(), || {
            format!("the round is {:?}: {}", over.phase(), over.reason)
        }))
    }

    /// Waits for the next round, or the next attempt at this one.
    async fn go_on(&mut self) -> anyhow::Result<()> {
        self.round = opened(&self.lab, Some(&self.round)).await?;
        Ok(())
    }

    /// A round as it has ended.
    async fn over(&self, round: &v1::RoundRef) -> anyhow::Result<v1::Round> {
        let request = v1::ListRoundsRequest {
            run: RUN.into(),
            before_number: round.number,
            before_attempt: round.attempt + 1,
            limit: 1,
        };
        let listed = self.lab.operator().await?.list_rounds(request).await?;
        let over = listed.into_inner().rounds.pop();
        over.filter(|over| over.r#ref.as_ref() == Some(round)).context("the round that is over")
    }
}

/// Waits until another round than `last` selects.
async fn opened(lab: &Lab, last: Option<&v1::RoundRef>) -> anyhow::Result<v1::RoundRef> {
    let is_next = |_: &v1::Run, round: &v1::Round| {
        round.phase() == v1::RoundPhase::Selecting && round.r#ref.as_ref() != last
    };
    let next = timeout(STUCK, lab.watch(RUN, is_next)).await.context("no round is opened")?;
    next?.1.r#ref.context("a round")
}
