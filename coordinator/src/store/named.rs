//! Every blob that a row names. Whoever deletes blobs asks here, so a column that names one and is not in this
//! list would lose it: a test looks for such.

use fedpaint_proto::names::{Blob, RunName};
use sqlx::Row;
use sqlx::any::AnyRow;
use tokio_stream::StreamExt;

use super::rows::Columns;
use super::{Error, Store};
use crate::share::Share;

/// A blob that a row names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// What it is, for people: `the model of round brain/3.1`.
    pub what: String,
    /// The file.
    pub blob: Blob,
    /// For an update of a site: which run's, and the round that it counts in. Other blobs are kept
    /// for good.
    pub update_of: Option<(RunName, u32)>,
}

/// What is named, and by which rows.
macro_rules! named {
    () => {
        "\
    SELECT 'the initial model of run ' || name AS what, initial_digest AS digest, \
     initial_size AS size, CAST(NULL AS TEXT) AS run, CAST(NULL AS BIGINT) AS number FROM run \
    UNION ALL SELECT 'the newest model of run ' || name, model_digest, model_size, NULL, NULL \
     FROM run \
    UNION ALL SELECT 'the base model of round ' || run || '/' || number || '.' || attempt, \
     base_digest, base_size, NULL, NULL FROM round \
    UNION ALL SELECT 'the model of round ' || run || '/' || number || '.' || attempt, \
     model_digest, model_size, NULL, NULL FROM round WHERE model_digest IS NOT NULL \
    UNION ALL SELECT 'the moving average of round ' || run || '/' || number || '.' || attempt, \
     ema_digest, ema_size, NULL, NULL FROM round WHERE ema_digest IS NOT NULL \
    UNION ALL SELECT 'the momentum of round ' || run || '/' || number || '.' || attempt, \
     momentum_digest, momentum_size, NULL, NULL FROM round WHERE momentum_digest IS NOT NULL \
    UNION ALL SELECT 'the second moment of round ' || run || '/' || number || '.' || attempt, \
     second_moment_digest, second_moment_size, NULL, NULL FROM round \
     WHERE second_moment_digest IS NOT NULL \
    UNION ALL SELECT 'the update of ' || site || ' in round ' || run || '/' || number || '.' \
     || attempt, update_digest, update_size, run, number FROM member \
     WHERE update_digest IS NOT NULL \
    UNION ALL SELECT 'the late update of ' || site || ' for round ' || run || '/' || number || '.' \
     || attempt, update_digest, update_size, \
     CASE WHEN into_number IS NULL THEN NULL ELSE run END, into_number FROM straggler \
     WHERE update_digest IS NOT NULL \
    UNION ALL SELECT 'the base model of the late update of ' || site || ' for round ' || run || '/' \
     || number || '.' || attempt, base_digest, base_size, NULL, NULL FROM straggler"
    };
}

/// The same, for who compares it with the columns there are.
#[cfg(test)]
pub(super) const NAMED: &str = named!();

/// What is named among the digests between two pairs of hexadecimal digits.
const NAMED_OF: &str = concat!(
    "SELECT what, digest, size, run, number FROM (",
    named!(),
    ") AS named WHERE substr(digest, 1, 2) BETWEEN $1 AND $2"
);

impl Store {
    /// Every blob that a row names, once for every row.
    ///
    /// # Errors
    /// If the database fails or holds what this version does not read.
    pub async fn named(&self) -> Result<Vec<Named>, Error> {
        self.named_of(&Share::ALL).await
    }

    /// The blobs of a share that a row names, once for every row.
    ///
    /// # Errors
    /// If the database fails or holds what this version does not read.
    pub async fn named_of(&self, share: &Share) -> Result<Vec<Named>, Error> {
        let (first, last) = share.bounds();
        let mut rows = sqlx::query(NAMED_OF).bind(first).bind(last).fetch(&self.reads);
        let mut all = Vec::new();
        while let Some(row) = rows.next().await {
            all.push(named(&row?)?);
        }
        Ok(all)
    }

    /// How many rows name a blob, about: members are by far the most of them.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn named_about(&self) -> Result<u64, Error> {
        let members = sqlx::query("SELECT COUNT(*) AS count FROM member");
        members.fetch_one(&self.reads).await?.number("count")
    }
}

fn named(row: &AnyRow) -> Result<Named, Error> {
    let run: Option<String> = row.try_get("run")?;
    let update_of = match run {
        Some(run) => {
            let name = run.parse().map_err(|_| Error::Row { column: "run", value: run })?;
            Some((name, row.number("number")?))
        }
        None => None,
    };
    Ok(Named { what: row.text("what")?, blob: row.blob("digest", "size")?, update_of })
}
