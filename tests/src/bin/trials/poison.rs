//! `poison`: two of ten sites send what they should not, to a federation that really trains the small U-Net on
//! phantoms of four scanners. Updates that are malformed are sent to a real coordinator, which must refuse each.
//! Those that are not are aggregated by the coordinator's own arithmetic, round after round, and the loss on
//! held-out patients in the end is compared with that of a federation in which nobody is bad.

mod attack;
mod federation;
mod malformed;
mod table;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use fedpaint_proto::plan::{AggregationPlan, AggregationRule};
use fedpaint_tests::outcome::{Outcome, rounded};
use serde_json::{Map, Value};

pub(crate) use self::attack::Attack;
use self::federation::{Ended, Federation};
use crate::{Args, say};

/// How many rounds, if nobody says otherwise.
const ROUNDS: usize = 12;

/// With fewer rounds than this a part is tried: one rule and one attack, beside the mean.
const ROUNDS_FULL_MIN: usize = 6;

/// How much the loss in the end may be of that without bad sites.
const LOSS_MAX: f64 = 1.05;

/// The part of the honest sites' updates that may be told to be unlike the others.
const WRONGLY_MAX: f64 = 0.01;

/// How updates are made one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Defence {
    name: &'static str,
    rule: AggregationRule,
    /// Whether outliers, twins and replays are left out.
    quarantine: bool,
    /// Whether it has to end within [`LOSS_MAX`] under every attack.
    must_hold: bool,
}

const MEAN: Defence =
    Defence { name: "mean", rule: AggregationRule::Mean, quarantine: false, must_hold: false };

const TRIMMED_MEAN: Defence =
    Defence { name: "trimmed_mean", rule: AggregationRule::TrimmedMean, ..MEAN };

const GEOMETRIC_MEDIAN: Defence =
    Defence { name: "geometric_median", rule: AggregationRule::GeometricMedian, ..MEAN };

/// One plan has to stand every attack: that which README names. The others are tried beside it, to show what a
/// rule does without a quarantine and another rule with it; the plain mean, that it takes either.
const DEFENCES: [Defence; 5] = [
    MEAN,
    TRIMMED_MEAN,
    GEOMETRIC_MEDIAN,
    Defence { name: "trimmed_mean, quarantine", quarantine: true, must_hold: true, ..TRIMMED_MEAN },
    Defence { name: "geometric_median, quarantine", quarantine: true, ..GEOMETRIC_MEDIAN },
];

impl Defence {
    /// What the coordinator's arithmetic is told.
    fn plan(self) -> AggregationPlan {
        let Defence { rule, quarantine, .. } = self;
        // Two of ten at either end, which is as many as there are bad sites.
        AggregationPlan {
            rule,
            quarantine,
            quarantine_twins: quarantine,
            quarantine_replays: quarantine,
            trim: 0.2,
            ema_decay: 0.0,
            ..AggregationPlan::default()
        }
    }
}

/// What a defence came to under an attack.
#[derive(Clone, Debug)]
pub(crate) struct Arm {
    defence: Defence,
    attack: Option<Attack>,
    ended: Ended,
}

impl Arm {
    /// Whether bad sites send anything.
    fn is_poisoned(&self) -> bool {
        self.attack.is_some_and(Attack::sends)
    }
}

/// What is tried.
struct Scope {
    rounds: usize,
    defences: Vec<Defence>,
    attacks: Vec<Attack>,
}

impl Scope {
    fn of(count: Option<usize>, only: &[Attack]) -> Scope {
        let rounds = count.unwrap_or(ROUNDS).max(1);
        let (defences, attacks) = match only {
            [] if rounds < ROUNDS_FULL_MIN => {
                let held = Defence { must_hold: true, ..GEOMETRIC_MEDIAN };
                (vec![MEAN, held], vec![Attack::Hundredfold])
            }
            [] => (DEFENCES.into(), Attack::ALL.into()),
            only => (DEFENCES.into(), only.into()),
        };
        Scope { rounds, defences, attacks }
    }
}

pub(crate) async fn poison(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    let (scope, seed) = (Scope::of(args.count, &args.only), args.seed);
    let folder = work.join("sites");
    let rounds = scope.rounds;
    say("making phantoms");
    let made = tokio::task::spawn_blocking(move || Federation::make(&folder, seed));
    let federation = Arc::new(made.await??);
    let mut outcome = Outcome::default();
    malformed::refused(&federation, &work.join("coordinator"), &mut outcome).await?;
    let trained = federation.clone();
    let (start, arms) = tokio::task::spawn_blocking(move || {
        anyhow::Ok((trained.loss(trained.initial())?, train(&trained, &scope, seed)?))
    })
    .await??;
    say(&table::table(start, &arms));
    outcome.set("rounds", rounds);
    outcome.set("loss_start", rounded(start, 5));
    judge(&mut outcome, &arms, start);
    if args.only.is_empty() {
        let fallen = fallen(&arms, MEAN);
        outcome.set("mean_falls_to", fallen);
        outcome.require(fallen > 0, || "the plain mean stands every attack: they are none".into());
    }
    Ok(outcome)
}

