//! Malformed updates of the real network, sent to a real coordinator by both bad sites: it must refuse each with
//! its reason, and take the honest sites' in the same round.

use std::path::{Path, PathBuf};

use anyhow::Context;
use fedpaint_proto::limits::EXAMPLES_MAX;
use fedpaint_proto::names::{Blob, Digest};
use fedpaint_proto::plan::{Encoding, ExchangePlan, Part};
use fedpaint_proto::reason::Reason;
use fedpaint_proto::v1;
use fedpaint_proto::weights::{Sources, encode};
use fedpaint_tests::fake_site::FakeSite;
use fedpaint_tests::lab::Lab;
use fedpaint_tests::outcome::Outcome;

use super::federation::{BAD, Federation};
use crate::say;

/// Examples that an honest site has seen.
const EXAMPLES: u64 = 80;

/// What a bad site says.
struct Said {
    what: &'static str,
    file: PathBuf,
    blob: Blob,
    base: Digest,
    examples: u64,
    /// Why it has to be refused.
    reason: Reason,
}

/// Sends all of them, and notes how many were refused and how many honest updates were taken.
pub(super) async fn refused(
    federation: &Federation,
    work: &Path,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let sites: Vec<usize> = (0..federation.len()).collect();
    let updates = federation.trained(federation.initial(), 1, &sites)?;
    let lab = Lab::start(work)?;
    let initial = blob(federation.initial())?;
    let good = federation.len() - BAD.len();
    let plan = format!(
        "version = 1\nrounds = 2\n[round]\nsites_min = {good}\nsites_goal = {}\n\
         selection_s = 600\nreporting_s = 600\n[aggregation]\nrule = \"trimmed_mean\"\ntrim = 0.2\n",
        federation.len()
    );
    lab.create_run("brain", &plan, federation.initial(), initial).await?;
    let mut joined = Vec::new();
    for at in &sites {
        let mut site = FakeSite::enroll(&lab, &format!("site-{at}")).await?;
        site.join().await?;
        joined.push(site);
    }
    let (mut tried, mut refused, mut taken) = (0, 0, 0);
    for at in BAD {
        let site = &mut joined[at];
        let round = site.task().await?.round.context("a round to train in")?;
        for said in malformed(federation, &updates[at], initial.digest, work)? {
            tried += 1;
            let why = send(site, &round, &said).await?;
            let is_refused = why == Some(said.reason);
            refused += u32::from(is_refused);
            outcome.require(is_refused, || {
                format!("{}: {why:?}, where it was to be refused by {:?}", said.what, said.reason)
            });
        }
    }
    for at in sites.iter().copied().filter(|at| !BAD.contains(at)) {
        let site = &mut joined[at];
        let round = site.task().await?.round.context("a round to train in")?;
        let file = work.join("honest");
        let blob = federation.form().write(&file, &updates[at])?;
        site.upload(&round, blob, &file).await?;
        taken += u32::from(site.submit(&round, initial.digest, blob, EXAMPLES).await.is_ok());
    }
    say(&format!("{refused} of {tried} malformed updates refused, {taken} of {good} honest taken"));
    outcome.require(taken as usize == good, || format!("{taken} of {good} honest updates taken"));
    outcome.set("malformed", tried);
    outcome.set("malformed_refused", refused);
    outcome.set("honest_taken", taken);
    Ok(())
}

/// The reason by which a coordinator refuses what is said; none if it does not.
async fn send(
    site: &mut FakeSite,
    round: &v1::RoundRef,
    said: &Said,
) -> anyhow::Result<Option<Reason>> {
    site.upload(round, said.blob, &said.file).await.with_context(|| said.what)?;
    let answer = site.submit(round, said.base, said.blob, said.examples).await;
    Ok(answer.err().as_ref().and_then(Reason::of))
}

/// Everything that a bad site says, made of an update that it has trained.
fn malformed(
    federation: &Federation,
    trained: &[f32],
    base: Digest,
    work: &Path,
) -> anyhow::Result<Vec<Said>> {
    let form = federation.form();
    let with = |name: &str, value: f32| -> anyhow::Result<(PathBuf, Blob)> {
        let mut values = trained.to_vec();
        let middle = values.len() / 2;
        values[middle] = value;
        let file = work.join(name);
        let blob = form.write(&file, &values)?;
        Ok((file, blob))
    };
    let good = with("good", trained[trained.len() / 2])?;
    let mut said = Vec::new();
    let mut add = |what, (file, blob): (PathBuf, Blob), base, examples, reason| {
        said.push(Said { what, file, blob, base, examples, reason });
    };
    for (what, value) in [
        ("not a number", f32::NAN),
        ("infinity", f32::INFINITY),
        ("minus infinity", f32::NEG_INFINITY),
    ] {
        add(what, with(what, value)?, base, EXAMPLES, Reason::NotFinite);
    }
    let other = Digest::of(b"another model");
    add("another base model", good.clone(), other, EXAMPLES, Reason::WrongBaseModel);
    for (what, examples) in [
        ("no weight", 0),
        ("an absurd weight", EXAMPLES_MAX + 1),
        ("the most absurd weight", u64::MAX),
    ] {
        add(what, good.clone(), base, examples, Reason::WrongExamples);
    }
    let encoded = ExchangePlan { encoding: Encoding::Int8, part: Part::All };
    let (update, left) = (work.join("encoded"), work.join("left"));
    let sources = Sources { base: federation.initial(), trained: &good.0, remainder: None };
    let made = encode(encoded, sources, &update, &left)?;
    add("another form", (update, made.update), base, EXAMPLES, Reason::WrongForm);
    let text = work.join("text");
    std::fs::write(&text, "this is no model")?;
    let text = (text.clone(), blob(&text)?);
    add("no model", text, base, EXAMPLES, Reason::NotAModel);
    Ok(said)
}

/// What a file is.
fn blob(path: &Path) -> anyhow::Result<Blob> {
    let bytes = std::fs::read(path)?;
    Ok(Blob { digest: Digest::of(&bytes), size: bytes.len() as u64 })
}
