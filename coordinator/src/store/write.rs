//! Values into rows. Every statement may be repeated: a row that is there is brought up to date, and
//! only an audit entry is never written twice.

use fedpaint_proto::names::SiteName;
use sqlx::{AnyConnection, AssertSqlSafe};

use super::cell::Bound;
use super::checksum::{Insert, insert};
use super::rows::{self, micros};
use super::{Error, EventRow, SiteRow, roster};
use crate::round::Round;
use crate::run::Run;

pub(super) async fn site(connection: &mut AnyConnection, site: &SiteRow) -> Result<(), Error> {
    insert(
        "INSERT INTO site (name, enrolled_at, revoked_at, joined_at, signing_key, checksum) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (name) DO UPDATE SET enrolled_at = $2, \
         revoked_at = $3, joined_at = $4, signing_key = $5, checksum = $6",
    )
    .bind(site.name.as_str())
    .bind(micros(site.enrolled_at))
    .bind(site.revoked_at.map(micros))
    .bind(site.joined_at.map(micros))
    .bind(site.signing_key.map(|key| roster::hex(&key)))
    .execute(connection)
    .await
}

/// Writes a run's own row, if it differs from that of `before`.
pub(super) async fn run(
    connection: &mut AnyConnection,
    before: Option<&Run>,
    after: &Run,
) -> Result<(), Error> {
    run_row(after)?.execute_after(before.map(run_row).transpose()?, connection).await
}

fn run_row(run: &Run) -> Result<Insert, Error> {
    let (state, reason) = rows::run_state(run.state())?;
    let (signature, readmitted) = (&run.signed_plan().signature, run.readmitted());
    let resumed_from = run.resumed_from();
    let row = insert(
        "INSERT INTO run (name, plan, initial_digest, initial_size, model_digest, model_size, \
         state, reason, committed, failures, created_at, plan_signature, readmitted, \
         resumed_from, checksum) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) \
         ON CONFLICT (name) DO UPDATE SET plan = $2, initial_digest = $3, initial_size = $4, \
         model_digest = $5, model_size = $6, state = $7, reason = $8, committed = $9, \
         failures = $10, created_at = $11, plan_signature = $12, readmitted = $13, \
         resumed_from = $14, checksum = $15",
    )
    .bind(run.name().as_str())
    .bind(run.plan().to_toml())
    .bind(run.initial().digest.to_string())
    .bind(rows::bigint("a blob's size", run.initial().size)?)
    .bind(run.model().digest.to_string())
    .bind(rows::bigint("a blob's size", run.model().size)?)
    .bind(state)
    .bind(reason)
    .bind(i64::from(run.committed()))
    .bind(i64::from(run.failures()))
    .bind(micros(run.created_at()))
    .bind(signature.as_ref().map(|it| rows::json("plan_signature", it)).transpose()?)
    .bind((!readmitted.is_empty()).then(|| rows::json("readmitted", readmitted)).transpose()?)
    .bind(resumed_from.map(|round| rows::json("resumed_from", &round)).transpose()?);
    Ok(row)
}

/// Writes a round's own row, if it differs from that of `before`.
pub(super) async fn round(
    connection: &mut AnyConnection,
    before: Option<&Round>,
    after: &Round,
) -> Result<(), Error> {
    round_row(after)?.execute_after(before.map(round_row).transpose()?, connection).await
}

