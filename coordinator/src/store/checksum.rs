//! The checksum of a row: a hash of all that is in it, written with it, so that a row which is not any more what
//! was written is found, whatever it says by then. It is no signature: whoever edits rows and means to can make
//! it anew. What was signed, and what the audit log tells, is compared with the rows beside it.

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::names::Digest;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe, Row};
use tokio_stream::StreamExt;

use super::cell::{Bound, Cell, cells};
use super::{Error, Store, lease};

/// The tables whose rows have a checksum, and the columns by which their rows are told apart. Entries of the
/// audit log and nodes of its tree are hashed already, and a lease is renewed all the time: no copy has one.
pub(super) const TABLES: [(&str, &[&str]); 14] = [
    ("site", &["name"]),
    ("invite", &["site"]),
    ("ended_invite", &["secret_hash"]),
    ("certificate", &["key"]),
    ("operator", &["name"]),
    ("proposal", &["id"]),
    ("run", &["name"]),
    ("round", &["run", "number", "attempt"]),
    ("member", &["run", "number", "attempt", "site"]),
    ("straggler", &["run", "number", "attempt", "site"]),
    ("signer", &["fingerprint"]),
    ("log_head", &["size"]),
    ("document", &["fingerprint"]),
    ("let_go", &["run"]),
];

/// The rows that [`Store::load`] reads one by one, as they lie. Of a run's rounds those are the newest one and the one
/// that made its model: all attempts from that number on, so that there are as few of them however many rounds are
/// over. `CROSS JOIN` has SQLite begin with the runs, and come to those rows by their keys.
pub(super) const LOADED: [(&str, &str); 11] = [
    ("site", "SELECT * FROM site"),
    ("invite", "SELECT * FROM invite"),
    ("ended_invite", "SELECT * FROM ended_invite"),
    ("certificate", "SELECT * FROM certificate"),
    ("operator", "SELECT * FROM operator"),
    ("proposal", "SELECT * FROM proposal"),
    ("run", "SELECT * FROM run"),
    (
        "round",
        "SELECT round.* FROM run CROSS JOIN round \
         WHERE round.run = run.name AND round.number >= run.committed",
    ),
    (
        "member",
        "SELECT member.* FROM run CROSS JOIN member \
         WHERE member.run = run.name AND member.number >= run.committed",
    ),
    (
        "straggler",
        "SELECT straggler.* FROM run CROSS JOIN straggler WHERE straggler.run = run.name \
         AND (straggler.into_number IS NULL OR straggler.into_number >= run.committed)",
    ),
    ("let_go", "SELECT * FROM let_go"),
];

/// The column that it is in.
const COLUMN: &str = "checksum";

/// How many rows of a database of before are in memory while they are given theirs.
const AT_ONCE: u32 = 1_000;

/// A row that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsound {
    /// Which one: `row brain/3/1/mayo of the table member`.
    pub row: String,
    /// What is wrong with it.
    pub found: &'static str,
}

impl Unsound {
    /// What is wrong with a row of a table, if anything is, where all rows have checksums.
    ///
    /// # Errors
    /// If it was not had, for more than that it does not read.
    fn of(
        (table, keys): (&str, &[&str]),
        row: Result<Summed, Error>,
    ) -> Result<Option<Unsound>, Error> {
        let (key, found) = match row {
            Ok(row) if row.held.as_ref() == Some(&row.expected) => return Ok(None),
            Ok(row) if row.held.is_none() => (row.key(keys), "it has lost its checksum"),
            Ok(row) => (row.key(keys), "it is not what was written"),
            Err(error) if error.is_of_a_row() => ("?".to_owned(), "it does not read"),
            Err(error) => return Err(error),
        };
        Ok(Some(Unsound { row: format!("row {key} of the table {table}"), found }))
    }
}

/// A statement that writes one row as a whole, with its checksum.
pub(super) struct Insert {
    statement: Bound,
    table: &'static str,
    columns: Vec<&'static str>,
    cells: Vec<Cell>,
}

