//! Updates that nothing needs any more, by what is kept of each run. What is let go is noted before it is
//! deleted: a file that rows name and that is not there is either let go or lost, whatever the configuration
//! says by then.

use std::collections::{BTreeMap, HashSet};

use fedpaint_proto::names::{Digest, RunName};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::checksum::insert;
use super::rows::Columns;
use super::{Error, Named, Store, lease};

/// Up to which round a run's updates are let go.
#[derive(Clone, Copy)]
struct LetGo {
    /// As it is noted; 0 where nothing is.
    noted: u32,
    /// With what is to be let go now.
    due: u32,
}

impl Store {
    /// Notes that the updates of rounds more than `rounds` behind the newest model of their run are let go.
    ///
    /// # Errors
    /// If the database fails or holds what this version does not read, or the lease is lost.
    pub async fn let_go(&self, rounds: u32) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        if let Some(epoch) = self.epoch {
            lease::fence(&mut transaction, epoch).await?;
        }
        for (run, LetGo { noted, due }) in by_run(&mut transaction, Some(rounds)).await? {
            if due == noted {
                continue;
            }
            insert(
                "INSERT INTO let_go (run, number, checksum) VALUES ($1, $2, $3) \
                 ON CONFLICT (run) DO UPDATE SET number = $2, checksum = $3",
            )
            .bind(run.as_str())
            .bind(i64::from(due))
            .execute(&mut transaction)
            .await?;
        }
        transaction.commit().await.map_err(Error::Uncertain)
    }

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
        let mut reads = self.reads.acquire().await?;
        let let_go = by_run(&mut reads, rounds).await?;
        let is_spent = |named: &&Named| match &named.update_of {
            Some((run, number)) => let_go.get(run).is_some_and(|let_go| *number <= let_go.due),
            None => false,
        };
        let (spent, needed): (Vec<&Named>, Vec<&Named>) = named.iter().partition(is_spent);
        let needed: HashSet<Digest> = needed.iter().map(|named| named.blob.digest).collect();
        let spent = spent.iter().map(|named| named.blob.digest);
        Ok(spent.filter(|digest| !needed.contains(digest)).collect())
    }
}

/// Up to which round the updates of each run are let go.
async fn by_run(
    connection: &mut AnyConnection,
    rounds: Option<u32>,
) -> Result<BTreeMap<RunName, LetGo>, Error> {
    let rows = sqlx::query(
        "SELECT run.name AS name, run.committed AS committed, COALESCE(let_go.number, 0) AS number \
         FROM run LEFT JOIN let_go ON let_go.run = run.name",
    );
    let of = |row: &AnyRow| {
        let (committed, noted): (u32, u32) = (row.number("committed")?, row.number("number")?);
        let due = rounds.map_or(0, |rounds| committed.saturating_sub(rounds)).max(noted);
        Ok((row.parsed("name")?, LetGo { noted, due }))
    };
    rows.fetch_all(connection).await?.iter().map(of).collect()
}