/// Every defence without an attack and under each.
fn train(federation: &Federation, scope: &Scope, seed: u64) -> anyhow::Result<Vec<Arm>> {
    let mut arms = Vec::new();
    for &defence in &scope.defences {
        for attack in [None].into_iter().chain(scope.attacks.iter().copied().map(Some)) {
            let began = Instant::now();
            let ended = federation.run(&defence.plan(), attack, scope.rounds, seed)?;
            let under = attack.map_or("no attack", Attack::name);
            let seconds = began.elapsed().as_secs_f64();
            say(&format!("{}, {under}: loss {:.5}, {seconds:.0} s", defence.name, ended.loss));
            arms.push(Arm { defence, attack, ended });
        }
    }
    Ok(arms)
}

/// Notes what came out, and what must not be.
fn judge(outcome: &mut Outcome, arms: &[Arm], start: f64) {
    let clean = clean(arms, MEAN);
    outcome.require(!is_above(clean, 0.9 * start), || {
        format!("nothing is learnt: {start} to {clean}")
    });
    let mut losses = Map::new();
    for Arm { defence, attack, ended } in arms {
        let of = losses.entry(defence.name).or_insert_with(|| Value::Object(Map::new()));
        of[attack.map_or("none", Attack::name)] = number(ended.loss, 5);
    }
    outcome.set("losses", losses);
    bounds(outcome, arms, clean);
    counts(outcome, arms);
}

/// Under how many attacks a defence does not end within the bound.
fn fallen(arms: &[Arm], defence: Defence) -> usize {
    let bound = LOSS_MAX * clean(arms, MEAN);
    let falls = |arm: &&Arm| arm.is_poisoned() && is_above(arm.ended.loss, bound);
    arms.iter().filter(|arm| arm.defence == defence).filter(falls).count()
}

/// The loss of a defence where nobody is bad.
fn clean(arms: &[Arm], defence: Defence) -> f64 {
    let clean = arms.iter().find(|arm| arm.defence == defence && arm.attack.is_none());
    clean.map_or(f64::NAN, |arm| arm.ended.loss)
}

/// Holds the loss under every attack against that without one: by the mean, and by the same rule. What it comes
/// to at the worst is noted for every defence.
fn bounds(outcome: &mut Outcome, arms: &[Arm], clean_by_mean: f64) {
    let mut worst: BTreeMap<&str, [f64; 2]> = BTreeMap::new();
    for arm in arms.iter().filter(|arm| arm.is_poisoned()) {
        let Arm { defence, attack, ended } = arm;
        let times = [clean_by_mean, clean(arms, *defence)].map(|clean| ended.loss / clean);
        let worst = worst.entry(defence.name).or_default();
        for (worst, times) in worst.iter_mut().zip(times) {
            // What is no number stays.
            *worst = if is_above(times, *worst) { times } else { *worst };
        }
        let holds = !times.iter().any(|times| is_above(*times, LOSS_MAX));
        outcome.require(!defence.must_hold || holds, || {
            let (name, attack, [of_mean, of_own]) = (defence.name, attack.map(Attack::name), times);
            let attack = attack.unwrap_or_default();
            format!("{name} under {attack}: {of_mean:.3} of the clean loss by the mean, {of_own:.3} of its own")
        });
    }
    let worst =
        worst.into_iter().map(|(name, both)| (name.to_owned(), both.map(|w| number(w, 4)).into()));
    outcome.set("worst_of_clean_by_mean_and_by_own", worst.collect::<Map<_, _>>());
}

/// How many honest updates were told to be unlike the others, or were refused. Where the plain mean was taken
/// along by an attack, there is nothing to be like.
fn counts(outcome: &mut Outcome, arms: &[Arm]) {
    let sound = || arms.iter().filter(|arm| arm.defence != MEAN || arm.attack.is_none());
    let told: u32 = sound().map(|arm| arm.ended.honest_told).sum();
    let honest: u32 = sound().map(|arm| arm.ended.honest).sum();
    let part = f64::from(told) / f64::from(honest.max(1));
    outcome.require(part <= WRONGLY_MAX, || format!("{told} of {honest} honest updates are told"));
    let refused: u32 = arms.iter().map(|arm| arm.ended.refused).sum();
    outcome.require(refused == 0, || format!("{refused} well-formed updates were refused"));
    outcome.set("honest_updates", honest);
    outcome.set("honest_told_outliers", told);
}

/// Whether a loss is above a bound; what is no number is.
fn is_above(loss: f64, bound: f64) -> bool {
    loss.is_nan() || loss > bound
}

/// A number, or in words that there is none.
fn number(value: f64, digits: i32) -> Value {
    if value.is_finite() { rounded(value, digits).into() } else { "diverged".into() }
}
