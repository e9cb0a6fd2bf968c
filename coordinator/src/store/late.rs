//! Stragglers to rows and back, and who was missing: counted from the rows, so that runs from before
//! it was counted tell it too.

use fedpaint_proto::names::{RoundId, RunName, SiteName};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AnyPool};

use super::Error;
use super::checksum::insert;
use super::rows::{self, Columns, micros};
use crate::round::{LateUpdate, Update};
use crate::run::{Late, Run, Straggler, Tally};
use crate::standing::Standing;

/// The stragglers of a run whose update may still count, and those that were settled in the newest
/// round, which is `newest`.
pub(super) async fn stragglers(
    pool: &AnyPool,
    newest: &RoundId,
) -> Result<Vec<(SiteName, Straggler)>, Error> {
    let found = sqlx::query(
        "SELECT run, number, attempt, site, base_digest, base_size, since, state, update_digest, \
         update_size, examples, report, reason FROM straggler WHERE run = $1 \
         AND (into_number IS NULL OR (into_number = $2 AND into_attempt = $3))",
    )
    .bind(newest.run.as_str())
    .bind(i64::from(newest.number))
    .bind(i64::from(newest.attempt));
    found.fetch_all(pool).await?.iter().map(straggler).collect()
}

/// Every straggler that a run had.
pub(super) async fn all(
    pool: &AnyPool,
    run: &RunName,
) -> Result<Vec<(SiteName, Straggler)>, Error> {
    let found = sqlx::query(
        "SELECT run, number, attempt, site, base_digest, base_size, since, state, update_digest, \
         update_size, examples, report, reason FROM straggler WHERE run = $1",
    );
    found.bind(run.as_str()).fetch_all(pool).await?.iter().map(straggler).collect()
}

/// The stragglers of a run whose own rounds have the numbers `first` to `last`.
pub(super) async fn of_rounds(
    pool: &AnyPool,
    run: &RunName,
    (first, last): (u32, u32),
) -> Result<Vec<(SiteName, Straggler)>, Error> {
    let found = sqlx::query(
        "SELECT run, number, attempt, site, base_digest, base_size, since, state, update_digest, \
         update_size, examples, report, reason FROM straggler \
         WHERE run = $1 AND number >= $2 AND number <= $3",
    );
    let found = found.bind(run.as_str()).bind(i64::from(first)).bind(i64::from(last));
    found.fetch_all(pool).await?.iter().map(straggler).collect()
}

fn straggler(row: &AnyRow) -> Result<(SiteName, Straggler), Error> {
    let state = row.text("state")?;
    let late = match state.as_str() {
        "training" => Late::Training,
        "reported" => Late::Reported(rows::update(row)?),
        "sealed" => Late::Sealed(rows::update(row)?),
        "folded" => Late::Folded(rows::update(row)?),
        "dropped" => {
            let came = row.blob_or_none("update_digest", "update_size")?.is_some();
            let update = came.then(|| rows::update(row)).transpose()?;
            Late::Dropped { update, why: row.json("reason")? }
        }
        _ => return Err(Error::Row { column: "state", value: state }),
    };
    let base = row.blob("base_digest", "base_size")?;
    let straggler = Straggler { round: round(row)?, base, since: row.time("since")?, late };
    Ok((row.parsed("site")?, straggler))
}

fn round(row: &AnyRow) -> Result<RoundId, Error> {
    Ok(RoundId {
        run: row.parsed("run")?,
        number: row.number("number")?,
        attempt: row.number("attempt")?,
    })
}

/// The number and attempt of a round, and a late update that is part of it.
type Folded = ((u32, u32), SiteName, LateUpdate);

/// Which late updates are part of which rounds. It is asked with each round that is read.
pub(super) const FOLDED: &str = "\
    SELECT run, number, attempt, site, base_digest, base_size, into_number, into_attempt, \
    update_digest, update_size, examples, report FROM straggler WHERE run = $1 \
    AND into_number >= $2 AND into_number <= $3 AND state IN ('sealed', 'folded')";

/// The late updates that are part of the rounds from number `first` to `last`.
pub(super) async fn folded(
    pool: &AnyPool,
    run: &RunName,
    first: u32,
    last: u32,
) -> Result<Vec<Folded>, Error> {
    let found = sqlx::query(FOLDED).bind(run.as_str()).bind(i64::from(first)).bind(i64::from(last));
    let one = |row: &AnyRow| {
        let base = row.blob("base_digest", "base_size")?;
        let late = LateUpdate { round: round(row)?, base, update: rows::update(row)? };
        let into = (row.number("into_number")?, row.number("into_attempt")?);
        Ok((into, row.parsed("site")?, late))
    };
    found.fetch_all(pool).await?.iter().map(one).collect()
}

/// Whether this very update of a straggler was accepted.
pub(super) async fn holds(
    pool: &AnyPool,
    id: &RoundId,
    site: &SiteName,
    update: &Update,
) -> Result<bool, Error> {
    let found = sqlx::query(
        "SELECT run, number, attempt, site, base_digest, base_size, since, state, update_digest, \
         update_size, examples, report, reason FROM straggler \
         WHERE run = $1 AND number = $2 AND attempt = $3 AND site = $4",
    )
    .bind(id.run.as_str())
    .bind(i64::from(id.number))
    .bind(i64::from(id.attempt))
    .bind(site.as_str());
    let held = found.fetch_optional(pool).await?.as_ref().map(straggler).transpose()?;
    let taken = held.as_ref().and_then(|(_, straggler)| straggler.late.taken());
    Ok(taken.is_some_and(|taken| taken.is(update)))
}