fn round_row(round: &Round) -> Result<Insert, Error> {
    let phase = rows::phase(round.phase())?;
    let (due_at, arriving) = rows::stretch_columns(round)?;
    let standings = round.standings();
    let row = insert(
        "INSERT INTO round (run, number, attempt, phase, until_at, base_digest, base_size, \
         model_digest, model_size, reason, opened_at, closed_at, ema_digest, ema_size, \
         momentum_digest, momentum_size, second_moment_digest, second_moment_size, due_at, \
         arriving, standings, sealed_at, checksum) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, \
         $19, $20, $21, $22, $23) \
         ON CONFLICT (run, number, attempt) DO UPDATE SET phase = $4, until_at = $5, \
         base_digest = $6, base_size = $7, model_digest = $8, model_size = $9, reason = $10, \
         opened_at = $11, closed_at = $12, ema_digest = $13, ema_size = $14, \
         momentum_digest = $15, momentum_size = $16, second_moment_digest = $17, \
         second_moment_size = $18, due_at = $19, arriving = $20, standings = $21, \
         sealed_at = $22, checksum = $23",
    )
    .bind(round.id().run.as_str())
    .bind(i64::from(round.id().number))
    .bind(i64::from(round.id().attempt))
    .bind(phase.word)
    .bind(phase.until_at)
    .bind(round.base().digest.to_string())
    .bind(rows::bigint("a blob's size", round.base().size)?)
    .bind(phase.model.digest)
    .bind(phase.model.size)
    .bind(phase.reason)
    .bind(micros(round.opened_at()))
    .bind(round.closed_at().map(micros))
    .bind(phase.ema.digest)
    .bind(phase.ema.size)
    .bind(phase.momentum.digest)
    .bind(phase.momentum.size)
    .bind(phase.second_moment.digest)
    .bind(phase.second_moment.size)
    .bind(due_at)
    .bind(arriving)
    .bind((!standings.is_empty()).then(|| rows::json("standings", &standings)).transpose()?)
    .bind(round.sealed_at().map(micros));
    Ok(row)
}

/// Writes the members that differ from `before`, and deletes those that are gone.
pub(super) async fn members(
    connection: &mut AnyConnection,
    before: Option<&Round>,
    after: &Round,
) -> Result<(), Error> {
    let id = after.id();
    let held = |site: &SiteName| {
        before.and_then(|before| Some((before.members().get(site)?, before.since(site))))
    };
    for (site, member) in after.members() {
        let since = after.since(site);
        if held(site) == Some((member, since)) {
            continue;
        }
        let row = rows::member_columns(member)?;
        insert(
            "INSERT INTO member (run, number, attempt, site, state, update_digest, update_size, \
             examples, report, reason, since, checksum) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
             ON CONFLICT (run, number, attempt, site) DO UPDATE SET state = $5, \
             update_digest = $6, update_size = $7, examples = $8, report = $9, reason = $10, \
             since = $11, checksum = $12",
        )
        .bind(id.run.as_str())
        .bind(i64::from(id.number))
        .bind(i64::from(id.attempt))
        .bind(site.as_str())
        .bind(row.state)
        .bind(row.update.weights.digest)
        .bind(row.update.weights.size)
        .bind(row.update.examples)
        .bind(row.update.report)
        .bind(row.reason)
        .bind(since.map(micros))
        .execute(connection)
        .await?;
    }
    let gone = before.into_iter().flat_map(|before| before.members().keys());
    for site in gone.filter(|site| !after.members().contains_key(*site)) {
        sqlx::query(
            "DELETE FROM member WHERE run = $1 AND number = $2 AND attempt = $3 AND site = $4",
        )
        .bind(id.run.as_str())
        .bind(i64::from(id.number))
        .bind(i64::from(id.attempt))
        .bind(site.as_str())
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Writes audit entries, several by one statement: each is a way to the database and back.
pub(super) async fn events(
    connection: &mut AnyConnection,
    events: &[EventRow],
) -> Result<(), Error> {
    for some in events.chunks(ROWS_AT_ONCE) {
        let head = "INSERT INTO event (seq, at, actor, kind, detail, document)";
        let mut statement = insert_rows(head, some.len(), 6);
        for EventRow { seq, at, actor, kind, detail, document } in some {
            statement = statement
                .bind(rows::bigint("the count of audit entries", *seq)?)
                .bind(micros(*at))
                .bind(actor.clone())
                .bind(kind.clone())
                .bind(detail.clone())
                .bind(document.map(|digest| digest.to_string()));
        }
        statement.execute(&mut *connection).await?;
    }
    Ok(())
}

/// How many rows are written by one statement.
pub(super) const ROWS_AT_ONCE: usize = 16;

/// A statement that writes so many rows, of so many columns each, behind its `head`.
pub(super) fn insert_rows(head: &'static str, rows: usize, columns: usize) -> Bound {
    let row = |first: usize| {
        let places: Vec<String> = (first..first + columns).map(|at| format!("${at}")).collect();
        format!("({})", places.join(", "))
    };
    let all: Vec<String> = (0..rows).map(|at| row(at * columns + 1)).collect();
    // It is made of numbers and of a text of the program.
    sqlx::query(AssertSqlSafe(format!("{head} VALUES {}", all.join(", "))))
}
