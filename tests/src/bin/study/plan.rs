//! What a study compares: cohorts, one model, and the arms, from TOML. It starts nothing and reads no
//! scan.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use fedpaint_proto::names::SiteName;
use fedpaint_proto::plan::{PLAN_VERSION, RunPlan};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// The format that this version reads.
const VERSION: u32 = 1;

/// Bytes of a study's plan.
pub(crate) const BYTES_MAX: u64 = 64 << 10;

/// The most sites, arms, and masks per scan: what a machine and a plot can hold.
const SITES_MAX: usize = 64;
const ARMS_MAX: usize = 16;
const MASKS_MAX: usize = 64;

/// The most patients of a phantom site.
const PATIENTS_MAX: u32 = 2_000;

/// A study, as its author wrote it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StudyPlan {
    /// The format, [`VERSION`].
    version: u32,
    /// What the study is about, for the head of its report.
    pub(crate) title: String,
    /// Rounds of every arm.
    pub(crate) rounds: u32,
    /// Models are judged after every so many rounds, and after the last.
    pub(crate) evaluate_every: u32,
    /// The model all arms begin from.
    pub(crate) model: ModelPlan,
    /// The scans.
    pub(crate) data: DataPlan,
    /// How models are judged.
    pub(crate) evaluation: EvaluationPlan,
    /// `[training]` of a run's plan, for every arm.
    training: Table,
    /// `[aggregation]` of a run's plan, for every arm.
    #[serde(default)]
    aggregation: Table,
    /// `[exchange]` of a run's plan, for every arm.
    #[serde(default)]
    exchange: Table,
    /// The hospitals.
    pub(crate) sites: Vec<SitePlan>,
    /// What is compared.
    pub(crate) arms: Vec<ArmPlan>,
    /// The arm that the others are measured by; where none is named the first pooled one of the model.
    #[serde(default)]
    reference: Option<SiteName>,
}

/// The model all arms begin from: `init-model`'s options.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelPlan {
    pub(crate) preset: String,
    pub(crate) image_size: u32,
    pub(crate) seed: u64,
}

/// Which scans, and who is held out.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataPlan {
    /// What the labels mean; phantoms have those of brats2023.
    pub(crate) label_scheme: String,
    /// The contrasts that train and are judged.
    pub(crate) contrasts: Vec<String>,
    /// The edge of a phantom's voxel, in millimetres.
    #[serde(default = "voxel_mm_default")]
    pub(crate) voxel_mm: f64,
    /// Which phantom patients there are.
    #[serde(default)]
    pub(crate) seed: u64,
    /// The part of a real site's patients that never trains.
    #[serde(default = "held_out_default")]
    pub(crate) held_out: f64,
    /// Another salt holds out other patients of a real site.
    #[serde(default)]
    pub(crate) split_salt: String,
}

fn voxel_mm_default() -> f64 {
    4.0
}

fn held_out_default() -> f64 {
    0.34
}

/// How a model paints when it is judged.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EvaluationPlan {
    /// Sampling steps.
    pub(crate) steps: u32,
    /// Whether the moving average over rounds is judged in place of the model that sites train from. Then
    /// every arm is federated.
    #[serde(default)]
    pub(crate) average: bool,
    /// `evaluate --seed`, one a mask: each held-out scan is judged in all of them.
    pub(crate) masks: Vec<u64>,
}

/// A hospital.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SitePlan {
    pub(crate) name: SiteName,
    /// Its phantoms; without them its scans are in a folder that `--data` names.
    #[serde(default)]
    pub(crate) phantom: Option<PhantomPlan>,
}

/// Phantom patients of a site. Sites with one scanner deal out one cohort: no two have a patient in common.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PhantomPlan {
    /// A, B, C or D.
    pub(crate) scanner: String,
    /// Patients that train.
    pub(crate) training: u32,
    /// Patients that the site's models are judged on; many are cheap and make the score steady.
    pub(crate) held_out: u32,
}

/// One way to train.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ArmPlan {
    /// Its name, also of its files.
    pub(crate) name: SiteName,
    pub(crate) kind: ArmKind,
    /// Whether it trains the regression twin of the model: the same network, which predicts the tissue
    /// itself in one call and without noise.
    #[serde(default)]
    twin: bool,
    /// The arm that this one is measured by in place of the study's, such as one of the same seed.
    #[serde(default)]
    reference: Option<SiteName>,
    /// Arms of one family differ in the seed of their training alone: what they have in common is told too.
    #[serde(default)]
    pub(crate) family: Option<SiteName>,
    /// What this arm's `[training]` says otherwise.
    #[serde(default)]
    training: Table,
    /// What this arm's `[aggregation]` says otherwise.
    #[serde(default)]
    aggregation: Table,
    /// What this arm's `[exchange]` says otherwise.
    #[serde(default)]
    exchange: Table,
}

