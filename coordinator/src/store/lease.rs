//! The right to write: one coordinator per database, whichever engine it is and wherever it runs.
//!
//! Whoever holds the lease counts an epoch on, and every transaction looks whether the epoch is still
//! its own ([`fence`]). So even a holder that slept through the end of its lease writes nothing more.

use std::time::Duration;

use fedpaint_proto::failpoint::reach;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::error::is_no_table;
use super::rows::{Columns, bigint, micros};
use super::{Error, Store, in_time};

/// How long a lease holds after it was taken or renewed.
pub const LEASE: Duration = Duration::from_secs(15);

/// How often it is renewed.
pub const LEASE_RENEWAL: Duration = Duration::from_secs(5);

/// Who holds a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The machine, as it calls itself.
    pub host: String,
    /// The process.
    pub pid: u32,
    /// Its data folder.
    pub folder: String,
    /// When it took the lease.
    pub since: Timestamp,
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// How many holders there were, this one included.
    pub epoch: u64,
    /// Who holds it.
    pub holder: Holder,
    /// When it ends unless it is renewed.
    pub until: Timestamp,
}

impl Store {
    /// The lease, whether it still holds or not; none where nobody ever had it.
    ///
    /// # Errors
    /// If the database fails or holds what this version does not read.
    pub async fn lease(&self) -> Result<Option<Lease>, Error> {
        let row = sqlx::query("SELECT epoch, host, pid, folder, since, until_at FROM lease");
        let row = match row.fetch_optional(&self.pool).await {
            // Whatever wrote the database, if anything did, knew of no lease.
            Err(error) if is_no_table(&error) => None,
            row => row?,
        };
        row.as_ref().map(lease).transpose()
    }

    /// Takes the lease for `holder` and brings the schema up to date; what the store saves from then on
    /// counts only while the lease holds. A lease of one of the `dead` is taken before its end.
    ///
    /// # Errors
    /// If another coordinator holds it, and then the schema is left as it is; if the database was
    /// written by a newer version, or fails.
    pub async fn take_lease(
        self,
        holder: &Holder,
        dead: &[Holder],
        now: Timestamp,
    ) -> Result<Store, Error> {
        let held = self.lease().await?;
        if let Some(lease) = &held
            && lease.until > now
            && !dead.contains(&lease.holder)
        {
            return Err(Error::Leased(Box::new(lease.clone())));
        }
        self.migrate().await?;
        let seen = held.as_ref().map_or(0, |lease| lease.epoch);
        reach("db.lease")?;
        let taken = sqlx::query(
            "INSERT INTO lease (id, epoch, host, pid, folder, since, until_at) \
             VALUES (1, 1, $2, $3, $4, $5, $6) \
             ON CONFLICT (id) DO UPDATE SET epoch = lease.epoch + 1, host = $2, pid = $3, \
             folder = $4, since = $5, until_at = $6 WHERE lease.epoch = $1",
        )
        .bind(bigint("an epoch", seen)?)
        .bind(holder.host.as_str())
        .bind(i64::from(holder.pid))
        .bind(holder.folder.as_str())
        .bind(micros(holder.since))
        .bind(micros(end(now)));
        let taken = taken.execute(&self.pool).await?;
        match (taken.rows_affected(), self.lease().await?) {
            (1, Some(lease)) if lease.holder == *holder => {
                let (epoch, vacant_since) = (Some(lease.epoch), held.map(|held| held.until));
                Ok(Store { epoch, vacant_since, ..self })
            }
            // Another one was faster.
            (_, Some(lease)) => Err(Error::Leased(Box::new(lease))),
            (_, None) => Err(Error::Fenced),
        }
    }

    /// Until when the holder before had the lease, which is at most [`LEASE`] after it was last there; none
    /// where there was none, or the lease was not taken.
    pub fn vacant_since(&self) -> Option<Timestamp> {
        self.vacant_since
    }

    /// Lets the lease hold for as long again; at its holder's end, only until `now`.
    ///
    /// # Errors
    /// If another coordinator has taken it, or the database fails or does not answer before it is to be
    /// renewed again.
    pub async fn renew_lease(&self, now: Timestamp, ends: bool) -> Result<(), Error> {
        let Some(epoch) = self.epoch else { return Ok(()) };
        let until = if ends { now } else { end(now) };
        let renewed = sqlx::query("UPDATE lease SET until_at = $2 WHERE epoch = $1")
            .bind(bigint("an epoch", epoch)?)
            .bind(micros(until))
            .execute(&self.pool);
        let renewed = in_time(LEASE_RENEWAL, async {
            reach("db.renew")?;
            Ok(renewed.await?)
        });
        let renewed = renewed.await?;
        if renewed.rows_affected() == 1 { Ok(()) } else { Err(Error::Fenced) }
    }
}

/// Lets a transaction go on only if `epoch` is still the newest; nobody takes the lease until the
/// transaction has ended.
pub(super) async fn fence(connection: &mut AnyConnection, epoch: u64) -> Result<(), Error> {
    reach("db.fence")?;
    let ours = sqlx::query("UPDATE lease SET epoch = epoch WHERE epoch = $1")
        .bind(bigint("an epoch", epoch)?)
        .execute(connection)
        .await?;
    if ours.rows_affected() == 1 { Ok(()) } else { Err(Error::Fenced) }
}

fn lease(row: &AnyRow) -> Result<Lease, Error> {
    let holder = Holder {
        host: row.text("host")?,
        pid: row.number("pid")?,
        folder: row.text("folder")?,
        since: row.time("since")?,
    };
    Ok(Lease { epoch: row.number("epoch")?, holder, until: row.time("until_at")? })
}

fn end(now: Timestamp) -> Timestamp {
    now.checked_add(LEASE).unwrap_or(Timestamp::MAX)
}