/// Begins a statement `INSERT INTO table (columns, checksum) VALUES ...`: a value is bound for each column in
/// turn, but for the last one, which has the checksum of them all. So where a row that is there is brought up to
/// date, every column is.
pub(super) fn insert(sql: &'static str) -> Insert {
    let (head, rest) = sql.split_once(" (").unwrap_or_default();
    let (columns, _) = rest.split_once(')').unwrap_or_default();
    let table = head.rsplit(' ').next().unwrap_or_default();
    let columns = columns.split(", ").collect();
    Insert { statement: sqlx::query(sql), table, columns, cells: Vec::new() }
}

impl Insert {
    pub(super) fn bind(mut self, value: impl Into<Cell>) -> Insert {
        let cell = value.into();
        self.cells.push(cell.clone());
        self.statement = cell.bind(self.statement);
        self
    }

    /// Writes the row unless it is as it was `before`, which the database holds.
    pub(super) async fn execute_after(
        self,
        before: Option<Insert>,
        connection: &mut AnyConnection,
    ) -> Result<(), Error> {
        let is_there = |before: &Insert| before.table == self.table && before.cells == self.cells;
        if before.as_ref().is_some_and(is_there) {
            return Ok(());
        }
        self.execute(connection).await
    }

    pub(super) async fn execute(self, connection: &mut AnyConnection) -> Result<(), Error> {
        debug_assert_eq!(self.columns.len(), self.cells.len() + 1, "{}", self.table);
        debug_assert_eq!(self.columns.last(), Some(&COLUMN), "{}", self.table);
        let row = self.columns.iter().copied().zip(&self.cells);
        let checksum = checksum(self.table, row);
        self.statement.bind(checksum).execute(connection).await?;
        Ok(())
    }
}

/// The checksum of what is in a row. What is NULL is no part of it, nor is the order of the columns: a row is
/// the same in every database, and a column that a later version adds changes nothing of it.
fn checksum<'n, 'c>(table: &str, row: impl Iterator<Item = (&'n str, &'c Cell)>) -> String {
    let mut row: Vec<(&str, &Cell)> = row.filter(|(name, _)| *name != COLUMN).collect();
    row.sort_unstable_by_key(|(name, _)| *name);
    let mut hasher = blake3::Hasher::new();
    let mut add = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    add(table);
    for (name, cell) in row {
        let (kind, value) = match cell {
            Cell::Text(Some(text)) => ("text", text.clone()),
            Cell::Number(Some(number)) => ("number", number.to_string()),
            Cell::Text(None) | Cell::Number(None) => continue,
        };
        [name, kind, &value].into_iter().for_each(&mut add);
    }
    Digest::from(hasher.finalize()).to_string()
}

/// What of a row is compared, and with what.
struct Summed {
    cells: Vec<(String, Cell)>,
    /// The checksum that it should have.
    expected: String,
    /// The one that it has.
    held: Option<String>,
}

impl Summed {
    fn of(table: &str, row: &AnyRow) -> Result<Summed, Error> {
        let held = row.try_get(COLUMN)?;
        let cells = cells(row)?;
        let each = cells.iter().map(|(name, cell)| (name.as_str(), cell));
        let expected = checksum(table, each);
        Ok(Summed { cells, expected, held })
    }

    fn cell(&self, column: &str) -> Option<&Cell> {
        self.cells.iter().find(|(name, _)| name == column).map(|(_, cell)| cell)
    }

    /// The row's key in words.
    fn key(&self, keys: &[&str]) -> String {
        let word = |column: &&str| match self.cell(column) {
            Some(Cell::Text(Some(text))) => text.clone(),
            Some(Cell::Number(Some(number))) => number.to_string(),
            _ => "?".to_owned(),
        };
        keys.iter().map(word).collect::<Vec<_>>().join("/")
    }
}

