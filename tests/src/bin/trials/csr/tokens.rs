//! What one should not do with a join token. Whatever the coordinator refuses is in its audit log; a token of another
//! root is refused by the site, whose own command says so, and of which the coordinator hears no more than the alert.

use std::path::Path;
use std::process::Output;
use std::time::Instant;

use anyhow::{Context, ensure};
use fedpaint_coordinator::store::{Change, Store, sqlite_url};
use fedpaint_proto::enrolment::{Pin, Token};
use fedpaint_proto::names::SiteName;
use fedpaint_proto::reason::Reason;
use fedpaint_proto::v1;
use fedpaint_tests::lab::Lab;
use fedpaint_tests::outcome::Outcome;
use fedpaint_tests::process::{ANSWER_TIMEOUT, output};
use jiff::Timestamp;
use tonic::Status;

use super::{invite, join, keys};

/// How many guesses burn an invitation.
const GUESSES: u8 = 5;

/// The exit code of a command that did not do what it was asked for.
const FAILED: i32 = 1;

/// What a site says of a coordinator whose root is not the token's.
const OTHER_ROOT: &str = "the root there is not the one that the token names";

/// The kinds of the audit log's entries for a token that was refused: of an invitation, and of none.
const REFUSALS: [&str; 2] = [" join_refused ", " stranger_refused "];

/// The kind of the entry for a site that does not believe the coordinator.
const DISTRUST: &str = " coordinator_distrusted ";

/// Does all of it.
pub(super) async fn tokens(lab: &mut Lab, outcome: &mut Outcome) -> anyhow::Result<()> {
    let mut refused = guessed(lab, outcome).await?;
    refused += used(lab, outcome).await?;
    refused += of_no_invitation(lab, outcome).await?;
    unapproved(lab, outcome).await?;
    refused += expired(lab, outcome).await?;
    let pinned = of_another_root(lab, outcome)?;
    outcome.set("tokens_refused", refused);
    outcome.set("wrong_pins_refused", u32::from(pinned));
    let events = lab.fedctl(&["events"])?;
    let is_refusal = |line: &&str| REFUSALS.iter().any(|kind| line.contains(kind));
    let logged = events.lines().filter(is_refusal).count();
    outcome.set("refusals_logged", logged);
    outcome.require(logged == refused as usize, || {
        format!("{logged} of {refused} refusals are in the audit log: {events}")
    });
    for told in [
        "site guessed: its token is of no use any more",
        "site late: the invitation has expired",
        "site late: nobody has joined by it in time",
        "site another: there is no invitation",
    ] {
        outcome.require(events.contains(told), || format!("the audit log never says: {told}"));
    }
    Ok(())
}

/// Guesses burn it, so that the right secret is of no use after five.
async fn guessed(lab: &Lab, outcome: &mut Outcome) -> anyhow::Result<u32> {
    let guessed = invite(lab, "guessed", &[])?;
    let mut refused = 0;
    for n in 0..GUESSES {
        let guess = Token { secret: [n; 32], ..guessed.clone() };
        refused += expect(outcome, "a guess", join(lab, &guess, &keys()?).await?);
    }
    Ok(refused + expect(outcome, "a burnt token", join(lab, &guessed, &keys()?).await?))
}

/// Whoever comes second with it is refused, and does not hold up the first.
async fn used(lab: &Lab, outcome: &mut Outcome) -> anyhow::Result<u32> {
    let used = invite(lab, "used", &["--auto-approve"])?;
    let first = keys()?;
    let admitted = join(lab, &used, &first).await?;
    outcome.require(admitted.is_ok_and(|a| !a.certificate_pem.is_empty()), || "no join".into());
    let refused = expect(outcome, "a token that was used", join(lab, &used, &keys()?).await?);
    let again = join(lab, &used, &first).await?;
    outcome.require(again.is_ok_and(|a| !a.certificate_pem.is_empty()), || "lost answer".into());
    Ok(refused)
}

/// Another site's, and nobody's.
async fn of_no_invitation(lab: &Lab, outcome: &mut Outcome) -> anyhow::Result<u32> {
    let other = invite(lab, "one", &[])?;
    let swapped = Token { site: "another".parse()?, ..other.clone() };
    let answer = join(lab, &swapped, &keys()?).await?;
    let refused = expect(outcome, "a token for a site that was not invited", answer);
    lab.fedctl(&["site", "reject", "one"])?;
    let answer = join(lab, &other, &keys()?).await?;
    Ok(refused + expect(outcome, "a token that was rejected", answer))
}

