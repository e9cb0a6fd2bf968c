//! A federation of ten phantom sites without its wires: the program's own round of training at each site, and
//! the coordinator's own check and arithmetic. What is good is told by the training's own loss on patients who
//! never train, with masks, noise and diffusion steps that are the same for every model.

mod run;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use fedpaint_proto::names::{Blob, SiteName};
use fedpaint_proto::plan::{Part, TrainingPlan};
use fedpaint_proto::weights::{ModelFile, ModelWriter, TensorSpec};
use fedpaint_site_agent::cohort::Cohort;
use fedpaint_site_agent::local_round::{Machine, RoundKey, Watch, train_round};
use fedpaint_site_agent::model::checkpoint;
use fedpaint_site_agent::model::device::{self, DeviceChoice};
use fedpaint_site_agent::model::spec::{ModelSpec, Preset};
use fedpaint_site_agent::model::weights::Weights;
use fedpaint_site_agent::phantom::scanner::Scanner;
use fedpaint_site_agent::phantom::{CohortSpec, write_cohort};
use fedpaint_site_agent::settings::DataSettings;
use fedpaint_site_agent::train::journal::Journal;

pub(super) use self::run::Ended;

/// Each site's scanner, and how many of its patients train: sizes that fall, as hospitals' do.
const SITES: [(Scanner, usize); 10] = [
    (Scanner::A, 12),
    (Scanner::B, 8),
    (Scanner::C, 6),
    (Scanner::D, 5),
    (Scanner::A, 4),
    (Scanner::B, 4),
    (Scanner::C, 3),
    (Scanner::D, 3),
    (Scanner::A, 2),
    (Scanner::B, 2),
];

/// The sites that are bad. Every scanner is left to an honest one.
pub(super) const BAD: [usize; 2] = [4, 7];

/// Patients of each site who never train.
const HELD_OUT: usize = 3;

/// The edge of a phantom's voxel, in millimetres.
const VOXEL_MM: f64 = 6.0;

/// The edge of the model's image, in pixels.
const IMAGE_SIZE: usize = 16;

/// Slices that each site's part of the loss is the mean of, with a diffusion step and noise each.
const LOSS_SLICES: u32 = 64;

/// A rate so small that no weight changes: what trains by it tells its loss and nothing else.
const RATE_NONE: f64 = 1e-300;

/// A hospital.
#[derive(Debug)]
struct Site {
    name: SiteName,
    training: Cohort,
    held_out: Cohort,
}

/// Ten of them.
#[derive(Debug)]
pub(super) struct Federation {
    sites: Vec<Site>,
    machine: Machine,
    form: Form,
    /// The model that every run begins from, and another that `wrong base` trains.
    initial: PathBuf,
    other: PathBuf,
    work: PathBuf,
}

/// The form of a model's file. Weights are one list, tensor after tensor.
#[derive(Clone, Debug)]
pub(super) struct Form {
    tensors: Vec<TensorSpec>,
    description: BTreeMap<String, String>,
}

impl Form {
    fn of(path: &Path) -> anyhow::Result<Form> {
        let model = ModelFile::open(path)?;
        Ok(Form { tensors: model.tensors().to_vec(), description: model.description().clone() })
    }

    /// The weights of a file.
    pub(super) fn read(&self, path: &Path) -> anyhow::Result<Vec<f32>> {
        let model = ModelFile::open(path)?;
        let mut values = Vec::new();
        for tensor in &self.tensors {
            let at = model.position(&tensor.name).context("a model of the same tensors")?;
            values.extend(model.read(at)?);
        }
        Ok(values)
    }

    /// Writes weights, whatever they are.
    pub(super) fn write(&self, path: &Path, values: &[f32]) -> anyhow::Result<Blob> {
        let mut writer = ModelWriter::create(path, self.tensors.clone(), &self.description)?;
        let mut rest = values;
        for tensor in &self.tensors {
            let (own, more) = rest.split_at_checked(tensor.len()).context("all weights")?;
            writer.write(own)?;
            rest = more;
        }
        Ok(writer.finish()?)
    }
}

/// What a site does in a round: few steps that learn quickly.
fn training() -> TrainingPlan {
    let plan = TrainingPlan::default();
    TrainingPlan { steps: 10, batch: 8, learning_rate: 2e-3, decay_steps: 5, ..plan }
}