/// Who trains on what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ArmKind {
    /// One model on the training patients of all sites in one folder: what federating is to equal.
    Pooled,
    /// Every site trains in every round, and the coordinator's arithmetic makes one model of all.
    Federated,
    /// Every site trains a model of its own.
    Alone,
    /// As [`ArmKind::Pooled`], but the regression twin: whether diffusion pays.
    Twin,
}

impl ArmPlan {
    /// Whether it trains the regression twin of the model.
    pub(crate) fn is_twin(&self) -> bool {
        self.twin || self.kind == ArmKind::Twin
    }
}

impl StudyPlan {
    /// Reads a plan and refuses what no study can do.
    pub(crate) fn from_toml(text: &str) -> anyhow::Result<StudyPlan> {
        let plan: StudyPlan = toml::from_str(text).context("the study does not parse")?;
        plan.validate()?;
        Ok(plan)
    }

    /// The plan of a run as this arm trains it, in its canonical form.
    pub(crate) fn run_plan(&self, arm: &ArmPlan) -> anyhow::Result<RunPlan> {
        let sites = i64::try_from(self.sites.len())?;
        let round = Table::from_iter([
            ("sites_min".to_owned(), Value::Integer(sites)),
            ("sites_goal".to_owned(), Value::Integer(sites)),
        ]);
        let mut plan = Table::from_iter([
            ("version".to_owned(), Value::Integer(PLAN_VERSION.into())),
            ("rounds".to_owned(), Value::Integer(self.rounds.into())),
            ("round".to_owned(), Value::Table(round)),
            ("training".to_owned(), Value::Table(merged(&self.training, &arm.training))),
        ]);
        for (name, table) in [
            ("aggregation", merged(&self.aggregation, &arm.aggregation)),
            ("exchange", merged(&self.exchange, &arm.exchange)),
        ] {
            if !table.is_empty() {
                plan.insert(name.to_owned(), Value::Table(table));
            }
        }
        RunPlan::from_toml(&toml::to_string(&plan)?)
            .with_context(|| format!("as a run, arm {}", arm.name))
    }

    /// The rounds after which models are judged, besides the initial one.
    pub(crate) fn judged_rounds(&self) -> Vec<u32> {
        let regular = (1..self.rounds).filter(|round| round % self.evaluate_every == 0);
        regular.chain([self.rounds]).collect()
    }

    /// The arm that this one is measured by.
    pub(crate) fn reference_of(&self, arm: &ArmPlan) -> Option<usize> {
        let own = arm.reference.as_ref();
        own.map_or_else(|| self.reference(), |name| self.arms.iter().position(|a| a.name == *name))
    }

    /// The arm that the others are measured by.
    pub(crate) fn reference(&self) -> Option<usize> {
        self.arms.iter().position(|arm| match &self.reference {
            Some(name) => arm.name == *name,
            None => arm.kind == ArmKind::Pooled && !arm.is_twin(),
        })
    }

    fn validate(&self) -> anyhow::Result<()> {
        let StudyPlan { version, rounds, evaluate_every, sites, arms, evaluation, .. } = self;
        ensure!(*version == VERSION, "the study's version is {version}, {VERSION} is read");
        ensure!((1..=10_000).contains(rounds), "rounds is {rounds}, it must be 1 to 10,000");
        ensure!(
            (1..=*rounds).contains(evaluate_every),
            "evaluate_every is {evaluate_every}, it must be 1 to the rounds"
        );
        let masks = &evaluation.masks;
        ensure!(
            (1..=MASKS_MAX).contains(&masks.len()) && is_unique(masks.iter()),
            "evaluation.masks must be 1 to {MASKS_MAX} different seeds"
        );
        ensure!(!self.data.contrasts.is_empty(), "data.contrasts is empty, name one such as t1n");
        ensure!(
            (1..=SITES_MAX).contains(&sites.len()) && is_unique(sites.iter().map(|s| &s.name)),
            "there must be 1 to {SITES_MAX} sites of different names"
        );
        for SitePlan { name, phantom } in sites {
            let Some(PhantomPlan { training, held_out, .. }) = phantom else { continue };
            ensure!(
                (1..=PATIENTS_MAX).contains(training) && (1..=PATIENTS_MAX).contains(held_out),
                "site {name} must have 1 to {PATIENTS_MAX} patients that train and as many held out"
            );
        }
        ensure!(
            (1..=ARMS_MAX).contains(&arms.len()) && is_unique(arms.iter().map(|a| &a.name)),
            "there must be 1 to {ARMS_MAX} arms of different names"
        );
        ensure!(
            self.reference.is_none() || self.reference().is_some(),
            "reference is the name of no arm"
        );
        for arm in arms {
            let run = self.run_plan(arm)?;
            ensure!(
                arm.reference.is_none() || self.reference_of(arm).is_some(),
                "the reference of arm {} is the name of no arm",
                arm.name
            );
            ensure!(
                !evaluation.average
                    || (arm.kind == ArmKind::Federated && run.aggregation.ema_decay > 0.0),
                "arm {} makes no moving average: evaluation.average judges one of every arm",
                arm.name
            );
        }
        Ok(())
    }
}

