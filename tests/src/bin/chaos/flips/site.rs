//! Files of a site's workspace that have lost a bit, read as an agent reads them, and by a real trainer that
//! rehearses and is asked for the last round once more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use fedpaint_proto::budget::Budget;
use fedpaint_proto::names::{Blob, Digest, RunName, SiteName};
use fedpaint_proto::transfer;
use fedpaint_proto::v1;
use fedpaint_proto::v1::federation_service_client::FederationServiceClient;
use fedpaint_site_agent::agent::Stop;
use fedpaint_site_agent::pipe::{Assignment, Failure, Progress, Setup, Trained};
use fedpaint_site_agent::plans::Plans;
use fedpaint_site_agent::settings::{ComputeSettings, RehearsalSettings};
use fedpaint_site_agent::supervisor::{self, Supervisor};
use fedpaint_site_agent::workspace::{
    self, Workspace, blob_of, model_path, remainder_path, update_path,
};
use fedpaint_tests::process::program;
use rand_chacha::ChaCha12Rng;
use tonic::transport::Channel;

use super::{Flip, Found, Tally, files, found};
use crate::federation::{Federation, RUN};

/// How long a step takes of the training that is stopped half-way: so long that it hears in time.
const STEP_MS: u64 = 100;

/// Steps between its checkpoints.
const CHECKPOINT_STEPS: u32 = 2;

/// After which step it is stopped.
const HALF_WAY: u32 = 4;

/// What a trainer says of a file that has lost a bit.
const ROTTEN: &str = "is no longer what it was";

/// Who reads a file of a workspace.
#[derive(Clone, Copy)]
enum Reader {
    /// The trainer, when it is asked for a round.
    Trainer,
    /// The agent, before it downloads a base model.
    Fetch,
    /// The agent, before a round whose updates leave something out.
    Carried,
    /// The agent at its start, and before it believes a base model.
    History,
    /// The agent at its start.
    Head,
    /// Who shows a plan to a human, or approves it.
    Plans,
}

/// The files of a workspace by how their paths begin, who reads them, and what that use is called.
const READERS: &[(&str, &[(&str, Reader)])] = &[
    ("models/", &[("base_model", Reader::Trainer), ("fetched_base_model", Reader::Fetch)]),
    ("updates/", &[("update", Reader::Trainer)]),
    ("trained.json", &[("record", Reader::Trainer)]),
    ("training/", &[("checkpoint", Reader::Trainer)]),
    ("remainders/", &[("remainder", Reader::Trainer), ("carried_remainder", Reader::Carried)]),
    ("remainders.json", &[("book_of_remainders", Reader::Carried)]),
    ("history.json", &[("history", Reader::History)]),
    ("head.json", &[("head", Reader::Head)]),
    ("plans/", &[("plan", Reader::Plans)]),
];

/// Those who read the file at a path in the workspace.
fn readers(path: &Path) -> &'static [(&'static str, Reader)] {
    let path = path.to_string_lossy();
    let known = READERS.iter().find(|(begin, _)| path.starts_with(begin));
    known.map(|(_, readers)| *readers).unwrap_or_default()
}

/// Has each of the first site's files lose a bit, in turn, and be read. The parts of the workspace that nothing
/// reads.
///
/// # Errors
/// If something is not well before a bit is turned.
pub(super) async fn used(
    federation: &Federation,
    count: u32,
    rng: &mut ChaCha12Rng,
    tally: &mut Tally,
) -> anyhow::Result<Vec<String>> {
    let mut site = Site::of(federation).await?;
    let files = site.files();
    for (file, bytes) in files.iter().cycle().take(count as usize) {
        let flip = Flip::of(&site.folder.join(file), *bytes, rng);
        let uses = site.uses(file, &flip).await?;
        tally.note(&flip, uses);
    }
    site.trainer.stop().await;
    Ok(site.unused.into_iter().collect())
}

