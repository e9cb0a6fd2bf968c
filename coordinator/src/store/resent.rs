//! Which updates of a round are files that its run was sent for an earlier round. The answer follows from rounds
//! that are over, and so is the same whenever it is asked: before the average, after a restart, by `replay`.

use fedpaint_proto::names::RoundId;
use sqlx::AnyPool;
use sqlx::any::AnyRow;

use super::rows::Columns;
use super::{ANSWER_TIMEOUT, Error, Store, in_time};
use crate::sealed::Resent;

/// The updates of a round, its own and those that are folded in, whose file was accepted for a round of a lower
/// number than their own, whatever became of it. A round that is tried again has the number that it had, because
/// sites train the same bytes again. Of late updates those are asked that were folded in before: one that comes
/// later must not change what a past round followed from.
const RESENT: &str = "\
    WITH held AS (\
     SELECT run, number, site, update_digest FROM member \
     WHERE run = $1 AND number = $2 AND attempt = $3 AND update_digest IS NOT NULL \
     UNION ALL SELECT run, number, site, update_digest FROM straggler \
     WHERE run = $1 AND into_number = $2 AND into_attempt = $3 AND state IN ('sealed', 'folded')) \
    SELECT held.site AS site, held.number AS number FROM held WHERE EXISTS \
     (SELECT 1 FROM member AS past WHERE past.run = held.run \
     AND past.update_digest = held.update_digest AND past.number < held.number) \
    OR EXISTS \
     (SELECT 1 FROM straggler AS past WHERE past.run = held.run \
     AND past.update_digest = held.update_digest AND past.number < held.number \
     AND past.state = 'folded' AND past.into_number < $2)";

impl Store {
    /// Which updates of a sealed round are files that its run was sent for an earlier one.
    ///
    /// # Errors
    /// If the database fails, does not answer in time, or holds what this version does not read.
    pub async fn resent(&self, round: &RoundId) -> Result<Resent, Error> {
        in_time(ANSWER_TIMEOUT, resent(&self.pool, round)).await
    }
}

async fn resent(pool: &AnyPool, round: &RoundId) -> Result<Resent, Error> {
    let found = sqlx::query(RESENT)
        .bind(round.run.as_str())
        .bind(i64::from(round.number))
        .bind(i64::from(round.attempt));
    let one = |row: &AnyRow| Ok((row.parsed("site")?, row.number("number")?));
    found.fetch_all(pool).await?.iter().map(one).collect()
}