/// The table `common` with what `own` says otherwise.
fn merged(common: &Table, own: &Table) -> Table {
    common.iter().chain(own).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn is_unique<T: Ord>(mut items: impl Iterator<Item = T>) -> bool {
    let mut seen = BTreeSet::new();
    items.all(|item| seen.insert(item))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUDY: &str = "version = 1\ntitle = \"t\"\nrounds = 7\nevaluate_every = 3\n\
        [model]\npreset = \"tiny\"\nimage_size = 16\nseed = 1\n\
        [data]\nlabel_scheme = \"brats2023\"\ncontrasts = [\"t1n\"]\n\
        [evaluation]\nsteps = 2\nmasks = [1]\n\
        [training]\nsteps = 4\nbatch = 2\n\
        [[sites]]\nname = \"north\"\nphantom = { scanner = \"A\", training = 2, held_out = 1 }\n\
        [[sites]]\nname = \"south\"\n\
        [[arms]]\nname = \"pooled\"\nkind = \"pooled\"\n\
        [[arms]]\nname = \"more\"\nkind = \"federated\"\n[arms.training]\nsteps = 8\n";

    #[test]
    fn an_arm_says_otherwise_what_it_names_and_nothing_else() {
        let plan = StudyPlan::from_toml(STUDY).unwrap();
        let steps = |arm: usize| {
            let training = plan.run_plan(&plan.arms[arm]).unwrap().training;
            (training.steps, training.batch)
        };
        assert_eq!((steps(0), steps(1)), ((4, 2), (8, 2)));
        assert_eq!(plan.judged_rounds(), [3, 6, 7]);
        assert!(plan.sites[0].phantom.is_some() && plan.sites[1].phantom.is_none());
    }

    #[test]
    fn a_twin_is_never_what_the_others_are_measured_by() {
        let twin = STUDY.replacen("kind = \"pooled\"", "kind = \"pooled\"\ntwin = true", 1);
        let plan = StudyPlan::from_toml(&twin).unwrap();
        assert!(plan.arms[0].is_twin() && !plan.arms[1].is_twin());
        assert_eq!(plan.reference(), None);
        let kind =
            StudyPlan::from_toml(&STUDY.replacen("\"pooled\"\n[[", "\"twin\"\n[[", 1)).unwrap();
        assert!(kind.arms[0].is_twin() && kind.reference().is_none());
        assert_eq!(StudyPlan::from_toml(STUDY).unwrap().reference(), Some(0));
        let named = STUDY.replacen("version = 1", "version = 1\nreference = \"more\"", 1);
        assert_eq!(StudyPlan::from_toml(&named).unwrap().reference(), Some(1));
    }

    #[test]
    fn a_study_that_nothing_could_run_is_refused_before_anything_runs() {
        for (from, to, why) in [
            ("version = 1", "version = 2", "version"),
            ("evaluate_every = 3", "evaluate_every = 0", "evaluate_every"),
            ("masks = [1]", "masks = [1, 1]", "masks"),
            ("\"south\"", "\"north\"", "different names"),
            ("name = \"more\"", "name = \"pooled\"", "different names"),
            ("steps = 8", "stepz = 8", "arm more"),
            ("batch = 2", "batch = 0", "arm pooled"),
            ("training = 2", "training = 0", "site north"),
            ("version = 1", "version = 1\nreference = \"less\"", "reference"),
            ("version = 1", "version = 1\nexchange = { encoding = \"zip\" }", "arm pooled"),
            ("masks = [1]", "masks = [1]\naverage = true", "arm pooled makes no moving average"),
            (
                "steps = 8",
                "steps = 8\n[[arms]]\nname = \"x\"\nkind = \"alone\"\nreference = \"y\"",
                "arm x",
            ),
        ] {
            let text = STUDY.replacen(from, to, 1);
            let error = format!("{:#}", StudyPlan::from_toml(&text).unwrap_err());
            assert!(error.contains(why), "{to}: {error}");
        }
    }

    #[test]
    fn every_study_that_comes_with_the_source_is_one() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/studies");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "toml") {
                let text = std::fs::read_to_string(&path).unwrap();
                let plan = StudyPlan::from_toml(&text)
                    .unwrap_or_else(|error| panic!("{}: {error:#}", path.display()));
                assert!(plan.reference().is_some(), "{}", path.display());
                count += 1;
            }
        }
        assert!(count >= 4, "{count}");
    }
}
