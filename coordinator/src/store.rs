//! What the coordinator knows, in a database: SQLite, or PostgreSQL by the same SQL.
//!
//! Rows are facts; no row holds a weight. [`Store::save`] writes a change and its audit entries in
//! one transaction. The store decides nothing: what it is given was decided, what it loads is
//! checked only for being readable.

mod error;
mod late;
mod lease;
mod named;
mod roster;
mod rows;
mod snapshot;
mod write;

use std::collections::BTreeMap;
use std::time::Duration;

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::names::{Blob, RoundId, RunName, SiteName};
use fedpaint_proto::plan::RoundPlan;
use jiff::Timestamp;
use sqlx::any::{AnyPoolOptions, AnyRow};
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{AnyConnection, AnyPool, Connection, SqlSafeStr};

pub use self::error::Error;
pub use self::lease::{Holder, LEASE, LEASE_RENEWAL, Lease};
pub use self::named::Named;
use self::rows::Columns;
pub use self::snapshot::{integrity, restore, snapshot, sqlite_url};
use crate::halt::Halt;
pub use crate::records::{Change, EventRow, Loaded, SiteRow};
use crate::round::{Round, Update};
use crate::run::Run;

/// How long a statement waits for a database that another process has locked.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long opening the database may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections to PostgreSQL: one for the driver, the others for readers.
const POSTGRES_CONNECTIONS_MAX: u32 = 4;

/// The database's schema, step by step; a step that was released never changes.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "initial", include_str!("../migrations/0001_initial.sql")),
    (2, "kept", include_str!("../migrations/0002_kept.sql")),
    (3, "late", include_str!("../migrations/0003_late.sql")),
    (4, "lease", include_str!("../migrations/0004_lease.sql")),
    (5, "identity", include_str!("../migrations/0005_identity.sql")),
];

/// The database. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Store {
    pool: AnyPool,
    /// Which holder of the lease this is; none where it was not asked for, as in most tests.
    epoch: Option<u64>,
    halt: Halt,
}

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

impl Store {
    /// Opens `sqlite:PATH` (made if it is absent) or `postgres://...` and brings its schema up to
    /// date.
    ///
    /// # Errors
    /// If the database does not open, or was written by a newer version.
    pub async fn open(url: &str) -> Result<Store, Error> {
        sqlx::any::install_default_drivers();
        let sqlite = url.starts_with("sqlite:");
        let url = match sqlite && !url.contains('?') {
            true => format!("{url}?mode=rwc"),
            false => url.to_owned(),
        };
        // The pool would try again until its time is up; what is wrong is told at once instead.
        let mut probe = AnyConnection::connect(&url).await.map_err(Error::Open)?;
        prepare(&mut probe).await.map_err(Error::Open)?;
        probe.close().await.map_err(Error::Open)?;
        // SQLite has one writer at a time; with one connection nobody ever waits for a lock.
        let connections = if sqlite { 1 } else { POSTGRES_CONNECTIONS_MAX };
        let pool = AnyPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(CONNECT_TIMEOUT)
            .after_connect(|connection, _| Box::pin(prepare(connection)))
            .connect(&url)
            .await
            .map_err(Error::Open)?;
        migrate(&pool, MIGRATIONS).await?;
        Ok(Store { pool, epoch: None, halt: Halt::default() })
    }

    /// The same store, which has the process end through `halt`.
    pub fn with_halt(self, halt: &Halt) -> Store {
        Store { halt: halt.clone(), ..self }
    }

    /// Closes the connections; what was saved is on the disk already.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Everything a coordinator needs when it starts.
    ///
    /// # Errors
    /// If the database fails or holds what this version does not read.
    pub async fn load(&self) -> Result<Loaded, Error> {
        let sites = sqlx::query(
            "SELECT name, enrolled_at, revoked_at, joined_at, signing_key FROM site ORDER BY name",
        );
        let sites = sites.fetch_all(&self.pool).await?;
        let sites = sites.iter().map(rows::site).collect::<Result<_, _>>()?;
        let mut runs = Vec::new();
        // What the last round kept is told by its own row; before the first one nothing was.
        let rows = sqlx::query(
            "SELECT run.name, run.plan, run.initial_digest, run.initial_size, run.model_digest, \
             run.model_size, run.state, run.reason, run.committed, run.failures, run.created_at, \
             kept.ema_digest, kept.ema_size, kept.momentum_digest, kept.momentum_size, \
             kept.second_moment_digest, kept.second_moment_size FROM run \
             LEFT JOIN round AS kept ON kept.run = run.name AND kept.number = run.committed \
             AND kept.phase = 'committed' ORDER BY run.created_at, run.name",
        );
        for row in rows.fetch_all(&self.pool).await? {
            let mut saved = rows::run(&row)?;
            let id = RoundId { run: saved.name.clone(), number: 0, attempt: 0 };
            let round = self.round(&id, &saved.plan.round).await?;
            let missing = || Error::Row { column: "round", value: saved.name.to_string() };
            let round = round.ok_or_else(missing)?;
            saved.stragglers = late::stragglers(&self.pool, round.id()).await?;
            saved.tally = late::tally(&self.pool, &saved.name).await?;
            runs.push(Run::restore(saved, round));
        }
        let models = sqlx::query(
            "SELECT initial_digest AS digest, initial_size AS size FROM run \
             UNION SELECT model_digest, model_size FROM round WHERE phase = 'committed' \
             UNION SELECT ema_digest, ema_size FROM round WHERE ema_digest IS NOT NULL",
        );
        let models = models.fetch_all(&self.pool).await?;
        let models =
            models.iter().map(|row| row.blob("digest", "size")).collect::<Result<_, _>>()?;
        let seq = sqlx::query("SELECT COALESCE(MAX(seq), 0) AS seq FROM event");
        let seq = seq.fetch_one(&self.pool).await?.number("seq")?;
        let roster = roster::load(&self.pool).await?;
        Ok(Loaded { sites, roster, runs, models, seq })
    }

