//! The rows of the roster: invitations and those that were ended, keys, operators, proposals.

use std::collections::BTreeMap;

use fedpaint_proto::names::{Digest, OperatorName, SiteName};
use sqlx::{AnyConnection, AnyPool, Row};

use super::Error;
use super::checksum::insert;
use super::rows::{self, Columns, micros};
use crate::roster::{Candidate, Invite, KeyRow, OperatorRow, Proposal, Roster};

/// Everything in the tables.
pub(super) async fn load(pool: &AnyPool) -> Result<Roster, Error> {
    let mut roster = Roster::default();
    let invites = sqlx::query(
        "SELECT site, secret_hash, invited_by, expires_at, tries_left, auto_approve, public_key, \
         signing_key, approved_by, admitted_until FROM invite",
    );
    for row in invites.fetch_all(pool).await? {
        let key: Option<String> = row.try_get("public_key")?;
        let candidate = match key {
            Some(key) => Some(Candidate {
                public_key: bytes("public_key", key)?,
                signing_key: key_32("signing_key", row.text("signing_key")?)?,
                approved_by: row.json("approved_by")?,
                admitted_until: row.time_or_none("admitted_until")?,
            }),
            None => None,
        };
        let invite = Invite {
            secret: row.parsed("secret_hash")?,
            invited_by: row.parsed("invited_by")?,
            expires_at: row.time("expires_at")?,
            tries_left: row.number("tries_left")?,
            auto_approve: row.number::<u8>("auto_approve")? == 1,
            candidate,
        };
        roster.invites.insert(row.parsed("site")?, invite);
    }
    let ended = sqlx::query("SELECT secret_hash, expires_at FROM ended_invite");
    for row in ended.fetch_all(pool).await? {
        roster.ended.insert(row.parsed("secret_hash")?, row.time("expires_at")?);
    }
    let keys = sqlx::query("SELECT key, holder, issued_at, not_after, revoked_at FROM certificate");
    for row in keys.fetch_all(pool).await? {
        let key = KeyRow {
            holder: row.parsed("holder")?,
            issued_at: row.time("issued_at")?,
            not_after: row.time("not_after")?,
            revoked_at: row.time_or_none("revoked_at")?,
        };
        roster.keys.insert(row.parsed("key")?, key);
    }
    let operators = sqlx::query("SELECT name, roles, since FROM operator");
    for row in operators.fetch_all(pool).await? {
        let operator = OperatorRow { roles: row.parsed("roles")?, since: row.time("since")? };
        roster.operators.insert(row.parsed("name")?, operator);
    }
    let proposals =
        sqlx::query("SELECT id, what, asked_by, asked_at, approved_by, spent_at FROM proposal");
    for row in proposals.fetch_all(pool).await? {
        let proposal = Proposal {
            what: row.text("what")?,
            asked_by: row.parsed("asked_by")?,
            asked_at: row.time("asked_at")?,
            approved_by: row.parsed_or_none("approved_by")?,
            spent_at: row.time_or_none("spent_at")?,
        };
        roster.proposals.insert(row.parsed("id")?, proposal);
    }
    Ok(roster)
}

/// Writes what is new, changed or gone between two states.
pub(super) async fn write(
    connection: &mut AnyConnection,
    before: &Roster,
    after: &Roster,
) -> Result<(), Error> {
    for site in gone(&before.invites, &after.invites) {
        let delete = sqlx::query("DELETE FROM invite WHERE site = $1").bind(site.as_str());
        delete.execute(&mut *connection).await?;
    }
    for (site, row) in changed(&before.invites, &after.invites) {
        invite(connection, site, row).await?;
    }
    for secret in gone(&before.ended, &after.ended) {
        let delete = sqlx::query("DELETE FROM ended_invite WHERE secret_hash = $1");
        delete.bind(secret.to_string()).execute(&mut *connection).await?;
    }
    for (secret, ends) in changed(&before.ended, &after.ended) {
        insert(
            "INSERT INTO ended_invite (secret_hash, expires_at, checksum) VALUES ($1, $2, $3) \
             ON CONFLICT (secret_hash) DO UPDATE SET expires_at = $2, checksum = $3",
        )
        .bind(secret.to_string())
        .bind(micros(*ends))
        .execute(&mut *connection)
        .await?;
    }
    for key in gone(&before.keys, &after.keys) {
        let delete = sqlx::query("DELETE FROM certificate WHERE key = $1").bind(key.to_string());
        delete.execute(&mut *connection).await?;
    }
    for (key, row) in changed(&before.keys, &after.keys) {
        insert(
            "INSERT INTO certificate (key, holder, issued_at, not_after, revoked_at, checksum) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (key) DO UPDATE SET holder = $2, \
             issued_at = $3, not_after = $4, revoked_at = $5, checksum = $6",
        )
        .bind(key.to_string())
        .bind(row.holder.to_string())
        .bind(micros(row.issued_at))
        .bind(micros(row.not_after))
        .bind(row.revoked_at.map(micros))
        .execute(connection)
        .await?;
    }
    for (name, row) in changed(&before.operators, &after.operators) {
        operator(connection, name, row).await?;
    }
    for id in gone(&before.proposals, &after.proposals) {
        let delete = sqlx::query("DELETE FROM proposal WHERE id = $1").bind(id.to_string());
        delete.execute(&mut *connection).await?;
    }
    for (id, row) in changed(&before.proposals, &after.proposals) {
        proposal(connection, id, row).await?;
    }
    Ok(())
}