impl Federation {
    /// Makes the sites' phantoms and two models with random weights in `folder`.
    pub(super) fn make(folder: &Path, seed: u64) -> anyhow::Result<Federation> {
        std::fs::create_dir_all(folder)?;
        let cohort = |site: usize, part: &str, patients: usize, seed: u64| {
            let out = folder.join(format!("site-{site}-{part}"));
            let spec =
                CohortSpec { out, patients, scanner: SITES[site].0, seed, size_mm: VOXEL_MM };
            write_cohort(&spec, &mut |_, _| ())?;
            anyhow::Ok(Cohort::discover(&settings(spec.out))?)
        };
        let mut sites = Vec::new();
        for (at, (_, patients)) in SITES.into_iter().enumerate() {
            // No two cohorts have a seed in common, so that no two have a patient.
            let own = seed.wrapping_mul(1_000).wrapping_add(2 * at as u64);
            let training = cohort(at, "training", patients, own)?;
            let held_out = cohort(at, "held-out", HELD_OUT, own + 1)?;
            sites.push(Site { name: format!("site-{at}").parse()?, training, held_out });
        }
        let spec = ModelSpec::preset(Preset::Tiny).with_image_size(IMAGE_SIZE)?;
        let [initial, other] = ["initial", "other"].map(|name| folder.join(name));
        checkpoint::save(&Weights::init(&spec, seed)?, &initial)?;
        checkpoint::save(&Weights::init(&spec, seed.wrapping_add(1))?, &other)?;
        let form = Form::of(&initial)?;
        let machine = Machine { device: device::open(DeviceChoice::Cpu)?, memory_max: None };
        Ok(Federation { sites, machine, form, initial, other, work: folder.to_owned() })
    }

    /// The model that every run begins from.
    pub(super) fn initial(&self) -> &Path {
        &self.initial
    }

    /// The form of every model here.
    pub(super) fn form(&self) -> &Form {
        &self.form
    }

    /// How many sites there are.
    pub(super) fn len(&self) -> usize {
        self.sites.len()
    }

    /// The mean over sites of a model's loss on the patients that are held out.
    pub(super) fn loss(&self, model: &Path) -> anyhow::Result<f64> {
        let batch = training().batch;
        let plan = TrainingPlan {
            steps: LOSS_SLICES / batch,
            learning_rate: RATE_NONE,
            decay_steps: 0,
            condition_drop: 0.0,
            augment: false,
            ..training()
        };
        let all: Vec<usize> = (0..self.sites.len()).collect();
        let losses = self.at_each(&all, |site| {
            let (_, loss) = self.train(&site.held_out, &site.name, model, &plan, 1)?;
            Ok(loss)
        })?;
        Ok(losses.iter().sum::<f64>() / losses.len().max(1) as f64)
    }

    /// What training gives at each of these sites, from a model.
    pub(super) fn trained(
        &self,
        base: &Path,
        number: u32,
        sites: &[usize],
    ) -> anyhow::Result<Vec<Vec<f32>>> {
        let plan = training();
        self.at_each(sites, |site| {
            let (weights, _) = self.train(&site.training, &site.name, base, &plan, number)?;
            let file = tempfile::NamedTempFile::new_in(&self.work)?;
            checkpoint::save(&weights, file.path())?;
            self.form.read(file.path())
        })
    }

    /// The program's own round of training; the weights, and the mean loss of its steps.
    fn train(
        &self,
        cohort: &Cohort,
        site: &SiteName,
        base: &Path,
        plan: &TrainingPlan,
        number: u32,
    ) -> anyhow::Result<(Weights, f64)> {
        let base = checkpoint::load(base)?;
        let key = RoundKey { plan, number, site, part: Part::All };
        let mut watch = Watch { is_stopped: &|| false, progress: &mut |_| () };
        let done = train_round(&base, cohort, &self.machine, key, Journal::none(), &mut watch)?;
        Ok((done.weights, done.report.loss_mean))
    }

    /// Does `work` at each of these sites, as many at once as there are cores.
    fn at_each<T: Send>(
        &self,
        sites: &[usize],
        work: impl Fn(&Site) -> anyhow::Result<T> + Sync,
    ) -> anyhow::Result<Vec<T>> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut results = Vec::with_capacity(sites.len());
        for some in sites.chunks(cores) {
            let work = &work;
            let done: Vec<anyhow::Result<T>> = std::thread::scope(|scope| {
                let begin = |site: &usize| {
                    let site = &self.sites[*site];
                    scope.spawn(move || work(site))
                };
                let begun: Vec<_> = some.iter().map(begin).collect();
                let end = |done: std::thread::ScopedJoinHandle<'_, anyhow::Result<T>>| {
                    done.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a site's thread has died")))
                };
                begun.into_iter().map(end).collect()
            });
            results.extend(done.into_iter().collect::<anyhow::Result<Vec<T>>>()?);
        }
        Ok(results)
    }
}

fn settings(path: PathBuf) -> DataSettings {
    DataSettings {
        path,
        label_scheme: None,
        contrasts: Some(vec!["t1n".to_owned()]),
        held_out: 0.0,
        split_salt: String::new(),
        split: None,
        cache: None,
        cache_mib_max: 0,
    }
}