    /// Writes a change and its audit entries, all or nothing; it is on the disk when this returns.
    ///
    /// # Errors
    /// If the database fails; then nothing was written, but for [`Error::Uncertain`]. If the lease is
    /// lost or a sync failed, the process is also asked to end.
    pub async fn save(&self, change: &Change<'_>) -> Result<(), Error> {
        if let Some(why) = self.halt.why() {
            return Err(Error::Halted(why.to_owned()));
        }
        let saved = self.transact(change).await;
        if let Err(error) = &saved
            && error.is_fatal()
        {
            self.halt.call(error.to_string());
        }
        saved
    }

    async fn transact(&self, change: &Change<'_>) -> Result<(), Error> {
        reach("db.begin")?;
        let mut transaction = self.pool.begin().await?;
        if let Some(epoch) = self.epoch {
            lease::fence(&mut transaction, epoch).await?;
        }
        for site in &change.sites {
            reach("db.site")?;
            write::site(&mut transaction, site).await?;
        }
        if let Some((before, after)) = change.roster {
            reach("db.roster")?;
            roster::write(&mut transaction, before, after).await?;
        }
        for (whole, after) in &change.runs {
            reach("db.run")?;
            write::run(&mut transaction, after).await?;
            let id = after.round().id();
            let before = whole.map(Run::round).filter(|round| round.id() == id);
            reach("db.round")?;
            write::round(&mut transaction, after.round()).await?;
            reach("db.members")?;
            write::members(&mut transaction, before, after.round()).await?;
            reach("db.stragglers")?;
            late::write(&mut transaction, *whole, after).await?;
        }
        for event in &change.events {
            reach("db.event")?;
            write::event(&mut transaction, event).await?;
        }
        reach("db.commit")?;
        transaction.commit().await.map_err(Error::Uncertain)?;
        reach("db.committed").map_err(|error| Error::Uncertain(error.into()))
    }

    /// A round with its members, if there is one; number 0 is the newest, attempt 0 its newest.
    ///
    /// # Errors
    /// If the database fails or holds what this version does not read.
    pub async fn round(&self, id: &RoundId, policy: &RoundPlan) -> Result<Option<Round>, Error> {
        let row = sqlx::query(
            "SELECT run, number, attempt, phase, until_at, base_digest, base_size, model_digest, \
             model_size, ema_digest, ema_size, momentum_digest, momentum_size, \
             second_moment_digest, second_moment_size, reason, opened_at, closed_at, due_at, \
             arriving FROM round \
             WHERE run = $1 AND (number = $2 OR $2 = 0) AND (attempt = $3 OR $3 = 0) \
             ORDER BY number DESC, attempt DESC LIMIT 1",
        )
        .bind(id.run.as_str())
        .bind(i64::from(id.number))
        .bind(i64::from(id.attempt));
        let Some(row) = row.fetch_optional(&self.pool).await? else { return Ok(None) };
        let members = sqlx::query(
            "SELECT number, attempt, site, state, update_digest, update_size, examples, report, \
             reason, since FROM member WHERE run = $1 AND number = $2 AND attempt = $3",
        )
        .bind(id.run.as_str())
        .bind(i64::from(row.number::<u32>("number")?))
        .bind(i64::from(row.number::<u32>("attempt")?));
        let mut parts = rows::Parts::default();
        for row in members.fetch_all(&self.pool).await? {
            parts.member(&row)?;
        }
        let number = row.number("number")?;
        for (attempt, site, late) in late::folded(&self.pool, &id.run, number, number).await? {
            if attempt == (number, row.number("attempt")?) {
                parts.late.insert(site, late);
            }
        }
        Ok(Some(rows::round(&row, policy, parts)?))
    }

