//! Why the database fails, and what that means for whoever wanted something of it.

use fedpaint_proto::disk::may_pass;
use fedpaint_proto::reason::Reason;
use sqlx::migrate::MigrateError;

use super::Lease;

/// SQLite's SQLITE_IOERR_FSYNC and SQLITE_IOERR_DIR_FSYNC. PostgreSQL ends itself after a failed sync.
const FAILED_SYNC: [&str; 2] = ["1034", "1290"];

/// SQLite's SQLITE_IOERR and SQLITE_FULL.
const SQLITE_DISK: [u32; 2] = [10, 13];

/// PostgreSQL's `disk_full` and `io_error`.
const POSTGRES_DISK: [&str; 2] = ["53100", "58030"];

/// PostgreSQL's `undefined_table`.
const UNDEFINED_TABLE: &str = "42P01";

/// What SQLite, which has one code for every fault of a statement, says of a table that is not there.
const NO_TABLE: &str = "no such table";

/// Why the database fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not open.
    #[error("cannot open the database: {0}")]
    Open(#[source] sqlx::Error),
    /// Its schema cannot be brought up to date.
    #[error("cannot bring the database up to date: {0}")]
    Migrate(#[source] MigrateError),
    /// A newer version of the program has brought it further.
    #[error(
        "the database has version {found} of the schema and this program knows it up to {known}; \
         use the newer program, or restore a backup of before"
    )]
    Newer {
        /// The newest version the database has.
        found: i64,
        /// The newest one this program knows.
        known: i64,
    },
    /// It was not brought up to date, and whoever opened it may not do so.
    #[error(
        "the database has version {found} of the schema and this program needs {known}; start the \
         coordinator once, which brings it up to date"
    )]
    Older {
        /// The newest version the database has.
        found: i64,
        /// The one this program needs.
        known: i64,
    },
    /// There is something in it.
    #[error("the database is not empty; give a new one, nothing is written over")]
    NotEmpty,
    /// Another coordinator writes to it.
    #[error(
        "the coordinator with process id {} on {}, with the data folder {}, has been using the \
         database since {} and holds it until {}; stop it, or wait until then if it is dead",
        .0.holder.pid, .0.holder.host, .0.holder.folder, .0.holder.since, .0.until
    )]
    Leased(Box<Lease>),
    /// Another coordinator has taken the lease over.
    #[error("another coordinator has taken the database over; only one may write to it")]
    Fenced,
    /// The process is about to end.
    #[error("the coordinator stops: {0}")]
    Halted(String),
    /// A statement fails.
    #[error("the database failed: {0}")]
    Sql(#[from] sqlx::Error),
    /// Whether the transaction was committed is not known.
    #[error("the database failed while it committed: {0}")]
    Uncertain(#[source] sqlx::Error),
    /// It has not answered in time, and may yet do what it was asked.
    #[error("the database has not answered for {seconds} s")]
    Silent {
        /// How long was waited for it.
        seconds: u64,
    },
    /// What it holds is not known since it failed, and it is not asked again yet.
    #[error("the database failed a moment ago and is asked again shortly")]
    Doubt,
    /// The disk beneath the database fails.
    #[error("the database's disk failed: {0}")]
    Io(#[from] std::io::Error),
    /// A row holds what this version does not read.
    #[error("the database's {column} holds {value:?}, which this version does not read")]
    Row {
        /// Which column.
        column: &'static str,
        /// What it holds.
        value: String,
    },
    /// A row that is to be gone by is not what was written.
    #[error(
        "{row}: {found}, and nothing that it says is sure; restore a backup, and see \
         `fedpaint-coordinator fsck` for every such row"
    )]
    Unsound {
        /// Which one: `row brain of the table run`.
        row: String,
        /// What is wrong with it.
        found: &'static str,
    },
    /// A number is too large for a column.
    #[error("{0} is too large for the database")]
    Range(&'static str),
}

impl Error {
    /// The reason as it travels: what may be over by itself is the storage's, the rest is a fault.
    pub fn reason(&self) -> Reason {
        match self {
            Error::Open(_) | Error::Sql(_) | Error::Uncertain(_) | Error::Io(_) => Reason::Storage,
            Error::Silent { .. } | Error::Doubt => Reason::Storage,
            Error::Leased(_) | Error::Fenced | Error::Halted(_) => Reason::Storage,
            Error::Migrate(_) | Error::Newer { .. } | Error::Older { .. } => Reason::Internal,
            Error::NotEmpty | Error::Row { .. } | Error::Range(_) => Reason::Internal,
            Error::Unsound { .. } => Reason::Internal,
        }
    }

    /// Whether the disk beneath the database is full, broken or read-only now, which may pass by itself. A
    /// failed sync is none of these. What was asked may have been done all the same ([`Error::Uncertain`]), so
    /// whoever tries again asks for what may be done twice, as every step of a start may.
    pub fn may_pass(&self) -> bool {
        match self {
            Error::Io(error) => may_pass(error),
            Error::Open(error) | Error::Sql(error) | Error::Uncertain(error) => is_of_disk(error),
            Error::Migrate(MigrateError::Execute(error))
            | Error::Migrate(MigrateError::ExecuteMigration(error, _)) => is_of_disk(error),
            _ => false,
        }
    }

    /// Whether one row does not read, and nothing else is wrong with the database.
    pub fn is_of_a_row(&self) -> bool {
        let unread = |error: &sqlx::Error| {
            matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_))
        };
        match self {
            Error::Row { .. } => true,
            Error::Sql(error) => unread(error),
            _ => false,
        }
    }

    /// Whether the process must not go on: another one writes, or what the disk holds is not known.
    pub(crate) fn is_fatal(&self) -> bool {
        match self {
            Error::Fenced => true,
            Error::Sql(error) | Error::Uncertain(error) => is_failed_sync(error),
            _ => false,
        }
    }
}

