//! Updates that nothing needs any more, by what is kept of each run. What is let go is noted before it is
//! deleted: a file that rows name and that is not there is either let go or lost, whatever the configuration
//! says by then. How much is let go is decided by the driver and told with it.

use std::collections::{BTreeMap, HashSet};

use fedpaint_proto::names::{Digest, RunName};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AnyPool};

use super::checksum::insert;
use super::rows::Columns;
use super::{Error, Named, Store};
use crate::records::let_go_until;

/// Up to which round the updates of runs are let go, as it is noted.
pub(super) async fn load(pool: &AnyPool) -> Result<BTreeMap<RunName, u32>, Error> {
    let rows = sqlx::query("SELECT run, number FROM let_go");
    let of = |row: &AnyRow| Ok((row.parsed("run")?, row.number("number")?));
    rows.fetch_all(pool).await?.iter().map(of).collect()
}

/// Notes that a run's updates are let go up to a round.
pub(super) async fn write(
    connection: &mut AnyConnection,
    run: &RunName,
    number: u32,
) -> Result<(), Error> {
    insert(
        "INSERT INTO let_go (run, number, checksum) VALUES ($1, $2, $3) \
         ON CONFLICT (run) DO UPDATE SET number = $2, checksum = $3",
    )
    .bind(run.as_str())
    .bind(i64::from(number))
    .execute(connection)
    .await
}

impl Store {
    /// The updates that are let go or, where those of the newest `rounds` alone are to be kept, may be, unless
    /// anything else names the same file. `named` is a whole share.
    ///
    /// # Errors
    /// If the database fails or holds what this version does not read.
    pub async fn spent(
        &self,
        named: &[Named],
        rounds: Option<u32>,
    ) -> Result<HashSet<Digest>, Error> {
        let until = until(&self.reads, rounds).await?;
        let is_spent = |named: &&Named| match &named.update_of {
            Some((run, number)) => until.get(run).is_some_and(|until| number <= until),
            None => false,
        };
        let (spent, needed): (Vec<&Named>, Vec<&Named>) = named.iter().partition(is_spent);
        let needed: HashSet<Digest> = needed.iter().map(|named| named.blob.digest).collect();
        let spent = spent.iter().map(|named| named.blob.digest);
        Ok(spent.filter(|digest| !needed.contains(digest)).collect())
    }
}

/// Up to which round the updates of each run are let go, or may be.
async fn until(pool: &AnyPool, rounds: Option<u32>) -> Result<BTreeMap<RunName, u32>, Error> {
    let rows = sqlx::query(
        "SELECT run.name AS name, run.committed AS committed, COALESCE(let_go.number, 0) AS number \
         FROM run LEFT JOIN let_go ON let_go.run = run.name",
    );
    let of = |row: &AnyRow| {
        let (committed, noted): (u32, u32) = (row.number("committed")?, row.number("number")?);
        Ok((row.parsed("name")?, let_go_until(committed, rounds, noted)))
    };
    rows.fetch_all(pool).await?.iter().map(of).collect()
}