async fn invite(
    connection: &mut AnyConnection,
    site: &SiteName,
    invite: &Invite,
) -> Result<(), Error> {
    let candidate = invite.candidate.as_ref();
    let approved_by = candidate.map(|candidate| rows::json("approved_by", &candidate.approved_by));
    insert(
        "INSERT INTO invite (site, secret_hash, invited_by, expires_at, tries_left, \
         auto_approve, public_key, signing_key, approved_by, admitted_until, checksum) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
         ON CONFLICT (site) DO UPDATE SET secret_hash = $2, invited_by = $3, expires_at = $4, \
         tries_left = $5, auto_approve = $6, public_key = $7, signing_key = $8, \
         approved_by = $9, admitted_until = $10, checksum = $11",
    )
    .bind(site.as_str())
    .bind(invite.secret.to_string())
    .bind(invite.invited_by.as_str())
    .bind(micros(invite.expires_at))
    .bind(i64::from(invite.tries_left))
    .bind(i64::from(invite.auto_approve))
    .bind(candidate.map(|candidate| hex(&candidate.public_key)))
    .bind(candidate.map(|candidate| hex(&candidate.signing_key)))
    .bind(approved_by.transpose()?)
    .bind(candidate.and_then(|candidate| candidate.admitted_until).map(micros))
    .execute(connection)
    .await
}

async fn operator(
    connection: &mut AnyConnection,
    name: &OperatorName,
    operator: &OperatorRow,
) -> Result<(), Error> {
    insert(
        "INSERT INTO operator (name, roles, since, checksum) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (name) DO UPDATE SET roles = $2, since = $3, checksum = $4",
    )
    .bind(name.as_str())
    .bind(operator.roles.to_string())
    .bind(micros(operator.since))
    .execute(connection)
    .await
}

/// One that was spent, or is over, may be asked for anew.
async fn proposal(
    connection: &mut AnyConnection,
    id: &Digest,
    proposal: &Proposal,
) -> Result<(), Error> {
    insert(
        "INSERT INTO proposal (id, what, asked_by, asked_at, approved_by, spent_at, checksum) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO UPDATE SET what = $2, \
         asked_by = $3, asked_at = $4, approved_by = $5, spent_at = $6, checksum = $7",
    )
    .bind(id.to_string())
    .bind(proposal.what.as_str())
    .bind(proposal.asked_by.as_str())
    .bind(micros(proposal.asked_at))
    .bind(proposal.approved_by.as_ref().map(|name| name.as_str().to_owned()))
    .bind(proposal.spent_at.map(micros))
    .execute(connection)
    .await
}

/// What `after` has and `before` had not, or had otherwise.
fn changed<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    after.iter().filter(|(key, value)| before.get(key) != Some(value))
}

/// What `before` had and `after` has not.
fn gone<'a, K: Ord, V>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    before.keys().filter(|key| !after.contains_key(key))
}

/// Bytes as columns hold them: hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes from a column.
fn bytes(column: &'static str, text: String) -> Result<Vec<u8>, Error> {
    let digit = |byte: u8| (byte as char).to_digit(16);
    let byte = |pair: &[u8]| match pair {
        [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
    bytes.ok_or(Error::Row { column, value: text })
}

/// A key of 32 bytes from a column.
pub(super) fn key_32(column: &'static str, text: String) -> Result<[u8; 32], Error> {
    let value = text.clone();
    bytes(column, text)?.try_into().map_err(|_| Error::Row { column, value })
}
