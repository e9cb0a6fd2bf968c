//! Rounds of the ten sites in which two may be bad, each ended by the coordinator's own check and arithmetic.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use fedpaint_coordinator::aggregate::Aggregate;
use fedpaint_coordinator::check::check_update;
use fedpaint_coordinator::fedavg::{self, Contribution, Job, Quarantine};
use fedpaint_proto::names::Digest;
use fedpaint_proto::plan::{AggregationPlan, ExchangePlan};
use fedpaint_site_agent::local_round;
use fedpaint_site_agent::pipe::Failure;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::super::attack::{Attack, Known};
use super::{BAD, Federation, training};

/// The fewest updates that a quarantine leaves.
const UPDATES_MIN: u32 = 5;

/// What an arm has come to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ended {
    /// On the held-out patients of all sites; infinite where the training broke down.
    pub(crate) loss: f64,
    /// Updates of honest sites, and how many of them were told to be unlike the others.
    pub(crate) honest: u32,
    pub(crate) honest_told: u32,
    /// The same of bad ones.
    pub(crate) bad: u32,
    pub(crate) bad_told: u32,
    /// How many the coordinator's check refused.
    pub(crate) refused: u32,
}

impl Federation {
    /// Runs so many rounds in which the bad sites do as `attack` says. Where a number that is not finite ends
    /// it, there is no model, and its loss is infinite.
    pub(crate) fn run(
        &self,
        plan: &AggregationPlan,
        attack: Option<Attack>,
        rounds: usize,
        seed: u64,
    ) -> anyhow::Result<Ended> {
        let folder = tempfile::tempdir_in(&self.work)?;
        let mut run = Run {
            federation: self,
            plan,
            attack,
            rng: ChaCha8Rng::seed_from_u64(seed),
            first: BTreeMap::new(),
            sent: BTreeSet::new(),
            ended: Ended::default(),
            folder: folder.path(),
        };
        let mut base = self.initial.clone();
        for number in 1..=u32::try_from(rounds)? {
            match run.round(&base, number) {
                Ok(made) => base = made,
                Err(error) if is_breakdown(&error) => {
                    return Ok(Ended { loss: f64::INFINITY, ..run.ended });
                }
                Err(error) => return Err(error.context(format!("round {number}"))),
            }
        }
        match self.loss(&base) {
            Ok(loss) => Ok(Ended { loss, ..run.ended }),
            Err(error) if is_breakdown(&error) => Ok(Ended { loss: f64::INFINITY, ..run.ended }),
            Err(error) => Err(error),
        }
    }
}

/// An arm under way.
struct Run<'a> {
    federation: &'a Federation,
    plan: &'a AggregationPlan,
    attack: Option<Attack>,
    rng: ChaCha8Rng,
    /// What each bad site sent in the first round.
    first: BTreeMap<usize, Vec<f32>>,
    /// The files of earlier rounds.
    sent: BTreeSet<Digest>,
    ended: Ended,
    folder: &'a Path,
}

impl Run<'_> {
    /// One round; the model that it ends with.
    fn round(&mut self, base: &Path, number: u32) -> anyhow::Result<PathBuf> {
        let plan = training();
        let examples = u64::from(plan.steps) * u64::from(plan.batch);
        let (mut contributions, mut files) = (Vec::new(), Vec::new());
        for (at, update) in self.updates(base, number)? {
            let weights = self.folder.join(format!("update-{at}"));
            let file = self.federation.form.write(&weights, &update)?.digest;
            if check_update(&weights, base, ExchangePlan::default()).is_err() {
                self.ended.refused += 1;
                continue;
            }
            let claimed = self.attack.filter(|_| BAD.contains(&at));
            let examples = claimed.map_or(examples, |attack| attack.examples(examples));
            let site = self.federation.sites[at].name.clone();
            let (stale, resent) = (None, self.sent.contains(&file));
            contributions.push(Contribution { site, weights, examples, stale, resent });
            files.push(file);
        }
        self.sent.extend(files);
        let job = Job {
            plan: self.plan.clone(),
            committed: number - 1,
            previous: Aggregate::of(base.to_owned()),
            contributions,
            quarantine: Quarantine::of(self.plan, UPDATES_MIN, [].into()),
        };
        let out = self.folder.join(format!("model-{number}"));
        let made = fedavg::aggregate(&job, &out)?;
        for standing in &made.standings {
            let sites = &self.federation.sites;
            let is_bad =
                self.attack.is_some() && BAD.iter().any(|bad| sites[*bad].name == standing.site);
            let told = u32::from(standing.outlier.is_some());
            let Ended { honest, honest_told, bad, bad_told, .. } = &mut self.ended;
            let (count, of_them) = if is_bad { (bad, bad_told) } else { (honest, honest_told) };
            *count += 1;
            *of_them += told;
        }
        Ok(out)
    }

    /// What every site sends, by its place.
    fn updates(&mut self, base: &Path, number: u32) -> anyhow::Result<Vec<(usize, Vec<f32>)>> {
        let all: Vec<usize> = (0..self.federation.len()).collect();
        let Some(attack) = self.attack else {
            let updates = self.federation.trained(base, number, &all)?;
            return Ok(all.into_iter().zip(updates).collect());
        };
        let good: Vec<usize> = all.into_iter().filter(|at| !BAD.contains(at)).collect();
        let honest = self.federation.trained(base, number, &good)?;
        let mut updates = Vec::new();
        if attack.sends() {
            let from: &Path = match attack {
                Attack::WrongBase => &self.federation.other,
                _ => base,
            };
            let own = self.federation.trained(from, number, &BAD)?;
            let values = self.federation.form.read(base)?;
            for (at, own) in BAD.into_iter().zip(own) {
                let first = self.first.entry(at).or_insert_with(|| own.clone());
                let known = Known { base: &values, own: &own, first, honest: &honest };
                updates.push((at, attack.update(known, &mut self.rng)));
            }
        }
        updates.extend(good.into_iter().zip(honest));
        Ok(updates)
    }
}

/// Whether a training or an average has come to what is no finite number.
fn is_breakdown(error: &anyhow::Error) -> bool {
    let training = error.downcast_ref::<local_round::Error>();
    let average = error.downcast_ref::<fedavg::Error>();
    training.is_some_and(|error| error.failure() == Failure::NotFinite)
        || average.is_some_and(|error| matches!(error, fedavg::Error::NotFinite { .. }))
}
