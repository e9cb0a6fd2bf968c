//! `cuts`: connections that break in the middle of uploads and downloads, and answers that get lost.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use fedpaint_tests::evidence::Evidence;
use fedpaint_tests::proxy::{Counted, Fault, Plan, Way, faithful};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

use crate::federation::{Federation, Shape, Undisturbed, undisturbed};
use crate::{Args, say};
use fedpaint_tests::outcome::{Outcome, rounded};

const BYTES_RATIO_MAX: f64 = 1.05;

/// From how many cuts on their share of the bytes means something.
const CUTS_FOR_SHARES: u32 = 500;

/// From how many cuts on each kind of fault, and each way, is to be among them.
const CUTS_FOR_KINDS: u32 = 100;

/// Parameters of the model: 2 MiB, many times what a cut or a handshake costs.
const PARAMETERS: usize = 1 << 19;

/// Sizes of the model that a connection brings one way until it breaks, on average. With fewer, more is
/// sent twice.
const BYTES_PER_CUT: f64 = 0.8;

/// Rounds beyond those in which all cuts are expected.
const SPARE: f64 = 1.25;

/// Cuts within a connection's first bytes: handshake, settings, the first calls.
const EARLY_BYTES: u64 = 12 << 10;

/// The longest stall.
const STALL_MS_MAX: u64 = 400;

/// What a slow line brings: a model in half a second.
const THROTTLED_BYTES_PER_S: u64 = 4 << 20;

/// The part of `--count` that is lost answers.
const LOST_REPLIES_SHARE: u32 = 10;

/// Runs the mode.
///
/// # Errors
/// If a program does not start, or the run gets stuck.
pub(crate) async fn cuts(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    let count = args.count.unwrap_or(1_000);
    let sites = args.sites.unwrap_or(4);
    // A round brings one model to a site and one back.
    let rounds = f64::from(count) * BYTES_PER_CUT / sites as f64 * SPARE;
    let rounds = rounds.ceil() as u32 + 2;
    let shape = Shape {
        sites,
        rounds: args.rounds.unwrap_or(rounds),
        steps: 2,
        steps_ms: 0,
        checkpoint_steps: 0,
        parameters: if count >= CUTS_FOR_SHARES { PARAMETERS } else { PARAMETERS / 4 },
        ..Shape::default()
    };
    say("the undisturbed run");
    let calm = undisturbed(&work.join("undisturbed"), &shape).await?;
    let mut outcome = Outcome::default();
    outcome.set("seed", args.seed);
    broken_transfers(args, work, &shape, count, &calm, &mut outcome).await?;
    lost_replies(args, work, &shape, (count / LOST_REPLIES_SHARE).max(4), &mut outcome).await?;
    Ok(outcome)
}

async fn broken_transfers(
    args: &Args,
    work: &Path,
    shape: &Shape,
    count: u32,
    calm: &Undisturbed,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    say(&format!("{count} cuts over {} rounds", shape.rounds));
    let mut federation = Federation::found(&work.join("cut"), shape).await?;
    // What is left to befall the two connections that each site has at the end befalls nobody.
    let left = Arc::new(AtomicU32::new(count + 2 * shape.sites as u32));
    for (stream, site) in (0..).zip(&federation.sites) {
        site.proxy.plan(cutting(args.seed, stream, federation.model.size, Arc::clone(&left)));
    }
    let start = Instant::now();
    federation.start_agents()?;
    let mut watch = federation.watch().await?;
    federation.finish(&mut watch).await?;
    let counted = federation.counted();
    let evidence = federation.evidence().await?;
    let findings = evidence.findings(&federation.delivered());
    let needed = federation.bytes_needed(shape.rounds);
    let survived = survivors(&mut federation)?;
    federation.stop()?;

    let (equal, all) = digest_equal(&evidence, &calm.evidence);
    let Counted { cut, corrupted, stalled, throttled, connections, .. } = counted;
    let Counted { broken_up, broken_down, .. } = counted;
    let ratio = (counted.up + counted.down) as f64 / needed;
    let quiet = (calm.counted.up + calm.counted.down) as f64 / needed;
    outcome.set("cuts", cut + corrupted);
    outcome.set("cuts_up", broken_up);
    outcome.set("cuts_down", broken_down);
    outcome.set("cut", cut);
    outcome.set("corrupted", corrupted);
    outcome.set("stalled", stalled);
    outcome.set("throttled", throttled);
    outcome.set("connections", connections);
    outcome.set("transfers", all);
    outcome.set("digest_equal", rounded(equal as f64 / all.max(1) as f64, 6));
    outcome.set("bytes_ratio", rounded(ratio, 4));
    outcome.set("bytes_ratio_undisturbed", rounded(quiet, 4));
    outcome.set("lost", findings.lost.len());
    outcome.set("doubled", findings.doubled.len());
    outcome.set("wall_s", rounded(start.elapsed().as_secs_f64(), 1));
    outcome.require(equal == all, || format!("{} of {all} transfers differ", all - equal));
    outcome.require(findings == Default::default(), || format!("{findings:?}"));
    outcome.require(survived, || "an agent ended by itself".into());
    outcome.require(cut + corrupted >= u64::from(count), || "the run ended before all cuts".into());
    if count >= CUTS_FOR_KINDS {
        for (what, times) in [
            ("stalled", stalled),
            ("slow", throttled),
            ("broken on its way up", broken_up),
            ("broken on its way down", broken_down),
        ] {
            outcome.require(times > 0, || format!("no connection was {what}"));
        }
    }
    if count >= CUTS_FOR_SHARES {
        outcome.require(ratio <= BYTES_RATIO_MAX, || format!("{ratio:.3} times the bytes needed"));
    }
    Ok(())
}

