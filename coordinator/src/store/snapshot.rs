//! The whole database as one SQLite file: a moment of it, taken while its coordinator writes, and back
//! into an empty database. Where the database is SQLite the copy is SQLite's own; where it is PostgreSQL
//! the rows are read in one transaction and written to SQLite, which holds the same schema.
//!
//! The lease stays behind: a copy is nobody's.

use std::path::Path;

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe, Connection, Row};
use tokio_stream::StreamExt;

use super::cell::{Cell, cells};
use super::error::is_no_table;
use super::{BUSY_TIMEOUT, Error, MIGRATIONS, Store};

/// The tables, in an order in which no row comes before one that it refers to.
pub(super) const TABLES: [&str; 16] = [
    "site",
    "invite",
    "ended_invite",
    "certificate",
    "operator",
    "proposal",
    "run",
    "round",
    "member",
    "straggler",
    "event",
    "log_node",
    "signer",
    "log_head",
    "document",
    "let_go",
];

/// Writes the database at `url`, as it is at one moment, to the new SQLite file `to`. Nothing is
/// changed in the database, not even its schema.
///
/// # Errors
/// If either database fails, or `to` is there.
pub async fn snapshot(url: &str, to: &Path) -> Result<(), Error> {
    let mut from = attach(url).await?;
    if is_sqlite(&from) {
        let path = to.display().to_string();
        sqlx::query("VACUUM INTO $1").bind(path).execute(&mut from).await?;
        let copy = Store::open(&sqlite_url(to)).await?;
        sqlx::query("DELETE FROM lease").execute(&copy.pool).await?;
        copy.close().await;
    } else {
        let found = version(&mut from).await?;
        let known = MIGRATIONS.last().map_or(0, |(version, ..)| *version);
        match found.cmp(&known) {
            std::cmp::Ordering::Less => return Err(Error::Older { found, known }),
            std::cmp::Ordering::Greater => return Err(Error::Newer { found, known }),
            std::cmp::Ordering::Equal => {}
        }
        let copy = Store::open(&sqlite_url(to)).await?;
        let mut moment = from.begin().await?;
        sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            .execute(&mut *moment)
            .await?;
        let mut into = copy.pool.begin().await?;
        copy_rows(&mut moment, &mut into).await?;
        into.commit().await?;
        copy.close().await;
    }
    from.close().await?;
    Ok(())
}

/// Fills the empty database at `url`, which is made if it is absent, with what [`snapshot`] wrote. The
/// file `from` is brought up to date where an older version wrote it.
///
/// # Errors
/// If it is not empty, which is then left as it is, or either database fails; [`Error::Uncertain`] where it may have
/// been filled all the same.
pub async fn restore(from: &Path, url: &str) -> Result<(), Error> {
    let into = Store::connect(url).await?;
    let held =
        sqlx::query("SELECT (SELECT COUNT(*) FROM site) + (SELECT COUNT(*) FROM event) AS n");
    let held: i64 = match held.fetch_one(&into.pool).await {
        Ok(held) => held.try_get("n")?,
        // There are no such tables yet.
        Err(error) if is_no_table(&error) => 0,
        Err(error) => return Err(error.into()),
    };
    if held > 0 {
        return Err(Error::NotEmpty);
    }
    into.migrate().await?;
    let from = Store::open(&sqlite_url(from)).await?;
    let mut rows = from.pool.acquire().await?;
    let mut transaction = into.pool.begin().await?;
    copy_rows(&mut rows, &mut transaction).await?;
    transaction.commit().await.map_err(Error::Uncertain)?;
    drop(rows);
    from.close().await;
    into.close().await;
    Ok(())
}

/// What the engine itself finds wrong with the database at `url`, one line each. PostgreSQL keeps its
/// constraints itself and has no such question.
///
/// # Errors
/// If the database does not open or answer.
pub async fn integrity(url: &str) -> Result<Vec<String>, Error> {
    let mut connection = attach(url).await?;
    let mut found = Vec::new();
    if is_sqlite(&connection) {
        // The pragma's column is untyped where there is nothing to tell, so it is cast.
        let rows =
            sqlx::query("SELECT CAST(integrity_check AS TEXT) AS line FROM pragma_integrity_check")
                .fetch_all(&mut connection)
                .await?;
        for row in rows {
            found.push(row.try_get::<String, _>("line")?);
        }
        found.retain(|line| line != "ok");
        let rows = sqlx::query(
            "SELECT CAST(\"table\" || ' row ' || COALESCE(rowid, '?') || ' refers to ' || \"parent\" \
             AS TEXT) AS line FROM pragma_foreign_key_check",
        )
        .fetch_all(&mut connection)
        .await?;
        for row in rows {
            let line: String = row.try_get("line")?;
            found.push(format!("{line}, which has no such row"));
        }
    }
    connection.close().await?;
    Ok(found)
}

/// The URL of an SQLite file.
pub fn sqlite_url(file: &Path) -> String {
    crate::config::sqlite(file)
}

/// Opens a database that is there, and neither makes nor changes anything.
async fn attach(url: &str) -> Result<AnyConnection, Error> {
    sqlx::any::install_default_drivers();
    let sqlite = url.starts_with("sqlite:");
    let url = match sqlite && !url.contains('?') {
        true => format!("{url}?mode=rw"),
        false => url.to_owned(),
    };
    let mut connection = AnyConnection::connect(&url).await.map_err(Error::Open)?;
    if sqlite {
        let timeout = format!("PRAGMA busy_timeout = {}", BUSY_TIMEOUT.as_millis());
        sqlx::raw_sql(AssertSqlSafe(timeout)).execute(&mut connection).await?;
    }
    Ok(connection)
}

fn is_sqlite(connection: &AnyConnection) -> bool {
    connection.backend_name() == "SQLite"
}

async fn version(connection: &mut AnyConnection) -> Result<i64, Error> {
    let row = sqlx::query("SELECT MAX(version) AS version FROM _sqlx_migrations");
    Ok(row.fetch_one(connection).await?.try_get("version")?)
}

async fn copy_rows(from: &mut AnyConnection, to: &mut AnyConnection) -> Result<(), Error> {
    for table in TABLES {
        // The names come from the list above and from the schema, never from outside.
        let select = AssertSqlSafe(format!("SELECT * FROM {table}"));
        let mut rows = sqlx::query(select).fetch(&mut *from);
        while let Some(row) = rows.next().await {
            let (sql, values) = insertion(table, &row?)?;
            let mut insert = sqlx::query(AssertSqlSafe(sql));
            for value in values {
                insert = value.bind(insert);
            }
            insert.execute(&mut *to).await?;
        }
    }
    Ok(())
}

/// The statement that writes a row, and what is bound to it: what is not NULL.
fn insertion(table: &str, row: &AnyRow) -> Result<(String, Vec<Cell>), Error> {
    let (columns, values): (Vec<String>, Vec<Cell>) = cells(row)?.into_iter().unzip();
    let places: Vec<String> = (1..=columns.len()).map(|place| format!("${place}")).collect();
    let (columns, places) = (columns.join(", "), places.join(", "));
    Ok((format!("INSERT INTO {table} ({columns}) VALUES ({places})"), values))
}