/// Who was missing in the committed rounds of a run.
pub(super) async fn tally(pool: &AnyPool, run: &RunName) -> Result<Tally, Error> {
    let mut tally = Tally::default();
    let short = sqlx::query(
        "SELECT COUNT(*) AS rounds FROM round WHERE run = $1 AND phase = 'committed' AND EXISTS \
         (SELECT 1 FROM member WHERE member.run = round.run AND member.number = round.number \
         AND member.attempt = round.attempt AND member.state <> 'reported')",
    );
    let short = short.bind(run.as_str()).fetch_one(pool).await?;
    tally.rounds_short = short.number("rounds")?;
    let missing = sqlx::query(
        "SELECT member.site AS site, COUNT(*) AS rounds FROM member JOIN round \
         ON member.run = round.run AND member.number = round.number \
         AND member.attempt = round.attempt \
         WHERE round.run = $1 AND round.phase = 'committed' AND member.state <> 'reported' \
         GROUP BY member.site",
    );
    for row in missing.bind(run.as_str()).fetch_all(pool).await? {
        tally.absences.entry(row.parsed("site")?).or_default().missing = row.number("rounds")?;
    }
    quarantined(pool, run, &mut tally).await?;
    let members = sqlx::query(
        "SELECT DISTINCT member.site AS site FROM member JOIN round ON member.run = round.run \
         AND member.number = round.number AND member.attempt = round.attempt \
         WHERE round.run = $1 AND round.phase = 'committed'",
    );
    for row in members.bind(run.as_str()).fetch_all(pool).await? {
        tally.members.insert(row.parsed("site")?);
    }
    let folded = sqlx::query(
        "SELECT site, COUNT(*) AS rounds FROM straggler WHERE run = $1 AND state = 'folded' \
         GROUP BY site",
    );
    for row in folded.bind(run.as_str()).fetch_all(pool).await? {
        tally.absences.entry(row.parsed("site")?).or_default().folded = row.number("rounds")?;
    }
    Ok(tally)
}

/// Whose updates the committed rounds of a run have left out, and the rounds that lacked a member for that
/// alone. The rows that may tell of one are found by how such a standing is written.
async fn quarantined(pool: &AnyPool, run: &RunName, tally: &mut Tally) -> Result<(), Error> {
    let found = sqlx::query(
        "SELECT standings, (SELECT COUNT(*) FROM member WHERE member.run = round.run \
         AND member.number = round.number AND member.attempt = round.attempt \
         AND member.state <> 'reported') AS lacked FROM round WHERE run = $1 AND phase = 'committed' AND standings LIKE '%\"excluded\":true%'",
    );
    for row in found.bind(run.as_str()).fetch_all(pool).await? {
        let standings: Vec<Standing> = row.json("standings")?;
        let (own, lacked) = (tally.left_out(&standings), row.number::<u32>("lacked")?);
        tally.rounds_short += u32::from(own && lacked == 0);
    }
    Ok(())
}

/// Writes the stragglers that differ from `before`. Whoever was settled, was so in the round in hand.
pub(super) async fn write(
    connection: &mut AnyConnection,
    before: Option<&Run>,
    after: &Run,
) -> Result<(), Error> {
    for (site, straggler) in after.stragglers() {
        let Straggler { round, base, since, late } = straggler;
        if before.and_then(|before| before.straggler(round, site)) == Some(straggler) {
            continue;
        }
        let (state, why) = match late {
            Late::Training => ("training", None),
            Late::Reported(_) => ("reported", None),
            Late::Sealed(_) => ("sealed", None),
            Late::Folded(_) => ("folded", None),
            Late::Dropped { why, .. } => ("dropped", Some(rows::json("reason", why)?)),
        };
        let waits = matches!(late, Late::Training | Late::Reported(_));
        let into = (!waits).then(|| after.round().id());
        let update = rows::update_columns(late.update())?;
        insert(
            "INSERT INTO straggler (run, number, attempt, site, base_digest, base_size, since, \
             state, into_number, into_attempt, update_digest, update_size, examples, report, \
             reason, checksum) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) \
             ON CONFLICT (run, number, attempt, site) DO UPDATE SET base_digest = $5, \
             base_size = $6, since = $7, state = $8, into_number = $9, into_attempt = $10, \
             update_digest = $11, update_size = $12, examples = $13, report = $14, reason = $15, \
             checksum = $16",
        )
        .bind(round.run.as_str())
        .bind(i64::from(round.number))
        .bind(i64::from(round.attempt))
        .bind(site.as_str())
        .bind(base.digest.to_string())
        .bind(rows::bigint("a blob's size", base.size)?)
        .bind(micros(*since))
        .bind(state)
        .bind(into.map(|id| i64::from(id.number)))
        .bind(into.map(|id| i64::from(id.attempt)))
        .bind(update.weights.digest)
        .bind(update.weights.size)
        .bind(update.examples)
        .bind(update.report)
        .bind(why)
        .execute(connection)
        .await?;
    }
    Ok(())
}