/// Files by their paths in the workspace.
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A site whose last round is over.
struct Site {
    folder: PathBuf,
    workspace: Workspace,
    channel: Channel,
    /// The last round.
    assignment: Assignment,
    trainer: Supervisor,
    /// What the last round came to.
    trained: Trained,
    /// What its update and the next one's are made with.
    carried: Vec<Digest>,
    /// The workspace after the last round.
    after: Files,
    /// The same half-way through that round.
    half_way: Files,
    unused: BTreeSet<String>,
}

impl Site {
    async fn of(federation: &Federation) -> anyhow::Result<Site> {
        let folder = federation.lab.path(&format!("workspace-{}", federation.sites[0].name));
        // The trainer works in it.
        let folder = fs::canonicalize(folder)?;
        let workspace = Workspace::open(&folder)?;
        let channel = federation.lab.channel("ada").await?;
        let assignment = assignment(federation, &workspace).await?;
        let (after, unused) = read(&folder)?;
        let half_way = half_way(&folder, &assignment, &after).await?;
        lay_out(&folder, &after)?;
        let mut trainer = trainer(&folder, 0, 0)?;
        let Answer { first, told } = ask(&mut trainer, &assignment, None).await;
        anyhow::ensure!(first.is_none(), "the last round is trained again before a bit is turned");
        let (trained, carried) = (told?, carried(&workspace, &assignment)?);
        let mut site = Site {
            folder,
            workspace,
            channel,
            assignment,
            trainer,
            trained,
            carried,
            after,
            half_way,
            unused,
        };
        site.must_be_well().await?;
        Ok(site)
    }

    /// Finding a turned bit means something only where all is well without one.
    async fn must_be_well(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(self.workspace.head()?.is_some(), "the site believes no head");
        anyhow::ensure!(!self.workspace.history()?.is_empty(), "the site has no history");
        anyhow::ensure!(!self.carried.is_empty(), "the site's updates leave nothing out");
        anyhow::ensure!(!Plans::of(&self.folder).list()?.is_empty(), "the site was shown no plan");
        lay_out(&self.folder, &self.half_way)?;
        let Answer { first, told } = ask(&mut self.trainer, &self.assignment, None).await;
        let goes_on = first.is_some_and(|first| first > 1);
        anyhow::ensure!(goes_on, "the training does not go on from its checkpoint: {first:?}");
        anyhow::ensure!(self.is_right(&told?)?, "the training goes on to another update");
        Ok(())
    }

    /// Every file that somebody reads, and how long it is.
    fn files(&self) -> Vec<(PathBuf, u64)> {
        let checkpoints = self.half_way.iter().filter(|(path, _)| path.starts_with("training"));
        let files = self.after.iter().chain(checkpoints);
        files.map(|(path, bytes)| (path.clone(), bytes.len() as u64)).collect()
    }

    /// Has a file be read that has lost a bit, by all who read it. What came of it.
    async fn uses(
        &mut self,
        file: &Path,
        flip: &Flip,
    ) -> anyhow::Result<Vec<(&'static str, Found)>> {
        let mut uses = Vec::new();
        for (name, reader) in readers(file) {
            lay_out(&self.folder, self.before(file))?;
            flip.turn()?;
            if let Some(found) = self.read_by(*reader, file).await? {
                uses.push((*name, found));
            }
        }
        lay_out(&self.folder, &self.after)?;
        Ok(uses)
    }

    /// What the workspace holds when the file is needed.
    fn before(&self, file: &Path) -> &Files {
        let remainder = self.assignment.remainder;
        let is_made_with =
            remainder.is_some_and(|remainder| digest_of(file) == Some(remainder.digest));
        // Neither is needed any more once the update is made.
        match is_made_with || file.starts_with("training") {
            true => &self.half_way,
            false => &self.after,
        }
    }

    /// What a reader makes of the file; nothing where it does not need this one.
    async fn read_by(&mut self, reader: Reader, file: &Path) -> anyhow::Result<Option<Found>> {
        let is_damaged = |told: Option<workspace::Error>| match told {
            Some(workspace::Error::Damaged { .. }) => Ok(()),
            Some(error) => Err(error.to_string()),
            None => Err("it was believed".to_owned()),
        };
        Ok(Some(match reader {
            Reader::Trainer if self.is_of_another_round(file) => return Ok(None),
            Reader::Trainer => self.train().await?,
            Reader::Fetch => self.fetch().await?,
            Reader::Carried => return self.carry(file),
            Reader::History => is_damaged(self.workspace.history().err()),
            Reader::Head => is_damaged(self.workspace.head().err()),
            Reader::Plans => {
                let shown = Plans::of(&self.folder).list()?;
                let is_shown = shown.iter().any(|(digest, _)| digest_of(file) == Some(*digest));
                found(!is_shown, || "it was shown".to_owned())
            }
        }))
    }

