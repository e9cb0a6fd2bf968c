//! What the coordinator knows, in a database: SQLite, or PostgreSQL by the same SQL.
//!
//! Rows are facts; no row holds a weight. [`Store::save`] writes a change and its audit entries in
//! one transaction, every row with its checksum. The store decides nothing: what it is given was
//! decided, what it loads is checked for being readable and, where a coordinator goes by it, for being
//! what was written.

mod cell;
mod checksum;
mod error;
mod late;
mod lease;
mod let_go;
mod log;
mod named;
mod past;
mod resent;
mod roster;
mod rows;
mod snapshot;
mod write;

use std::future::ready;
use std::time::Duration;

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::names::RoundId;
use jiff::Timestamp;
use sqlx::any::AnyPoolOptions;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{AnyConnection, AnyPool, Connection, Row, SqlSafeStr};

pub use self::checksum::Unsound;
pub use self::error::Error;
use self::error::is_no_table;
pub use self::lease::{Holder, LEASE, LEASE_RENEWAL, Lease};
pub use self::log::Vouched;
pub use self::named::Named;
pub use self::past::{ModelRow, Outcomes};
pub use self::snapshot::{integrity, restore, snapshot, sqlite_url};
use crate::halt::Halt;
pub use crate::records::{Change, Document, DocumentKind, EventRow, Loaded, Log, SiteRow};
use crate::run::Run;

/// How long a statement waits for a database that another process has locked.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long opening the database may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the driver waits for an answer, of a load or a whole save: less than its callers wait for
/// theirs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Connections that read from SQLite.
const SQLITE_READERS_MAX: u32 = 2;

/// How much of SQLite's file the writing connection keeps in memory; the system keeps the rest. So little is
/// full within minutes, and then a coordinator takes no more memory however long it runs.
const SQLITE_WRITER_CACHE_KIB: u32 = 512;

/// The same for one that reads. It reads a few pages a round, so that 512 KiB took an hour to be full.
const SQLITE_READER_CACHE_KIB: u32 = 128;

/// Connections to PostgreSQL: for the driver and the lease, and for readers.
const POSTGRES_CONNECTIONS: (u32, u32) = (2, 3);

/// The database's schema, step by step; a step that was released never changes.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "initial", include_str!("../migrations/0001_initial.sql")),
    (2, "kept", include_str!("../migrations/0002_kept.sql")),
    (3, "late", include_str!("../migrations/0003_late.sql")),
    (4, "lease", include_str!("../migrations/0004_lease.sql")),
    (5, "identity", include_str!("../migrations/0005_identity.sql")),
    (8, "late_index", include_str!("../migrations/0008_late_index.sql")),
    (9, "proposal", include_str!("../migrations/0009_proposal.sql")),
    (10, "log", include_str!("../migrations/0010_log.sql")),
    (11, "plan_signature", include_str!("../migrations/0011_plan_signature.sql")),
    (12, "standing", include_str!("../migrations/0012_standing.sql")),
    (13, "update_index", include_str!("../migrations/0013_update_index.sql")),
    (14, "sealed_at", include_str!("../migrations/0014_sealed_at.sql")),
    (15, "repeats", include_str!("../migrations/0015_repeats.sql")),
    (16, "checksum", include_str!("../migrations/0016_checksum.sql")),
    (17, "let_go", include_str!("../migrations/0017_let_go.sql")),
];

/// The database. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Store {
    /// The driver's: what it loads follows what it saved.
    pool: AnyPool,
    /// Whoever only reads, and keeps nobody from writing meanwhile; nothing can be written here.
    reads: AnyPool,
    /// Which holder of the lease this is; none where it was not asked for, as in most tests.
    epoch: Option<u64>,
    /// Until when the holder before had it.
    vacant_since: Option<Timestamp>,
    halt: Halt,
}

impl Store {
    /// Opens `sqlite:PATH` (made if it is absent) or `postgres://...` and brings its schema up to
    /// date.
    ///
    /// # Errors
    /// If the database does not open, or was written by a newer version.
    pub async fn open(url: &str) -> Result<Store, Error> {
        let store = Store::connect(url).await?;
        store.migrate().await?;
        Ok(store)
    }