/// Whether a statement failed by the database's disk. SQLite's code for what is read-only is the same for a
/// file that may not be written, which does not pass; what lies in the data folder is looked at before.
fn is_of_disk(error: &sqlx::Error) -> bool {
    if let sqlx::Error::Io(error) = error {
        return may_pass(error);
    }
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| is_code_of_disk(&code)) && !is_failed_sync(error)
}

fn is_code_of_disk(code: &str) -> bool {
    match code.parse::<u32>() {
        _ if POSTGRES_DISK.contains(&code) => true,
        // An extended code is its primary one in the lowest byte; PostgreSQL's all have five letters.
        Ok(number) => code.len() < 5 && SQLITE_DISK.contains(&(number & 0xff)),
        Err(_) => false,
    }
}

fn is_failed_sync(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| FAILED_SYNC.contains(&&*code))
}

/// Whether a statement failed for nothing but that a table it names was never made. A damaged or
/// foreign database is not a new one.
pub(super) fn is_no_table(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| {
        error.code().is_some_and(|code| code == UNDEFINED_TABLE)
            || error.message().starts_with(NO_TABLE)
    })
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use rustix::io::Errno;
    use sqlx::error::{DatabaseError, ErrorKind};

    use super::*;

    /// What a database says by a code alone.
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Coded(&'static str);

    impl DatabaseError for Coded {
        fn message(&self) -> &str {
            self.0
        }

        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.into())
        }

        fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    #[test]
    fn a_full_disk_may_pass_and_a_failed_sync_ends_the_process_in_a_statement_or_a_commit() {
        let coded = |code| sqlx::Error::Database(Box::new(Coded(code)));
        let failed: [fn(sqlx::Error) -> Error; 2] = [Error::Sql, Error::Uncertain];
        for failed in failed {
            for full in [coded("13"), coded("53100"), sqlx::Error::Io(Errno::NOSPC.into())] {
                let full = failed(full);
                assert!(full.may_pass() && !full.is_fatal(), "{full:?}");
            }
            for code in FAILED_SYNC {
                let lost = failed(coded(code));
                assert!(!lost.may_pass() && lost.is_fatal(), "{lost:?}");
            }
            let other = failed(coded("23505"));
            assert!(!other.may_pass() && !other.is_fatal(), "{other:?}");
        }
        assert!(Error::Fenced.is_fatal() && !Error::Fenced.may_pass());
    }

    #[test]
    fn a_code_is_of_the_disk_where_it_says_full_or_broken_and_not_where_it_says_anything_else() {
        // SQLITE_FULL, SQLITE_IOERR, SQLITE_IOERR_WRITE, and the two of PostgreSQL.
        for code in ["13", "10", "778", "53100", "58030"] {
            assert!(is_code_of_disk(code), "{code}");
        }
        // SQLITE_READONLY, SQLITE_CANTOPEN, SQLITE_NOTADB; others of PostgreSQL, one with a 10 in its lowest byte.
        for code in ["8", "14", "26", "42P01", "23505", "22026", "57P03"] {
            assert!(!is_code_of_disk(code), "{code}");
        }
    }
}