    /// Whether it holds what an update left out that neither is the last round's own nor what that is made with: a
    /// trainer that is asked for the last round does not read it.
    fn is_of_another_round(&self, file: &Path) -> bool {
        let of_this = [self.assignment.remainder, self.trained.remainder];
        file.starts_with("remainders")
            && !of_this.into_iter().flatten().any(|blob| digest_of(file) == Some(blob.digest))
    }

    /// Asks the trainer for the last round: it says that a file is damaged, or begins at the first step, as if there
    /// were none, and comes to the same files.
    async fn train(&mut self) -> anyhow::Result<Found> {
        let Answer { first, told } = ask(&mut self.trainer, &self.assignment, None).await;
        let is_found = match &told {
            Err(supervisor::Error::Failed { failure: Failure::Disk, detail }) => {
                detail.contains(ROTTEN)
            }
            Err(_) => false,
            Ok(trained) => first == Some(1) && self.is_right(trained)?,
        };
        Ok(found(is_found, || format!("training began at step {first:?}: {told:?}")))
    }

    /// Whether the trainer came to what it came to before, and the files say so.
    fn is_right(&self, trained: &Trained) -> anyhow::Result<bool> {
        let Trained { update, examples, remainder, .. } = *trained;
        let is_same = (update, examples, remainder)
            == (self.trained.update, self.trained.examples, self.trained.remainder);
        let left = remainder.map(|left| blob_of(&remainder_path(&self.folder, left.digest)));
        let left = left.transpose()?.flatten();
        let made = blob_of(&update_path(&self.folder, update.digest))?;
        Ok(is_same && made == Some(update) && left == remainder)
    }

    /// Fetches the base model, as an agent does that may have it.
    async fn fetch(&self) -> anyhow::Result<Found> {
        let (base, budget) = (self.assignment.base, Budget::default());
        let path = model_path(&self.folder, base.digest);
        let told = transfer::fetch(&self.channel, base, &path, &budget, &mut |_, _| ()).await;
        let is_right = blob_of(&path)? == Some(base);
        Ok(found(told.is_ok() && is_right, || format!("the model is not fetched anew: {told:?}")))
    }

    /// What updates are made with while the book of remainders, or one of them, has lost a bit.
    fn carry(&self, file: &Path) -> anyhow::Result<Option<Found>> {
        let carried = carried(&self.workspace, &self.assignment)?;
        let is_found = match digest_of(file) {
            None => carried.is_empty(),
            Some(digest) if self.carried.contains(&digest) => !carried.contains(&digest),
            // It is of an update that was not accepted yet.
            Some(_) => return Ok(None),
        };
        Ok(Some(found(is_found, || "it was carried on".to_owned())))
    }
}

/// The digest by which a file is called, if it is called by one.
fn digest_of(file: &Path) -> Option<Digest> {
    file.file_stem()?.to_str()?.parse().ok()
}

/// The last round that the first site was given.
async fn assignment(federation: &Federation, workspace: &Workspace) -> anyhow::Result<Assignment> {
    let evidence = federation.evidence().await?;
    let last = evidence.committed().pop().context("a committed round")?;
    let number = last.r#ref.as_ref().context("a round")?.number;
    let base = Blob::try_from(last.base_model.as_ref().context("a base model")?)?;
    let site = &federation.sites[0].name;
    let mut client = FederationServiceClient::new(federation.lab.channel(site).await?);
    let plan = client.get_run_plan(v1::GetRunPlanRequest { run: RUN.into() }).await?;
    let plan_toml = plan.into_inner().plan_toml;
    let (run, site): (RunName, SiteName) = (RUN.parse()?, site.parse()?);
    let remainder = workspace.carried(&run, number, Digest::of(plan_toml.as_bytes()))?;
    Ok(Assignment { run, number, site, plan_toml, base, remainder })
}