/// A token is not approved by other words than those of the keys.
async fn unapproved(lab: &Lab, outcome: &mut Outcome) -> anyhow::Result<()> {
    let waiting = invite(lab, "waiting", &[])?;
    let pending = join(lab, &waiting, &keys()?).await??;
    ensure!(pending.certificate_pem.is_empty(), "a site was let in that nobody approved");
    let wrong = lab.fedctl(&["site", "approve", "waiting", "lusab-babad-gutih-tugad-mudof-sakat"]);
    outcome.require(wrong.is_err(), || "other words were approved".into());
    Ok(())
}

/// A token whose time is over, by the row of its invitation, which is rewritten while the coordinator is stopped.
/// The one beside it, whose row is as it was, lets its site in: nothing but the time is refused.
async fn expired(lab: &mut Lab, outcome: &mut Outcome) -> anyhow::Result<u32> {
    let late = invite(lab, "late", &["--auto-approve"])?;
    let early = invite(lab, "early", &["--auto-approve"])?;
    lab.coordinator()?.stop()?;
    end_invitation(Path::new(&lab.path("coordinator/coordinator.db")), &late.site).await?;
    lab.start_coordinator()?;
    let refused = expect(outcome, "a token that expired", join(lab, &late, &keys()?).await?);
    let admitted = join(lab, &early, &keys()?).await?;
    outcome.require(admitted.is_ok_and(|a| !a.certificate_pem.is_empty()), || {
        "a token that has not expired lets nobody in".into()
    });
    Ok(refused)
}

/// Has an invitation end long ago, in the database of a coordinator that is stopped.
async fn end_invitation(database: &Path, site: &SiteName) -> anyhow::Result<()> {
    let store = Store::open(&sqlite_url(database)).await?;
    let before = store.load().await?.roster;
    let mut after = before.clone();
    let invite = after.invites.get_mut(site).context("the invitation is not in the database")?;
    invite.expires_at = Timestamp::UNIX_EPOCH;
    let change = Change { roster: Some((&before, &after)), ..Change::default() };
    store.save(&change).await.context("the invitation is not rewritten")?;
    store.close().await;
    Ok(())
}

/// A token of another root than the coordinator's: the site's own command refuses it, says why, and ends as a
/// command that failed, with nothing of a certificate and nothing asked of the coordinator, whose audit log tells of
/// the alert alone. By the token's own root the same command lets the site in, so that nothing else is refused.
fn of_another_root(lab: &Lab, outcome: &mut Outcome) -> anyhow::Result<bool> {
    let token = invite(lab, "pinned", &["--auto-approve"])?;
    let before = lab.fedctl(&["events"])?;
    let refused = by_command(lab, &Token { root: Pin([7; 32]), ..token.clone() })?;
    let told = String::from_utf8_lossy(&refused.stderr);
    let certificate = lab.path("pinned/pinned.pem");
    let is_told = refused.status.code() == Some(FAILED) && told.contains(OTHER_ROOT);
    let heard = heard_since(lab, before.lines().count())?;
    let is_unheard = matches!(&heard[..], [only] if only.contains(DISTRUST));
    let has_nothing = refused.stdout.is_empty() && !Path::new(&certificate).exists();
    let well = is_told && is_unheard && has_nothing;
    outcome.require(well, || format!("a token of another root: {refused:?}, told as {heard:?}"));
    let joined = by_command(lab, &token)?;
    let lets_in = joined.status.success() && Path::new(&certificate).exists();
    outcome.require(lets_in, || format!("the token's own root lets nobody in: {joined:?}"));
    Ok(well && lets_in)
}

/// What the audit log is told behind so many lines, once it is told anything.
fn heard_since(lab: &Lab, lines: usize) -> anyhow::Result<Vec<String>> {
    let asked = Instant::now();
    loop {
        let events = lab.fedctl(&["events"])?;
        let heard: Vec<String> = events.lines().skip(lines).map(str::to_owned).collect();
        if !heard.is_empty() || asked.elapsed() > ANSWER_TIMEOUT {
            return Ok(heard);
        }
    }
}

/// Joins as a hospital does.
fn by_command(lab: &Lab, token: &Token) -> anyhow::Result<Output> {
    let (token, out, data) = (token.to_string(), lab.path("pinned"), lab.path("no-scans"));
    let args = ["join", &token, "--coordinator", lab.address(), "--out", &out, "--data", &data];
    output("fedpaint-site-agent", &args)
}

/// One if whoever asks was refused for its token, and a finding if not.
fn expect(outcome: &mut Outcome, what: &str, answer: Result<v1::JoinResponse, Status>) -> u32 {
    let refused = answer.as_ref().err().and_then(Reason::of) == Some(Reason::JoinRefused);
    outcome.require(refused, || format!("{what}: {answer:?}"));
    refused.into()
}