    /// The same, with the schema left as it is until whoever calls knows that it is theirs to change.
    ///
    /// # Errors
    /// If the database does not open.
    pub async fn connect(url: &str) -> Result<Store, Error> {
        sqlx::any::install_default_drivers();
        let sqlite = url.starts_with("sqlite:");
        let url = match sqlite && !url.contains('?') {
            true => format!("{url}?mode=rwc"),
            false => url.to_owned(),
        };
        reach("db.open")?;
        // The pool would try again until its time is up; what is wrong is told at once instead.
        let mut probe = AnyConnection::connect(&url).await.map_err(Error::Open)?;
        prepare(&mut probe, SQLITE_WRITER_CACHE_KIB).await.map_err(Error::Open)?;
        probe.close().await.map_err(Error::Open)?;
        let options = || {
            let options = AnyPoolOptions::new()
                .acquire_timeout(CONNECT_TIMEOUT)
                .before_acquire(|connection, _| Box::pin(ready(Ok(is_sound(connection)))));
            match sqlite {
                // Each is a thread with pages of its own, and no server or network ages it. Nor is there
                // anybody to ping: a caller that goes away meanwhile would take the connection with it,
                // and SQLite keeps the file of one that is closed while others are open.
                true => options.idle_timeout(None).max_lifetime(None).test_before_acquire(false),
                false => options,
            }
        };
        // SQLite has one writer at a time; with one connection nobody ever waits for a lock. Readers
        // have a moment of the database to themselves.
        let (writers, readers) =
            if sqlite { (1, SQLITE_READERS_MAX) } else { POSTGRES_CONNECTIONS };
        let pool = options()
            .max_connections(writers)
            .after_connect(|connection, _| Box::pin(prepare(connection, SQLITE_WRITER_CACHE_KIB)))
            .connect(&url);
        let reads = options()
            .max_connections(readers)
            .after_connect(|connection, _| Box::pin(prepare_reader(connection)));
        let pool = pool.await.map_err(Error::Open)?;
        let reads = reads.connect_lazy(&url).map_err(Error::Open)?;
        Ok(Store { pool, reads, epoch: None, vacant_since: None, halt: Halt::default() })
    }

    /// Brings the schema up to date, and opens all of SQLite's readers: descriptors and memory do not grow
    /// when one day two are wanted at once. One that was opened before would know the old schema.
    async fn migrate(&self) -> Result<(), Error> {
        migrate(&self.pool, MIGRATIONS).await?;
        let first = self.reads.acquire().await.map_err(Error::Open)?;
        let more = if first.backend_name() == "SQLite" { SQLITE_READERS_MAX - 1 } else { 0 };
        let mut opened = vec![first];
        for _ in 0..more {
            opened.push(self.reads.acquire().await.map_err(Error::Open)?);
        }
        Ok(())
    }

    /// The same store, which has the process end through `halt`.
    pub fn with_halt(self, halt: &Halt) -> Store {
        Store { halt: halt.clone(), ..self }
    }

    /// Closes the connections; what was saved is on the disk already.
    pub async fn close(&self) {
        self.reads.close().await;
        self.pool.close().await;
    }

    /// Everything a coordinator needs when it starts.
    ///
    /// # Errors
    /// If the database fails, does not answer in time, or holds what this version does not read.
    pub async fn load(&self) -> Result<Loaded, Error> {
        in_time(ANSWER_TIMEOUT, self.read_all()).await
    }

    /// The same to go by: no row of it is another than what was written. Rows of a database of before have been
    /// given their checksums.
    ///
    /// # Errors
    /// As [`Store::load`], and [`Error::Unsound`].
    pub async fn load_sound(&self) -> Result<Loaded, Error> {
        let load = async {
            self.check_loaded().await?;
            self.read_all().await
        };
        in_time(ANSWER_TIMEOUT, load).await
    }

    async fn read_all(&self) -> Result<Loaded, Error> {
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
             run.plan_signature, run.readmitted, run.resumed_from, kept.ema_digest, kept.ema_size, \
             kept.momentum_digest, kept.momentum_size, \
             kept.second_moment_digest, kept.second_moment_size FROM run \
             LEFT JOIN round AS kept ON kept.run = run.name AND kept.number = run.committed \
             AND kept.phase = 'committed' ORDER BY run.created_at, run.name",
        );
        for row in rows.fetch_all(&self.pool).await? {
            let mut saved = rows::run(&row)?;
            let id = RoundId { run: saved.name.clone(), number: 0, attempt: 0 };
            let round = past::round(&self.pool, &id, &saved.plan.plan.round).await?;
            let missing = || Error::Row { column: "round", value: saved.name.to_string() };
            let round = round.ok_or_else(missing)?;
            saved.stragglers = late::stragglers(&self.pool, round.id()).await?;
            saved.tally = late::tally(&self.pool, &saved.name).await?;
            runs.push(Run::restore(saved, round));
        }
        let roster = roster::load(&self.pool).await?;
        let log = self.log().await?;
        let let_go = let_go::load(&self.pool).await?;
        Ok(Loaded { sites, roster, runs, log, let_go })
    }

    /// Writes a change and its audit entries, all or nothing; it is on the disk when this returns.
    ///
    /// # Errors
    /// If the database fails; then nothing was written, but for [`Error::Uncertain`] and
    /// [`Error::Silent`]. If the lease is lost or a sync failed, the process is also asked to end.
    pub async fn save(&self, change: &Change<'_>) -> Result<(), Error> {
        if let Some(why) = self.halt.why() {
            return Err(Error::Halted(why.to_owned()));
        }
        let saved = in_time(ANSWER_TIMEOUT, self.transact(change)).await;
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
            write::run(&mut transaction, *whole, after).await?;
            let id = after.round().id();
            let before = whole.map(Run::round).filter(|round| round.id() == id);
            reach("db.round")?;
            write::round(&mut transaction, before, after.round()).await?;
            reach("db.members")?;
            write::members(&mut transaction, before, after.round()).await?;
            reach("db.stragglers")?;
            late::write(&mut transaction, *whole, after).await?;
        }
        for (run, number) in &change.let_go {
            reach("db.let_go")?;
            let_go::write(&mut transaction, run, *number).await?;
        }
        if !change.events.is_empty() {
            reach("db.event")?;
            write::events(&mut transaction, &change.events).await?;
            reach("db.log")?;
            log::write_nodes(&mut transaction, &change.nodes).await?;
        }
        for document in &change.documents {
            reach("db.document")?;
            log::write_document(&mut transaction, document).await?;
        }
        if !change.heads.is_empty() {
            reach("db.head")?;
            log::write_heads(&mut transaction, &change.heads).await?;
        }
        reach("db.commit")?;
        transaction.commit().await.map_err(Error::Uncertain)?;
        reach("db.committed").map_err(|error| Error::Uncertain(error.into()))
    }
}

