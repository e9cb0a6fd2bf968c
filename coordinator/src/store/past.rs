//! What is past, for whoever asks: rounds, the models they made, the audit log. It is read beside the
//! driver, which waits for none of it.

use std::collections::BTreeMap;

use fedpaint_proto::names::{Blob, Digest, RoundId, RunName, SiteName};
use fedpaint_proto::plan::RoundPlan;
use jiff::Timestamp;
use sqlx::AnyPool;
use sqlx::any::AnyRow;

use super::rows::{self, Columns};
use super::{Error, EventRow, Store, late};
use crate::round::{Round, Update};
use crate::run::Straggler;

/// A model that a round made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRow {
    /// Which round.
    pub round: u32,
    /// The file.
    pub blob: Blob,
    /// The moving average of the run's models up to this one.
    pub ema: Option<Blob>,
    /// When the round was committed.
    pub committed_at: Timestamp,
}

/// How many rounds have ended, every attempt counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// With a model.
    pub committed: u64,
    /// With nothing.
    pub abandoned: u64,
    /// The newest audit entry by then: later ones tell of more.
    pub seq: u64,
}

impl Store {
    /// A round with its members, if there is one; number 0 is the newest, attempt 0 its newest.
    ///
    /// # Errors
    /// If the database fails or holds what this version does not read.
    pub async fn round(&self, id: &RoundId, policy: &RoundPlan) -> Result<Option<Round>, Error> {
        round(&self.reads, id, policy).await
    }

    /// The newest `limit` rounds of a run before the number and attempt `before`, with their members,
    /// every attempt, oldest first.
    ///
    /// # Errors
    /// If the database fails or holds what this version does not read.
    pub async fn rounds(
        &self,
        run: &RunName,
        policy: &RoundPlan,
        before: Option<(u32, u32)>,
        limit: u32,
    ) -> Result<Vec<Round>, Error> {
        let (number, attempt) = before.unwrap_or((u32::MAX, u32::MAX));
        let rounds = sqlx::query(
            "SELECT run, number, attempt, phase, until_at, base_digest, base_size, model_digest, \
             model_size, ema_digest, ema_size, momentum_digest, momentum_size, \
             second_moment_digest, second_moment_size, reason, opened_at, closed_at, due_at, \
             arriving, standings, sealed_at FROM round \
             WHERE run = $1 AND number <= $2 AND (number < $2 OR attempt < $3) \
             ORDER BY number DESC, attempt DESC LIMIT $4",
        )
        .bind(run.as_str())
        .bind(i64::from(number))
        .bind(i64::from(attempt))
        .bind(i64::from(limit));
        let rounds = rounds.fetch_all(&self.reads).await?;
        let (Some(newest), Some(oldest)) = (rounds.first(), rounds.last()) else {
            return Ok(Vec::new());
        };
        let numbers: (u32, u32) = (oldest.number("number")?, newest.number("number")?);
        let members = sqlx::query(
            "SELECT number, attempt, site, state, update_digest, update_size, examples, report, \
             reason, since FROM member WHERE run = $1 AND number >= $2 AND number <= $3",
        )
        .bind(run.as_str())
        .bind(i64::from(numbers.0))
        .bind(i64::from(numbers.1));
        let mut by_round: BTreeMap<(u32, u32), rows::Parts> = BTreeMap::new();
        for row in members.fetch_all(&self.reads).await? {
            let id = (row.number("number")?, row.number("attempt")?);
            by_round.entry(id).or_default().member(&row)?;
        }
        for (id, site, late) in late::folded(&self.reads, run, numbers.0, numbers.1).await? {
            by_round.entry(id).or_default().late.insert(site, late);
        }
        let round = |row: &AnyRow| {
            let id = (row.number("number")?, row.number("attempt")?);
            rows::round(row, policy, by_round.remove(&id).unwrap_or_default())
        };
        rounds.iter().rev().map(round).collect()
    }

    /// Every straggler that a run had, in whatever state it is.
    ///
    /// # Errors
    /// If the database fails or holds what this version does not read.
    pub async fn stragglers(&self, run: &RunName) -> Result<Vec<(SiteName, Straggler)>, Error> {
        late::all(&self.reads, run).await
    }

    /// The stragglers of a run whose own rounds have the numbers `first` to `last`.
    ///
    /// # Errors
    /// If the database fails or holds what this version does not read.
    pub async fn late(
        &self,
        run: &RunName,
        first: u32,
        last: u32,
    ) -> Result<Vec<(SiteName, Straggler)>, Error> {
        late::of_rounds(&self.reads, run, (first, last)).await
    }

