//! `stragglers`: one site is far slower than the others, another comes and goes, and rounds take no
//! longer than their deadlines say.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use fedpaint_proto::v1::{self, MemberState};
use fedpaint_tests::evidence::Evidence;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

use crate::federation::{Federation, Shape, rehearsal};
use crate::{Args, say};
use fedpaint_tests::outcome::{Outcome, rounded};

/// How many rounds, if nobody says otherwise: more than the slow site needs for one training.
const ROUNDS: u32 = 24;

/// How many times slower the slow site is, and how many steps all train; and where rounds are fewer, so that its
/// training ends within them too.
const SLOWER: u32 = 20;
const STEPS: u32 = 30;
const SLOWER_SHORT: u32 = 3;
const STEPS_SHORT: u32 = 20;

const STEPS_MS: u32 = 100;

/// How long sites may join, and how long members may report: more than a training takes.
const SELECTION_S: u32 = 2;
const REPORTING_S: u32 = 5;

const RATIO_MAX: f64 = 1.1;

/// The longest that the flapping site stays up.
const UP_MS_MAX: u64 = 2_000;

/// How long the run may take altogether.
const RUN_MAX: Duration = Duration::from_secs(900);

const LOOK: Duration = Duration::from_millis(20);

/// Runs the mode.
///
/// # Errors
/// If a program does not start, or the run gets stuck.
pub(crate) async fn stragglers(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    let sites = args.sites.unwrap_or(8);
    anyhow::ensure!(sites >= 3, "it takes 3 sites: a slow one, one that comes and goes, another");
    let rounds = args.rounds.unwrap_or(ROUNDS);
    let (slower, steps) =
        if rounds < ROUNDS { (SLOWER_SHORT, STEPS_SHORT) } else { (SLOWER, STEPS) };
    let (goal, least) = (sites - 1, sites - 2);
    let round = format!(
        "sites_min = {least}\nsites_goal = {goal}\nselection_s = {SELECTION_S}\n\
         reporting_s = {REPORTING_S}\nfailures_max = 1000\nlate = \"fold\"\nlate_rounds_max = 100\n"
    );
    let shape = Shape {
        sites,
        rounds,
        steps,
        steps_ms: STEPS_MS,
        checkpoint_steps: 5,
        parameters: 1 << 14,
        round: Some(round),
        ..Shape::default()
    };
    let mut federation = Federation::found(&work.join("stragglers"), &shape).await?;
    federation.sites[0].options.more = rehearsal(slower * STEPS_MS);
    // The slow one is in the first round whatever happens.
    federation.start_agent(0)?;
    federation.start_agents_but(&[0])?;
    let watch = federation.watch().await?;
    let mut rng = ChaCha12Rng::seed_from_u64(args.seed);
    let mut flap = |from: Instant| from + Duration::from_millis(rng.random_range(50..UP_MS_MAX));
    let (start, mut flaps) = (Instant::now(), 0);
    let mut next = flap(start);
    let mut told = 0;
    let restarts_max = args.count.unwrap_or(u32::MAX);
    while !watch.seen().is_finished() {
        if flaps < restarts_max && Instant::now() >= next {
            federation.sites[1].agent.as_mut().context("an agent")?.kill()?;
            federation.start_agent(1)?;
            next = flap(Instant::now());
            flaps += 1;
        }
        let seen = watch.seen();
        if seen.committed > told {
            told = seen.committed;
            say(&format!("round {told} of {}: {flaps} restarts", shape.rounds));
        }
        anyhow::ensure!(seen.paused.is_none(), "the run is paused: {:?}", seen.paused);
        anyhow::ensure!(start.elapsed() < RUN_MAX, "the run does not end");
        tokio::time::sleep(LOOK).await;
    }
    drop(watch);
    let evidence = federation.evidence().await?;
    let findings = evidence.findings(&[]);
    let slow = federation.sites[0].name.clone();
    federation.stop()?;

    let mut outcome = Outcome::default();
    let training_s = f64::from(steps * STEPS_MS) / 1e3;
    let (took, predicted) = times(&evidence, goal, training_s)?;
    let rounds = evidence.rounds.len() as f64;
    let ratio = took / predicted;
    let counted = counted(&evidence, &slow);
    outcome.set("sites", sites);
    outcome.set("rounds", evidence.committed().len());
    outcome.set("attempts_abandoned", evidence.abandoned());
    outcome.set("restarts", flaps);
    outcome.set("round_s", rounded(took / rounds, 3));
    outcome.set("predicted_s", rounded(predicted / rounds, 3));
    outcome.set("ratio", rounded(ratio, 4));
    outcome.set("slow_site_counted", counted);
    outcome.set("seed", args.seed);
    outcome.require(ratio <= RATIO_MAX, || format!("rounds take {ratio:.2} times the prediction"));
    let few = args.count.filter(|count| flaps < *count);
    outcome.require(few.is_none(), || format!("the run ended after {flaps} restarts"));
    outcome.require(counted > 0, || "no update of the slow site counts".into());
    outcome.require(findings.doubled.is_empty(), || format!("doubled: {:?}", findings.doubled));
    Ok(outcome)
}

/// How often an update of `site` counts: in its own round, or later.
fn counted(evidence: &Evidence, site: &str) -> usize {
    let in_time = |round: &&v1::Round| {
        let mut members = round.members.iter();
        members.any(|member| member.site == site && member.state() == MemberState::Reported)
    };
    let rounds = evidence.committed();
    let late = rounds.iter().flat_map(|round| &round.late).filter(|late| late.site == site).count();
    rounds.iter().filter(|round| in_time(round)).count() + late
}

/// How long all rounds took, and how long they take by the rule: sites join until there are enough or
/// time is up; members train until all have reported or time is up.
fn times(evidence: &Evidence, goal: usize, training_s: f64) -> anyhow::Result<(f64, f64)> {
    let (mut took, mut predicted) = (0.0, 0.0);
    for round in &evidence.rounds {
        let (opened, closed) = (round.opened_at.as_ref(), round.closed_at.as_ref());
        let opened = opened.context("a round has a beginning")?;
        let closed = closed.context("a round of a finished run has an end")?;
        took += (closed.seconds - opened.seconds) as f64;
        took += f64::from(closed.nanos - opened.nanos) / 1e9;
        if round.members.len() < goal {
            predicted += f64::from(SELECTION_S);
        }
        let missing = round.members.iter().any(|member| member.state() == MemberState::Joined);
        predicted += if missing { f64::from(REPORTING_S) } else { training_s };
    }
    Ok((took, predicted))
}
