//! The server's optimisers and the moving average against plain loops over numbers, round after
//! round, each beginning from the files that the last one left.

use super::*;
use crate::testing::Dice;

const ROUNDS: u32 = 3;
const VALUES: usize = 7;

/// What a run has after a round, computed without a file.
#[derive(Clone)]
struct Reference {
    model: Vec<f64>,
    ema: Vec<f64>,
    momentum: Vec<f64>,
    second_moment: Vec<f64>,
}

/// As f32 holds it, which is how every number is kept from round to round.
fn f32ed(value: f64) -> f64 {
    f64::from(value as f32)
}

impl Reference {
    fn start(base: &[f32], plan: &AggregationPlan) -> Reference {
        let model: Vec<f64> = base.iter().map(|v| f64::from(*v)).collect();
        Reference {
            ema: model.clone(),
            model,
            momentum: vec![0.0; VALUES],
            second_moment: vec![f32ed(plan.tau * plan.tau); VALUES],
        }
    }

    /// One round, written down from the papers: the sites' mean, the optimiser, the average.
    fn step(&mut self, plan: &AggregationPlan, updates: &[(Vec<f32>, u64)], round: u32) {
        let total: u64 = updates.iter().map(|(_, n)| n).sum();
        for i in 0..VALUES {
            let mean: f64 =
                updates.iter().map(|(w, n)| f64::from(w[i]) * (*n as f64 / total as f64)).sum();
            let gradient = mean - self.model[i];
            let by = match plan.optimizer {
                ServerOptimizer::Average => gradient,
                ServerOptimizer::Momentum => {
                    self.momentum[i] = self.momentum[i] * plan.momentum + gradient;
                    self.momentum[i]
                }
                ServerOptimizer::Adam => {
                    let (b1, b2) = (plan.momentum, plan.beta_2);
                    self.momentum[i] = b1 * self.momentum[i] + (1.0 - b1) * gradient;
                    self.second_moment[i] =
                        b2 * self.second_moment[i] + (1.0 - b2) * gradient.powi(2);
                    self.momentum[i] / (self.second_moment[i].sqrt() + plan.tau)
                }
            };
            self.model[i] = f32ed(self.model[i] + plan.learning_rate * by);
            self.momentum[i] = f32ed(self.momentum[i]);
            self.second_moment[i] = f32ed(self.second_moment[i]);
            // Rounds 1, 2, 3, ... have seen 0, 1, 2, ... before them: 1/10, 2/11, 3/12, ...
            let decay = plan.ema_decay.min(f64::from(round) / f64::from(round + 9));
            self.ema[i] = f32ed(decay * self.ema[i] + (1.0 - decay) * self.model[i]);
        }
    }
}

fn plan(optimizer: ServerOptimizer, learning_rate: f64, ema_decay: f64) -> AggregationPlan {
    AggregationPlan { optimizer, learning_rate, ema_decay, ..AggregationPlan::default() }
}

/// Numbers of several sizes, near the base model where they are an update.
fn numbers(dice: &mut Dice, around: &[f64]) -> Vec<f32> {
    let one = |at: &f64| (at + (dice.roll(2001) as f64 - 1000.0) * 1e-5) as f32;
    around.iter().map(one).collect()
}

fn read(path: &Path) -> Vec<f64> {
    let model = ModelFile::open(path).unwrap();
    // In the order of the names, which is not the file's.
    let (a, b) = (model.position("a").unwrap(), model.position("b").unwrap());
    let values = [model.read(b).unwrap(), model.read(a).unwrap()].concat();
    values.into_iter().map(f64::from).collect()
}

fn close(found: &[f64], expected: &[f64], what: &str) {
    for (found, expected) in found.iter().zip(expected) {
        let error = (found - expected).abs();
        assert!(error <= 2e-7 * expected.abs().max(1e-6), "{what}: {found} for {expected}");
    }
    assert_eq!(found.len(), expected.len(), "{what}");
}

/// Runs three rounds of three sites and compares everything kept with the reference.
fn three_rounds(plan: &AggregationPlan) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut dice = Dice(11);
    let start: Vec<f32> = numbers(&mut dice, &[0.5, -0.5, 0.0, 1.0, -1.0, 0.25, 2.0]);
    let mut expected = Reference::start(&start, plan);
    let base = folder.join("base");
    write_model(&base, &[("a", &start[2..]), ("b", &start[..2])]);
    let mut previous = Aggregate::of(base);
    for round in 1..=ROUNDS {
        let updates: Vec<(Vec<f32>, u64)> =
            [10, 700, 33].map(|examples| (numbers(&mut dice, &expected.model), examples)).into();
        let part =
            |(name, (values, n)): (&&str, &(Vec<f32>, u64))| contribution(folder, name, values, *n);
        let contributions = NAMES.iter().zip(&updates).map(part).collect();
        let job = Job {
            plan: plan.clone(),
            committed: round - 1,
            previous,
            contributions,
            quarantine: None,
        };
        let made = aggregate(&job, &folder.join(format!("round-{round}"))).unwrap().files;
        expected.step(plan, &updates, round);
        close(&read(&made.model.path), &expected.model, "model");
        for (file, expected, what) in [
            (&made.ema, &expected.ema, "ema"),
            (&made.momentum, &expected.momentum, "momentum"),
            (&made.second_moment, &expected.second_moment, "second moment"),
        ] {
            if let Some(file) = file {
                close(&read(&file.path), expected, what);
            }
        }
        assert_eq!(made.ema.is_some(), plan.ema_decay > 0.0);
        assert_eq!(made.momentum.is_some(), plan.optimizer != ServerOptimizer::Average);
        assert_eq!(made.second_moment.is_some(), plan.optimizer == ServerOptimizer::Adam);
        previous = made.map(|file| file.path);
    }
}

