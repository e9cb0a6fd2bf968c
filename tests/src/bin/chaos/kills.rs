//! `kills`: SIGKILL at random instants and at named places, and the same bytes in the end.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use fedpaint_tests::evidence::Evidence;
use fedpaint_tests::process::output;

use crate::federation::{Federation, RUN, Shape, undisturbed};
use crate::scenario::exchange;
use crate::storm::{Orders, Report, rage};
use crate::{Args, say};
use fedpaint_tests::outcome::{Outcome, quantile, rounded};

/// What the figures must be.
const RESTART_P99_S_MAX: f64 = 2.0;
const BYTES_RATIO_MAX: f64 = 1.05;
const PLACES_MIN: usize = 40;

/// Places that are passed once in the life of a database, a run or a site, and at no later start, so that waiting
/// for one is in vain: by how their names begin. `crash-points` ends a program at each.
const PASSED_ONCE: [&str; 4] = ["db.checksums", "db.migrate", "db.site", "workspace.plan_"];

/// From how many kills on the shares of bytes and places, and a percentile of times, mean something.
const KILLS_FOR_SHARES: u32 = 500;

/// Runs the mode.
///
/// # Errors
/// If a program does not start, or the run gets stuck.
pub(crate) async fn kills(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    let count = args.count.unwrap_or(1_000);
    let shape = Shape {
        sites: args.sites.unwrap_or(4),
        rounds: args.rounds.unwrap_or(50),
        steps: 24,
        // Long enough that a round has room for its share of a thousand kills on an idle machine.
        steps_ms: if count >= KILLS_FOR_SHARES { 80 } else { 40 },
        checkpoint_steps: 6,
        // 4 MiB: large enough that a connection's handshake is little beside it.
        parameters: if count >= KILLS_FOR_SHARES { 1 << 20 } else { 1 << 16 },
        more: args.encoding.as_deref().map(exchange).unwrap_or_default(),
        ..Shape::default()
    };
    say("the undisturbed run");
    let calm = undisturbed(&work.join("undisturbed"), &shape).await?;
    let orders = Orders {
        // Every process may be on its way to a place when the run ends.
        count: count + shape.sites as u32 + 1,
        rounds: shape.rounds,
        seed: args.seed,
        coordinator: calm
            .coordinator_names()
            .into_iter()
            .filter(|place| is_passed_again(place))
            .collect(),
        sites: calm.site_names().into_iter().filter(|place| is_passed_again(place)).collect(),
    };
    let (c, s) = (orders.coordinator.len(), orders.sites.len());
    let places: BTreeSet<&String> = orders.coordinator.iter().chain(&orders.sites).collect();
    let places = places.len();
    say(&format!("{count} kills over {} rounds, at {c} + {s} places", shape.rounds));

    let mut federation = Federation::found(&work.join("killed"), &shape).await?;
    let start = Instant::now();
    federation.start_agents()?;
    let watch = federation.watch().await?;
    let report = rage(&mut federation, &orders, &watch).await?;
    let wall = start.elapsed();

    let evidence = federation.evidence().await?;
    let findings = evidence.findings(&federation.delivered());
    let identical = evidence.models() == calm.evidence.models();
    let bytes = federation.counted();
    let needed = needed(&federation, &evidence, shape.rounds);
    let ratio = (bytes.up + bytes.down) as f64 / needed;
    let config = federation.lab.path("coordinator.toml");
    federation.stop()?;

    let mut outcome = Outcome::default();
    outcome.set("kills", report.kills());
    outcome.set("rounds", evidence.committed().len());
    outcome.set("places", places);
    outcome.set("identical", identical);
    outcome.set("lost", findings.lost.len());
    outcome.set("doubled", findings.doubled.len());
    outcome.set("manual_steps", report.surprises.len());
    outcome.set("bytes_ratio", rounded(ratio, 4));
    let quiet = (calm.counted.up + calm.counted.down) as f64 / needed;
    outcome.set("bytes_ratio_undisturbed", rounded(quiet, 4));
    figures(&report, &mut outcome);
    outcome.set("attempts_abandoned", evidence.abandoned());
    outcome.set("wall_s", rounded(wall.as_secs_f64(), 1));
    outcome.set("undisturbed_s", rounded(calm.wall.as_secs_f64(), 1));
    outcome.set("seed", args.seed);

    outcome.require(identical, || {
        "the models are other ones than those of the undisturbed run".into()
    });
    outcome
        .require(report.kills() >= count, || "the run ended before all kills had happened".into());
    for (what, list) in [
        ("lost", &findings.lost),
        ("doubled", &findings.doubled),
        ("broken", &findings.broken),
        ("ended by itself", &report.surprises),
    ] {
        outcome.require(list.is_empty(), || format!("{what}: {}", list.join("; ")));
    }
    if count >= KILLS_FOR_SHARES {
        let p99 = quantile(&report.restarts_s, 0.99);
        outcome.require(p99 <= RESTART_P99_S_MAX, || format!("restarts take {p99:.2} s at p99"));
        outcome.require(ratio <= BYTES_RATIO_MAX, || format!("{ratio:.3} times the bytes needed"));
        let places = report.places.len();
        outcome.require(places >= PLACES_MIN, || format!("killed at {places} places only"));
    }
    replayed(&config, &mut outcome);
    Ok(outcome)
}

/// Bytes that must move for so many rounds: the base model to every site, and an update back.
fn needed(federation: &Federation, evidence: &Evidence, rounds: u32) -> f64 {
    let members = evidence.committed().into_iter().flat_map(|round| &round.members);
    let update =
        members.filter_map(|member| member.update.as_ref()).map(|update| update.size).max();
    let bytes = federation.model.size + update.unwrap_or(federation.model.size);
    bytes as f64 * federation.sites.len() as f64 * f64::from(rounds)
}

fn is_passed_again(place: &str) -> bool {
    !PASSED_ONCE.iter().any(|once| place.starts_with(once))
}

fn figures(report: &Report, outcome: &mut Outcome) {
    outcome.set("kills_coordinator", report.coordinator);
    outcome.set("kills_agents", report.agents);
    outcome.set("kills_trainers", report.trainers);
    outcome.set("kills_at_failpoints", report.places.values().sum::<u32>());
    outcome.set("failpoints", report.places.len());
    outcome.set("failpoints_missed", report.missed.keys().cloned().collect::<Vec<_>>());
    for (name, p) in [("restart_p50_s", 0.5), ("restart_p99_s", 0.99), ("restart_max_s", 1.0)] {
        outcome.set(name, rounded(quantile(&report.restarts_s, p), 3));
    }
}

/// The coordinator's own tools agree: every blob and row is there, every model follows from its updates.
fn replayed(config: &str, outcome: &mut Outcome) {
    for args in [vec!["fsck", "--config", config], vec!["replay", "--config", config, "--run", RUN]]
    {
        let verb = args[0];
        let well = output("fedpaint-coordinator", &args).map(|o| o.status.success());
        outcome.set(verb, matches!(well, Ok(true)));
        outcome.require(matches!(well, Ok(true)), || format!("{verb} finds something"));
    }
}