/// What the update of the assignment, and the one after it, are made with.
fn carried(workspace: &Workspace, assignment: &Assignment) -> anyhow::Result<Vec<Digest>> {
    let Assignment { run, number, plan_toml, .. } = assignment;
    let plan = Digest::of(plan_toml.as_bytes());
    let mut carried = Vec::new();
    for number in [*number, *number + 1] {
        carried.extend(workspace.carried(run, number, plan)?.map(|blob| blob.digest));
    }
    Ok(carried)
}

/// What the workspace holds when the training of the assignment was stopped after some steps.
async fn half_way(folder: &Path, assignment: &Assignment, after: &Files) -> anyhow::Result<Files> {
    let mut before = after.clone();
    before.retain(|path, _| !path.starts_with("updates") && *path != Path::new("trained.json"));
    lay_out(folder, &before)?;
    let mut trainer = trainer(folder, STEP_MS, CHECKPOINT_STEPS)?;
    let Answer { told, .. } = ask(&mut trainer, assignment, Some(HALF_WAY)).await;
    trainer.stop().await;
    anyhow::ensure!(told.is_err(), "the training was over before it was stopped");
    let (files, _) = read(folder)?;
    let has_checkpoint = files.keys().any(|path| path.starts_with("training"));
    anyhow::ensure!(has_checkpoint, "the training that was stopped has no checkpoint: {told:?}");
    Ok(files)
}

/// A trainer of the workspace that rehearses.
fn trainer(folder: &Path, steps_ms: u64, checkpoint_steps: u32) -> anyhow::Result<Supervisor> {
    let checkpoint_steps = Some(checkpoint_steps);
    let rehearsal = Some(RehearsalSettings { steps_ms, checkpoint_steps, weights_max: None });
    let (data, compute) = (toml::from_str("path = \"no-scans\"")?, ComputeSettings::default());
    let setup = Setup { workspace: folder.to_owned(), data, compute, rehearsal };
    Ok(Supervisor::new(program("fedpaint-site-agent")?, setup))
}

/// How a trainer answers: the first step that it did, and what it came to.
struct Answer {
    first: Option<u32>,
    told: Result<Trained, supervisor::Error>,
}

/// Asks a trainer for a round, and stops it after a step where that is wanted.
async fn ask(trainer: &mut Supervisor, assignment: &Assignment, until: Option<u32>) -> Answer {
    let (stop, mut first) = (Stop::default(), None);
    let mut progress = |done: Progress| {
        first.get_or_insert(done.step);
        if until == Some(done.step) {
            stop.now.cancel();
        }
    };
    let told = trainer.train(assignment, &stop.now, &mut progress).await;
    Answer { first, told }
}

/// What the workspace holds that somebody reads, and the parts that nobody does. What is empty holds nothing.
fn read(folder: &Path) -> anyhow::Result<(Files, BTreeSet<String>)> {
    let (mut held, mut unused) = (Files::new(), BTreeSet::new());
    for file in files(folder)? {
        let (path, bytes) = (file.strip_prefix(folder)?.to_owned(), fs::read(&file)?);
        if bytes.is_empty() {
            continue;
        }
        if readers(&path).is_empty() {
            let part = path.components().next().context("a path")?;
            unused.insert(part.as_os_str().to_string_lossy().into_owned());
        } else {
            held.insert(path, bytes);
        }
    }
    Ok((held, unused))
}

/// Makes the workspace hold these files, and no others that a round changes.
fn lay_out(folder: &Path, files: &Files) -> anyhow::Result<()> {
    for sub in ["models", "updates", "training", "remainders"] {
        for entry in fs::read_dir(folder.join(sub))? {
            fs::remove_file(entry?.path())?;
        }
    }
    // Half-way there is none.
    let _ = fs::remove_file(folder.join("trained.json"));
    for (path, bytes) in files {
        fs::write(folder.join(path), bytes)?;
    }
    Ok(())
}