#[test]
fn three_rounds_of_every_optimizer_and_the_moving_average_are_what_the_papers_say() {
    for (optimizer, rate) in [
        (ServerOptimizer::Average, 1.0),
        (ServerOptimizer::Average, 0.5),
        (ServerOptimizer::Momentum, 1.0),
        (ServerOptimizer::Momentum, 0.3),
        (ServerOptimizer::Adam, 0.01),
        (ServerOptimizer::Adam, 1.0),
    ] {
        for ema_decay in [0.0, 0.15, 0.9] {
            three_rounds(&plan(optimizer, rate, ema_decay));
        }
    }
}

#[test]
fn the_first_rounds_forget_the_initial_model_faster_than_the_plan_says() {
    let plan = plan(ServerOptimizer::Average, 1.0, 0.9);
    let decays: Vec<f64> = [0, 1, 10, 79, 80, 81, u32::MAX].map(|k| ema_decay(&plan, k)).into();
    assert_eq!(decays, [0.1, 2.0 / 11.0, 0.55, 80.0 / 89.0, 0.9, 0.9, 0.9]);
}

#[test]
fn everything_kept_is_the_same_to_the_byte_for_every_order_of_arrival() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path(), VALUES);
    let parts = NAMES.map(|name| {
        let values: Vec<f32> = numbers(&mut Dice(name.len() as u64), &[0.1; VALUES]);
        contribution(folder.path(), name, &values, name.len() as u64)
    });
    let made = |order: [usize; 4], out: &str| {
        let contributions = order.map(|i| parts[i].clone()).into();
        let plan = plan(ServerOptimizer::Adam, 0.01, 0.9);
        let previous = Aggregate::of(base.clone());
        let job = Job { plan, committed: 0, previous, contributions, quarantine: None };
        aggregate(&job, &folder.path().join(out)).unwrap().files.map(|file| file.blob)
    };
    let first = made([0, 1, 2, 3], "first");
    assert_eq!(first.parts().count(), 4);
    assert_eq!(made([3, 1, 0, 2], "second"), first);
    assert_eq!(made([2, 3, 1, 0], "first"), first, "also over what is there already");
}

#[test]
fn an_average_of_one_site_is_its_bytes_whatever_is_kept_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path(), 4);
    let part = contribution(folder.path(), "mayo", &[0.1, -0.0, 1e-42, f32::MAX], 3);
    let plan = AggregationPlan::default();
    let previous = Aggregate::of(base);
    let job = Job { plan, committed: 4, previous, contributions: vec![part], quarantine: None };
    let made = aggregate(&job, &folder.path().join("out")).unwrap().files;
    let bits = |values: Vec<f64>| values.iter().map(|v| (*v as f32).to_bits()).collect::<Vec<_>>();
    let expected = [0.1, -0.0, 1e-42, f32::MAX].map(f64::from).to_vec();
    assert_eq!(bits(read(&made.model.path)), bits(expected));
    assert_ne!(made.ema.unwrap().blob, made.model.blob);
}

#[test]
fn a_moment_that_is_not_finite_leaves_no_file_and_a_moment_names_no_model() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path(), 3);
    // Its square is beyond f32.
    let part = contribution(folder.path(), "mayo", &[1.0, 1e30, 1.0], 5);
    let job = |part| Job {
        plan: plan(ServerOptimizer::Adam, 0.01, 0.9),
        committed: 0,
        previous: Aggregate::of(base.clone()),
        contributions: vec![part],
        quarantine: None,
    };
    let out = folder.path().join("out");
    let error = aggregate(&job(part), &out).unwrap_err().to_string();
    assert_eq!(error, "tensor b of the server's second moment is not made of finite numbers");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "base and the site's own");

    let part = contribution(folder.path(), "mayo", &[1.0; 3], 5);
    let made = aggregate(&job(part), &out).unwrap().files;
    let described = |file: &Written| ModelFile::open(&file.path).unwrap().description().clone();
    let (model, ema) = (described(&made.model), described(made.ema.as_ref().unwrap()));
    assert!(model == ema && model.contains_key("fedpaint.model"), "{model:?}");
    for moment in [made.momentum.unwrap(), made.second_moment.unwrap()] {
        assert!(!described(&moment).contains_key("fedpaint.model"));
    }
}

#[test]
fn a_kept_file_of_another_form_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path(), 4);
    let other = folder.path().join("other");
    write_model(&other, &[("a", &[0.0; 2])]);
    let part = contribution(folder.path(), "mayo", &[1.0; 4], 5);
    for (previous, whose) in [
        (Aggregate { ema: Some(other.clone()), ..Aggregate::of(base.clone()) }, "moving average"),
        (Aggregate { momentum: Some(other.clone()), ..Aggregate::of(base.clone()) }, "momentum"),
    ] {
        let plan = plan(ServerOptimizer::Momentum, 1.0, 0.9);
        let job = Job {
            plan,
            committed: 1,
            previous,
            contributions: vec![part.clone()],
            quarantine: None,
        };
        let error = aggregate(&job, &folder.path().join("out")).unwrap_err();
        assert!(matches!(error, Error::Missing { .. }), "{error}");
        assert!(error.to_string().contains(whose), "{error}");
    }
}