/// What comes of `work` within `limit`: a database that hangs holds up nobody for ever.
async fn in_time<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let answer = tokio::time::timeout(limit, work).await;
    answer.unwrap_or(Err(Error::Silent { seconds: limit.as_secs() }))
}

/// Takes the steps that the database has not taken yet, one by one, so that a test may have a process end
/// between any two.
async fn migrate(pool: &AnyPool, steps: &[(i64, &'static str, &'static str)]) -> Result<(), Error> {
    let step = |(version, name, sql): &(i64, &'static str, &'static str)| {
        let sql = sql.into_sql_str();
        Migration::new(*version, (*name).into(), MigrationType::Simple, sql, false)
    };
    let migrator = Migrator::with_migrations(steps.iter().map(step).collect());
    let failed = |error| match error {
        MigrateError::VersionMissing(found) => {
            let known = steps.last().map_or(0, |(version, ..)| *version);
            Error::Newer { found, known }
        }
        error => Error::Migrate(error),
    };
    let taken = newest_step(pool).await?;
    let ahead = steps.iter().map(|(version, ..)| *version).filter(|version| *version > taken);
    for version in ahead.collect::<Vec<i64>>() {
        reach("db.migrate")?;
        migrator.run_to(version, pool).await.map_err(failed)?;
    }
    // It also looks whether those that were taken are these.
    migrator.run(pool).await.map_err(failed)
}

/// The newest step that the database has taken; 0 where it has taken none.
async fn newest_step(pool: &AnyPool) -> Result<i64, Error> {
    let newest = sqlx::query("SELECT MAX(version) AS version FROM _sqlx_migrations");
    match newest.fetch_one(pool).await {
        Ok(row) => Ok(row.try_get::<Option<i64>, _>("version")?.unwrap_or(0)),
        Err(error) if is_no_table(&error) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Whether a connection that was used before may be used again. Where a full disk fails a transaction,
/// SQLite may have rolled it back already, and the driver's own rollback then finds none and goes on
/// counting it. What follows on that connection would be a savepoint within a transaction that nobody
/// ever commits: seen by it alone, told as saved, and gone with the process.
fn is_sound(connection: &AnyConnection) -> bool {
    !connection.is_in_transaction()
}

/// Sets up a fresh connection. A commit is on the disk when it returns, whatever a server's configuration
/// says, and readers do not wait for the writer, which PostgreSQL has by itself.
async fn prepare(connection: &mut AnyConnection, cache_kib: u32) -> Result<(), sqlx::Error> {
    if connection.backend_name() == "SQLite" {
        sqlx::raw_sql(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;",
        )
        .execute(&mut *connection)
        .await?;
        let limits = format!(
            "PRAGMA busy_timeout = {}; PRAGMA cache_size = -{cache_kib};",
            BUSY_TIMEOUT.as_millis()
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(limits)).execute(connection).await?;
    } else {
        sqlx::raw_sql("SET synchronous_commit = on").execute(connection).await?;
    }
    Ok(())
}

/// The same for a connection on which nothing is written.
async fn prepare_reader(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    prepare(connection, SQLITE_READER_CACHE_KIB).await?;
    let read_only = match connection.backend_name() {
        "SQLite" => "PRAGMA query_only = ON",
        _ => "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    };
    sqlx::raw_sql(read_only).execute(connection).await.map(drop)
}

#[cfg(test)]
mod tests;
