//! `stragglers`: one site is far slower than the others, another comes and goes, and rounds take no
//! longer than their deadlines say.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use fedpaint_proto::v1::{self, MemberState};
use fedpaint_tests::evidence::{Evidence, seconds};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

use crate::federation::{Federation, Shape, rehearsal, undisturbed};
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

/// How much longer, and how much shorter, all rounds may take than the rule says: if either is more, the rule or
/// what it is taken for here is another one.
const RATIO_MAX: f64 = 1.1;
const RATIO_MIN: f64 = 0.8;

/// Rounds that nobody disturbs, for what one takes then; the first, in which sites start, is not among those.
const CALM_ROUNDS: u32 = 3;

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
    say("the undisturbed run");
    let calm = Shape { rounds: CALM_ROUNDS, round: None, ..shape.clone() };
    let calm = undisturbed(&work.join("undisturbed"), &calm).await?;
    let calm_s = calm_s(&calm.evidence)?;
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
    let [slow, flapping] = [0, 1].map(|site: usize| federation.sites[site].name.clone());
    federation.stop()?;

    let mut outcome = Outcome::default();
    let rule = Rule { least, goal, calm_s, flapping: &flapping };
    let (took, predicted) = rule.times(&evidence)?;
    let rounds = evidence.rounds.len() as f64;
    let ratio = took / predicted;
    let counted = counted(&evidence, &slow);
    outcome.set("sites", sites);
    outcome.set("rounds", evidence.committed().len());
    outcome.set("attempts_abandoned", evidence.abandoned());
    outcome.set("restarts", flaps);
    outcome.set("round_s", rounded(took / rounds, 3));
    outcome.set("predicted_s", rounded(predicted / rounds, 3));
    outcome.set("undisturbed_s", rounded(calm_s, 3));
    outcome.set("ratio", rounded(ratio, 4));
    outcome.set("slow_site_counted", counted);
    outcome.set("seed", args.seed);
    outcome.require((RATIO_MIN..=RATIO_MAX).contains(&ratio), || {
        format!("rounds take {ratio:.2} times the prediction")
    });
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

/// How long a round takes that nobody disturbs: its training, and what every round has beside it.
fn calm_s(evidence: &Evidence) -> anyhow::Result<f64> {
    let rounds = evidence.rounds.get(1..).unwrap_or_default();
    anyhow::ensure!(!rounds.is_empty(), "the undisturbed run has no second round");
    let mut sum = 0.0;
    for round in rounds {
        let (opened, closed) = span(round)?;
        sum += closed - opened;
    }
    Ok(sum / rounds.len() as f64)
}

/// When a round was opened and closed, in seconds since 1970.
fn span(round: &v1::Round) -> anyhow::Result<(f64, f64)> {
    let opened = round.opened_at.as_ref().context("a round has a beginning")?;
    let closed = round.closed_at.as_ref().context("a round of a finished run has an end")?;
    Ok((seconds(opened), seconds(closed)))
}

/// What says how long a round takes: sites join until there are enough, with those that still train for an earlier
/// round, or time is up; members train until all have reported or time is up.
struct Rule<'a> {
    least: usize,
    goal: usize,
    /// [`calm_s`]: a round in which nothing is waited for.
    calm_s: f64,
    /// The site that is killed again and again. How long its training takes follows from that and is looked up.
    flapping: &'a str,
}