    /// The newest `limit` rounds of a run with their members, every attempt, oldest first.
    ///
    /// # Errors
    /// If the database fails or holds what this version does not read.
    pub async fn rounds(
        &self,
        run: &RunName,
        policy: &RoundPlan,
        limit: u32,
    ) -> Result<Vec<Round>, Error> {
        let rounds = sqlx::query(
            "SELECT run, number, attempt, phase, until_at, base_digest, base_size, model_digest, \
             model_size, ema_digest, ema_size, momentum_digest, momentum_size, \
             second_moment_digest, second_moment_size, reason, opened_at, closed_at, due_at, \
             arriving FROM round \
             WHERE run = $1 \
             ORDER BY number DESC, attempt DESC LIMIT $2",
        )
        .bind(run.as_str())
        .bind(i64::from(limit));
        let rounds = rounds.fetch_all(&self.pool).await?;
        let Some(oldest) = rounds.last() else { return Ok(Vec::new()) };
        let members = sqlx::query(
            "SELECT number, attempt, site, state, update_digest, update_size, examples, report, \
             reason, since FROM member WHERE run = $1 AND number >= $2",
        )
        .bind(run.as_str())
        .bind(i64::from(oldest.number::<u32>("number")?));
        let mut by_round: BTreeMap<(u32, u32), rows::Parts> = BTreeMap::new();
        for row in members.fetch_all(&self.pool).await? {
            let id = (row.number("number")?, row.number("attempt")?);
            by_round.entry(id).or_default().member(&row)?;
        }
        let numbers = (oldest.number("number")?, u32::MAX);
        for (id, site, late) in late::folded(&self.pool, run, numbers.0, numbers.1).await? {
            by_round.entry(id).or_default().late.insert(site, late);
        }
        let round = |row: &AnyRow| {
            let id = (row.number("number")?, row.number("attempt")?);
            rows::round(row, policy, by_round.remove(&id).unwrap_or_default())
        };
        rounds.iter().rev().map(round).collect()
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
        let row = row.fetch_one(&self.pool).await?;
        Ok((row.number("count")?, row.number("first")?, row.number("last")?))
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
        late::holds(&self.pool, id, site, update).await
    }

    /// The models that a run's rounds made, oldest first.
    ///
    /// # Errors
    /// If the database fails or holds what this version does not read.
    pub async fn models(&self, run: &RunName) -> Result<Vec<ModelRow>, Error> {
        let models = sqlx::query(
            "SELECT number, model_digest, model_size, ema_digest, ema_size, closed_at FROM round \
             WHERE run = $1 AND phase = 'committed' ORDER BY number",
        );
        let models = models.bind(run.as_str()).fetch_all(&self.pool).await?;
        models.iter().map(rows::model).collect()
    }

    /// Audit entries after `after_seq`, oldest first.
    ///
    /// # Errors
    /// If the database fails or holds what this version does not read.
    pub async fn events(&self, after_seq: u64, limit: u32) -> Result<Vec<EventRow>, Error> {
        // Behind the largest number a column holds there is no entry.
        let after_seq = i64::try_from(after_seq).unwrap_or(i64::MAX);
        let events = sqlx::query(
            "SELECT seq, at, actor, kind, detail FROM event WHERE seq > $1 ORDER BY seq LIMIT $2",
        )
        .bind(after_seq)
        .bind(i64::from(limit));
        events.fetch_all(&self.pool).await?.iter().map(rows::event).collect()
    }
}

/// Takes the steps that the database has not taken yet.
async fn migrate(pool: &AnyPool, steps: &[(i64, &'static str, &'static str)]) -> Result<(), Error> {
    let step = |(version, name, sql): &(i64, &'static str, &'static str)| {
        let sql = sql.into_sql_str();
        Migration::new(*version, (*name).into(), MigrationType::Simple, sql, false)
    };
    let migrated = Migrator::with_migrations(steps.iter().map(step).collect()).run(pool).await;
    migrated.map_err(|error| match error {
        MigrateError::VersionMissing(found) => {
            let known = steps.last().map_or(0, |(version, ..)| *version);
            Error::Newer { found, known }
        }
        error => Error::Migrate(error),
    })
}

/// Sets up a fresh connection. On SQLite a commit is on the disk when it returns, and readers do not
/// wait for the writer; PostgreSQL is like that by itself.
async fn prepare(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    if connection.backend_name() == "SQLite" {
        sqlx::raw_sql(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;",
        )
        .execute(&mut *connection)
        .await?;
        let timeout = format!("PRAGMA busy_timeout = {}", BUSY_TIMEOUT.as_millis());
        sqlx::raw_sql(sqlx::AssertSqlSafe(timeout)).execute(connection).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