    /// How many audit entries there are, and the first and the last one's number.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn audit_extent(&self) -> Result<(u64, u64, u64), Error> {
        let row = sqlx::query(
            "SELECT COUNT(*) AS count, COALESCE(MIN(seq), 0) AS first, COALESCE(MAX(seq), 0) AS last \
             FROM event",
        );
        let row = row.fetch_one(&self.reads).await?;
        Ok((row.number("count")?, row.number("first")?, row.number("last")?))
    }

    /// How many rounds have ended, and how; nothing where there is no round.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn outcomes(&self) -> Result<Outcomes, Error> {
        let rows = sqlx::query(
            "SELECT phase, COUNT(*) AS rounds, (SELECT COALESCE(MAX(seq), 0) FROM event) AS seq \
             FROM round GROUP BY phase",
        );
        let mut outcomes = Outcomes::default();
        for row in rows.fetch_all(&self.reads).await? {
            outcomes.seq = row.number("seq")?;
            match row.text("phase")?.as_str() {
                "committed" => outcomes.committed = row.number("rounds")?,
                "abandoned" => outcomes.abandoned = row.number("rounds")?,
                _ => {}
            }
        }
        Ok(outcomes)
    }

    /// Whether this very update of `site` for the round `id` came late and was accepted, whatever became
    /// of it.
    ///
    /// # Errors
    /// If the database fails or holds what this version does not read.
    pub async fn counted_late(
        &self,
        id: &RoundId,
        site: &SiteName,
        update: &Update,
    ) -> Result<bool, Error> {
        late::holds(&self.reads, id, site, update).await
    }

    /// The newest `limit` models that rounds of a run before `before` made, oldest first.
    ///
    /// # Errors
    /// If the database fails or holds what this version does not read.
    pub async fn models(
        &self,
        run: &RunName,
        before: Option<u32>,
        limit: u32,
    ) -> Result<Vec<ModelRow>, Error> {
        let models = sqlx::query(
            "SELECT number, model_digest, model_size, ema_digest, ema_size, closed_at FROM round \
             WHERE run = $1 AND number < $2 AND phase = 'committed' \
             ORDER BY number DESC LIMIT $3",
        )
        .bind(run.as_str())
        .bind(before.map_or(i64::MAX, i64::from))
        .bind(i64::from(limit));
        models.fetch_all(&self.reads).await?.iter().rev().map(rows::model).collect()
    }

    /// The model with this digest, if a run began from it or a round made it, or it is the moving average
    /// beside one.
    ///
    /// # Errors
    /// If the database fails or holds what this version does not read.
    pub async fn global_model(&self, digest: &Digest) -> Result<Option<Blob>, Error> {
        let model = sqlx::query(
            "SELECT initial_digest AS digest, initial_size AS size FROM run WHERE initial_digest = $1 \
             UNION SELECT model_digest, model_size FROM round \
             WHERE phase = 'committed' AND model_digest = $1 \
             UNION SELECT ema_digest, ema_size FROM round WHERE ema_digest = $1",
        );
        let model = model.bind(digest.to_string()).fetch_optional(&self.reads).await?;
        model.map(|row| row.blob("digest", "size")).transpose()
    }

    /// Audit entries after `after_seq`, oldest first.
    ///
    /// # Errors
    /// If the database fails or holds what this version does not read.
    pub async fn events(&self, after_seq: u64, limit: u32) -> Result<Vec<EventRow>, Error> {
        // Behind the largest number a column holds there is no entry.
        let after_seq = i64::try_from(after_seq).unwrap_or(i64::MAX);
        let events = sqlx::query(
            "SELECT seq, at, actor, kind, detail, document FROM event WHERE seq > $1 \
             ORDER BY seq LIMIT $2",
        )
        .bind(after_seq)
        .bind(i64::from(limit));
        events.fetch_all(&self.reads).await?.iter().map(rows::event).collect()
    }

    /// In the words of the audit log, which blobs were set aside. It reads every entry, and is for who has found
    /// one that was.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn rot_told(&self) -> Result<Vec<String>, Error> {
        let told = sqlx::query("SELECT detail FROM event WHERE kind = 'blob_rotten' ORDER BY seq");
        told.fetch_all(&self.reads).await?.iter().map(|row| row.text("detail")).collect()
    }
}

/// A round with its members, as [`Store::round`] finds it.
pub(super) async fn round(
    pool: &AnyPool,
    id: &RoundId,
    policy: &RoundPlan,
) -> Result<Option<Round>, Error> {
    let row = sqlx::query(
        "SELECT run, number, attempt, phase, until_at, base_digest, base_size, model_digest, \
         model_size, ema_digest, ema_size, momentum_digest, momentum_size, \
         second_moment_digest, second_moment_size, reason, opened_at, closed_at, due_at, \
         arriving, standings, sealed_at FROM round \
         WHERE run = $1 AND number >= $2 AND number <= $3 AND attempt >= $4 AND attempt <= $5 \
         ORDER BY number DESC, attempt DESC LIMIT 1",
    )
    .bind(id.run.as_str())
    .bind(i64::from(id.number))
    .bind(if id.number == 0 { i64::MAX } else { id.number.into() })
    .bind(i64::from(id.attempt))
    .bind(if id.attempt == 0 { i64::MAX } else { id.attempt.into() });
    let Some(row) = row.fetch_optional(pool).await? else { return Ok(None) };
    let members = sqlx::query(
        "SELECT number, attempt, site, state, update_digest, update_size, examples, report, \
         reason, since FROM member WHERE run = $1 AND number = $2 AND attempt = $3",
    )
    .bind(id.run.as_str())
    .bind(i64::from(row.number::<u32>("number")?))
    .bind(i64::from(row.number::<u32>("attempt")?));
    let mut parts = rows::Parts::default();
    for row in members.fetch_all(pool).await? {
        parts.member(&row)?;
    }
    let number = row.number("number")?;
    for (attempt, site, late) in late::folded(pool, &id.run, number, number).await? {
        if attempt == (number, row.number("attempt")?) {
            parts.late.insert(site, late);
        }
    }
    Ok(Some(rows::round(&row, policy, parts)?))
}