impl Rule<'_> {
    /// How long all rounds took, and how long they take by the rule.
    fn times(&self, evidence: &Evidence) -> anyhow::Result<(f64, f64)> {
        let (mut took, mut predicted) = (0.0, 0.0);
        for (before, round) in evidence.rounds.iter().enumerate() {
            let (opened, closed) = span(round)?;
            // The first is open before any site runs.
            let joined = evidence.first_joined(round).filter(|_| before == 0);
            let begun = joined.unwrap_or(opened);
            took += closed - begun;
            predicted += self.round_s(round, begun, evidence.train_late(before, opened));
        }
        Ok((took, predicted))
    }

    /// How long a round takes that began at a time at which so many sites still trained late.
    fn round_s(&self, round: &v1::Round, begun: f64, late: usize) -> f64 {
        let joined = round.members.len();
        let complete = joined >= self.least && joined + late >= self.goal;
        let selection = if complete { 0.0 } else { f64::from(SELECTION_S) };
        if joined < self.least {
            return selection;
        }
        let reporting = f64::from(REPORTING_S);
        if round.members.iter().any(|member| member.state() == MemberState::Joined) {
            return selection + reporting;
        }
        let flapping = round.members.iter().find(|member| member.site == self.flapping);
        let reported = flapping.and_then(|member| member.since.as_ref()).map(seconds);
        let trained = reported.map_or(0.0, |reported| reported - begun - selection);
        // However long it trains, nobody waits for longer than that.
        selection + trained.min(reporting).max(self.calm_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule<'_> = Rule { least: 2, goal: 3, calm_s: 2.0, flapping: "b" };

    fn at(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    }

    /// Round `number` between two times, by members that reported at a time, or not at all.
    fn round(number: u32, times: (i64, i64), members: &[(&str, Option<i64>)]) -> v1::Round {
        let member = |(site, reported): &(&str, Option<i64>)| {
            let state = reported.map_or(MemberState::Joined, |_| MemberState::Reported);
            v1::Member {
                site: (*site).into(),
                state: state.into(),
                since: reported.and_then(at),
                ..v1::Member::default()
            }
        };
        v1::Round {
            r#ref: Some(v1::RoundRef { run: "brain".into(), number, attempt: 1 }),
            phase: v1::RoundPhase::Committed.into(),
            opened_at: at(times.0),
            closed_at: at(times.1),
            members: members.iter().map(member).collect(),
            ..v1::Round::default()
        }
    }

    fn event(kind: &str, seconds: i64, detail: &str) -> v1::Event {
        let (kind, detail) = (kind.into(), detail.into());
        v1::Event { kind, at: at(seconds), detail, ..v1::Event::default() }
    }

    #[test]
    fn nobody_waits_for_a_site_that_still_trains_and_for_one_that_is_not_there_until_time_is_up() {
        let rounds = vec![
            // The slow one is missing.
            round(1, (10, 16), &[("slow", None), ("a", Some(13)), ("b", Some(13))]),
            // It trains on meanwhile: two are enough.
            round(2, (16, 18), &[("a", Some(18)), ("b", Some(18))]),
            // Its update has come, and somebody else is missing.
            round(3, (20, 24), &[("a", Some(24)), ("c", Some(24))]),
            // The flapping one takes a second longer.
            round(4, (24, 27), &[("a", Some(26)), ("c", Some(26)), ("b", Some(27))]),
        ];
        let events = vec![
            event("site_joined", 11, "round brain/1.1: site slow"),
            event("late_update_accepted", 19, "round brain/1.1: site slow, 8 examples, model x"),
        ];
        let evidence = Evidence { run: v1::Run::default(), rounds, events };
        assert_eq!(RULE.times(&evidence).unwrap(), (14.0, 5.0 + 2.0 + (2.0 + 2.0) + 3.0));
        // Too few for a round at all.
        assert_eq!(RULE.round_s(&round(5, (27, 29), &[("a", None)]), 27.0, 2), 2.0);
    }

    #[test]
    fn a_calm_round_is_one_after_the_first() {
        let rounds = vec![round(1, (0, 9), &[]), round(2, (9, 11), &[]), round(3, (11, 15), &[])];
        let evidence = Evidence { run: v1::Run::default(), rounds, events: vec![] };
        assert_eq!(calm_s(&evidence).unwrap(), 3.0);
        assert!(calm_s(&Evidence { rounds: vec![], ..evidence }).is_err());
    }
}