/// Cuts, corruptions, stalls and slow lines at random bytes, until `left` have happened.
fn cutting(seed: u64, stream: u64, size: u64, left: Arc<AtomicU32>) -> Plan {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    Box::new(move || {
        let take = |left: u32| left.checked_sub(1);
        if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return Vec::new();
        }
        let way = if rng.random_range(0..2) == 0 { Way::Up } else { Way::Down };
        let after = match rng.random_range(0..20) {
            0 => rng.random_range(0..EARLY_BYTES),
            _ => rng.random_range(EARLY_BYTES..2 * (size as f64 * BYTES_PER_CUT) as u64),
        };
        let mut faults = Vec::new();
        if rng.random_range(0..10) == 0 {
            let time = Duration::from_millis(rng.random_range(0..STALL_MS_MAX));
            faults.push(Fault::Stall { way, after: after / 2, time });
        }
        if rng.random_range(0..10) == 0 {
            faults.push(Fault::Throttle { way, bytes_per_s: THROTTLED_BYTES_PER_S });
        }
        faults.push(match rng.random_range(0..3) {
            0 => Fault::Corrupt { way, at: after },
            _ => Fault::Cut { way, after },
        });
        faults
    })
}

/// How many transfers brought the bytes of the undisturbed run, and how many there were: every update,
/// and every base model at every site, which its update follows from.
fn digest_equal(found: &Evidence, calm: &Evidence) -> (usize, usize) {
    let (updates, expected) = (found.updates(), calm.updates());
    let same = expected.iter().filter(|(key, digest)| updates.get(key) == Some(digest)).count();
    (2 * same, 2 * expected.len())
}

/// Whether every agent still runs.
fn survivors(federation: &mut Federation) -> anyhow::Result<bool> {
    for site in &mut federation.sites {
        if let Some(agent) = &mut site.agent
            && !agent.is_running()?
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Uploads whose answer, or whose submission's answer, never arrives: nothing is sent again.
async fn lost_replies(
    args: &Args,
    work: &Path,
    shape: &Shape,
    count: u32,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let rounds = count.div_ceil(shape.sites as u32) + 1;
    let shape = Shape { rounds, ..shape.clone() };
    say(&format!("lost answers over {rounds} rounds"));
    let mut federation = Federation::found(&work.join("lost-replies"), &shape).await?;
    let size = federation.model.size;
    let mut rng = ChaCha12Rng::seed_from_u64(args.seed ^ 1);
    for site in &federation.sites {
        let mut rng = ChaCha12Rng::seed_from_u64(rng.random());
        // The whole update is up, less what its framing may have saved; then the 1st, 2nd, ... answer.
        let plan = move || vec![Fault::LoseReply { after: size, replies: rng.random_range(0..4) }];
        site.proxy.plan(Box::new(plan));
    }
    federation.start_agents()?;
    let mut watch = federation.watch().await?;
    federation.finish(&mut watch).await?;
    let evidence = federation.evidence().await?;
    let findings = evidence.findings(&federation.delivered());
    let (mut again, mut surplus_most) = (0, 0.0_f64);
    for site in &federation.sites {
        site.proxy.plan(faithful());
        // What a site sends beside its updates, in models. Less than half of one is no update that was sent again:
        // each lost answer costs a handshake with two certificates, the calls that ask what is there, and what was
        // under way when the connection was cut, which is rightly sent once more; and every update its framing.
        // All of a site's lost answers share it, so that of many a part of an update sent after each shows too.
        let surplus = site.proxy.counted().up.saturating_sub(u64::from(rounds) * size);
        let surplus = surplus as f64 / size as f64;
        surplus_most = surplus_most.max(surplus);
        again += surplus.round() as u64;
    }
    let lost = federation.counted().lost_replies;
    federation.stop()?;
    outcome.set("lost_replies", lost);
    outcome.set("reuploads_after_lost_reply", again);
    outcome.set("surplus_of_a_model", rounded(surplus_most, 3));
    outcome.require(again == 0, || format!("{again} updates were sent again"));
    outcome.require(findings == Default::default(), || format!("{findings:?}"));
    outcome.require(lost >= u64::from(count), || format!("only {lost} answers were lost"));
    Ok(())
}