impl Store {
    /// The rows that are not what was written; and how many have no checksum because they are of before there
    /// were any, and no coordinator has been started since.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn unsound(&self) -> Result<(Vec<Unsound>, u64), Error> {
        let (summed, mut unsummed, mut unsound) = (self.is_summed().await?, 0, Vec::new());
        for (table, keys) in TABLES {
            // The names come from the list above, never from outside.
            let select = AssertSqlSafe(format!("SELECT * FROM {table}"));
            let mut rows = sqlx::query(select).fetch(&self.reads);
            while let Some(row) = rows.next().await {
                let row = row.map_err(Error::from).and_then(|row| Summed::of(table, &row));
                if !summed && row.as_ref().is_ok_and(|row| row.held.is_none()) {
                    unsummed += 1;
                    continue;
                }
                unsound.extend(Unsound::of((table, keys), row)?);
            }
        }
        Ok((unsound, unsummed))
    }

    /// Looks whether the rows that are loaded are what was written. What is counted of rounds that are over is left
    /// to [`Store::unsound`], as is a row of which the key has changed, so that it is another one's or nobody's.
    ///
    /// # Errors
    /// [`Error::Unsound`] of the first row that is not, or if the database fails.
    pub(super) async fn check_loaded(&self) -> Result<(), Error> {
        for (table, select) in LOADED {
            let keys = TABLES.iter().find(|(name, _)| *name == table).map(|(_, keys)| *keys);
            let of = (table, keys.unwrap_or_default());
            let mut rows = sqlx::query(select).fetch(&self.pool);
            while let Some(row) = rows.next().await {
                let row = row.map_err(Error::from).and_then(|row| Summed::of(table, &row));
                if let Some(Unsound { row, found }) = Unsound::of(of, row)? {
                    return Err(Error::Unsound { row, found });
                }
            }
        }
        Ok(())
    }

    /// Gives the rows of a database of before their checksums, all of them or none; how many. Where any row has
    /// one, one without has lost it, and nothing is done. Whoever has failed to may try again, also where nobody
    /// knows whether it was committed.
    ///
    /// # Errors
    /// If the database fails or holds what this version does not read.
    pub async fn add_checksums(&self) -> Result<u64, Error> {
        if self.is_summed().await? {
            return Ok(0);
        }
        reach("db.checksums")?;
        let mut transaction = self.pool.begin().await?;
        if let Some(epoch) = self.epoch {
            lease::fence(&mut transaction, epoch).await?;
        }
        let mut count = 0;
        for (table, keys) in TABLES {
            loop {
                let select =
                    format!("SELECT * FROM {table} WHERE {COLUMN} IS NULL LIMIT {AT_ONCE}");
                let rows = sqlx::query(AssertSqlSafe(select)).fetch_all(&mut *transaction).await?;
                if rows.is_empty() {
                    break;
                }
                for row in &rows {
                    add(&mut transaction, (table, keys), &Summed::of(table, row)?).await?;
                }
                count += rows.len() as u64;
            }
        }
        reach("db.checksums").map_err(|error| Error::Uncertain(error.into()))?;
        transaction.commit().await.map_err(Error::Uncertain)?;
        Ok(count)
    }

    /// Whether any row has a checksum.
    async fn is_summed(&self) -> Result<bool, Error> {
        for (table, _) in TABLES {
            let select = format!("SELECT {COLUMN} FROM {table} WHERE {COLUMN} IS NOT NULL LIMIT 1");
            let found = sqlx::query(AssertSqlSafe(select)).fetch_optional(&self.pool).await?;
            if found.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Gives a row its checksum.
async fn add(
    connection: &mut AnyConnection,
    (table, keys): (&str, &[&str]),
    row: &Summed,
) -> Result<(), Error> {
    let places = keys.iter().enumerate().map(|(place, key)| format!("{key} = ${}", place + 2));
    let places = places.collect::<Vec<_>>().join(" AND ");
    let update = AssertSqlSafe(format!("UPDATE {table} SET {COLUMN} = $1 WHERE {places}"));
    let mut update: Bound = sqlx::query(update).bind(row.expected.clone());
    for cell in keys.iter().filter_map(|key| row.cell(key)) {
        update = cell.clone().bind(update);
    }
    match update.execute(connection).await?.rows_affected() {
        1 => Ok(()),
        // A row that is not found by its own key is in no state to be vouched for.
        _ => Err(Error::Row { column: COLUMN, value: row.key(keys) }),
    }
}
