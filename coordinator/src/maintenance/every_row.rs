//! Whatever changes in whatever column of whatever table, `fsck` finds it and names the row.

use std::collections::{BTreeMap, BTreeSet};

use fedpaint_proto::identity::{KeyId, Role};
use fedpaint_proto::plan::LatePolicy;
use sqlx::{AnyConnection, AssertSqlSafe, Connection, Row};

use super::fsck::check_rows;
use super::log::tests::{config, history};
use super::*;
use crate::roster::{Candidate, Invite, KeyRow, OperatorRole, OperatorRow, Proposal, Roster};
use crate::round::Event;
use crate::round::tests::{site, update};
use crate::store::{Change, SiteRow};
use crate::testing::{LATER, blob, plan};

/// What is not looked at, and why: the lease is renewed every few seconds and no copy has it; of the list of
/// migrations sqlx itself refuses one that is another.
const LEFT_OUT: [&str; 2] = ["lease", "_sqlx_migrations"];

/// Tables that no start reads row by row. Of the others each row is found by a start too, unless it is of no run any
/// more.
const FOR_FSCK: [&str; 5] = ["event", "log_node", "signer", "log_head", "document"];

/// A column of a table, and whether it holds texts.
type Place = (String, String, bool);

/// Somebody of every kind.
fn roster() -> Roster {
    let (ada, bob) = ("ada".parse().unwrap(), "bob".parse().unwrap());
    let candidate = Candidate {
        public_key: vec![1, 2],
        signing_key: [7; 32],
        approved_by: BTreeSet::from([bob]),
        admitted_until: Some(LATER),
    };
    let invite = Invite {
        secret: blob("secret").digest,
        invited_by: ada,
        expires_at: LATER,
        tries_left: 5,
        auto_approve: false,
        candidate: Some(candidate),
    };
    let holder = Role::Site(site("mayo"));
    let key = KeyRow { holder, issued_at: LATER, not_after: LATER, revoked_at: None };
    let operator = OperatorRow { roles: OperatorRole::Admin.into(), since: LATER };
    let (asked_by, approved_by) = ("ada".parse().unwrap(), None);
    let (what, asked_at, spent_at) = ("export".to_owned(), LATER, Some(LATER));
    let proposal = Proposal { what, asked_by, asked_at, approved_by, spent_at };
    Roster {
        invites: BTreeMap::from([(site("oslo"), invite)]),
        ended: BTreeMap::from([(blob("ended").digest, LATER)]),
        keys: BTreeMap::from([(KeyId::of_public_key(b"key"), key)]),
        operators: BTreeMap::from([("ada".parse().unwrap(), operator)]),
        proposals: BTreeMap::from([(blob("export").digest, proposal)]),
    }
}

/// A database with a row in every table: what was signed, members, a round with a straggler, a run whose updates
/// are let go.
async fn full(config: &Config) {
    history(config).await;
    let store = Store::open(&config.database()).await.unwrap();
    let (nobody, everybody) = (Roster::default(), roster());
    let kyoto = SiteRow::by_name(site("kyoto"), LATER);
    let mut plan = plan(9, 1);
    plan.round.late = LatePolicy::Fold;
    let run = Run::create("liver".parse().unwrap(), plan, blob("base"), LATER);
    let change = Change {
        sites: vec![&kyoto],
        roster: Some((&nobody, &everybody)),
        runs: vec![(None, &run)],
        ..Change::default()
    };
    store.save(&change).await.unwrap();
    let mut sealed = run.clone();
    for event in [
        Event::Joined(site("mayo")),
        Event::Joined(site("kyoto")),
        Event::Closed,
        Event::Reported(site("mayo"), update("liver")),
        Event::Closed,
    ] {
        sealed.apply(event, LATER).unwrap();
    }
    assert_eq!(sealed.stragglers().count(), 1);
    let change = Change { runs: vec![(Some(&run), &sealed)], ..Change::default() };
    store.save(&change).await.unwrap();
    let brain = "brain".parse().unwrap();
    let change = Change { let_go: vec![(&brain, 1)], ..Change::default() };
    store.save(&change).await.unwrap();
    store.close().await;
}

async fn connect(config: &Config) -> AnyConnection {
    AnyConnection::connect(&config.database()).await.unwrap()
}

/// Every column of every table that is looked at, as the schema itself has them.
async fn places(config: &Config) -> Vec<Place> {
    let columns = sqlx::query(
        "SELECT CAST(t.name AS TEXT) AS place, CAST(c.name AS TEXT) AS name, \
         CAST(c.type AS TEXT) AS kind FROM sqlite_master AS t, pragma_table_info(t.name) AS c \
         WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'",
    );
    let mut connection = connect(config).await;
    let columns = columns.fetch_all(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let mut places = Vec::new();
    for row in &columns {
        let (table, column): (String, String) = (row.get("place"), row.get("name"));
        let kind: String = row.get("kind");
        if LEFT_OUT.contains(&table.as_str()) {
            continue;
        }
        assert!(["TEXT", "BIGINT"].contains(&kind.as_str()), "{table}.{column}: {kind}");
        places.push((table, column, kind == "TEXT"));
    }
    places
}

/// Changes one column of the newest row of a table to another value, which reads where that is possible.
async fn edit(config: &Config, (table, column, is_text): &Place) {
    let value = match is_text {
        true => format!(
            "CASE WHEN {column} IS NULL THEN '{}' WHEN {column} LIKE '%0' \
             THEN substr({column}, 1, length({column}) - 1) || '1' \
             ELSE substr({column}, 1, length({column}) - 1) || '0' END",
            "0".repeat(64)
        ),
        false => format!("COALESCE({column}, 0) + 1000"),
    };
    let update = format!(
        "UPDATE {table} SET {column} = {value} \
         WHERE rowid = (SELECT MAX(rowid) FROM {table})"
    );
    let mut connection = connect(config).await;
    let lax = "PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON;";
    sqlx::raw_sql(lax).execute(&mut connection).await.unwrap();
    let updated = sqlx::raw_sql(AssertSqlSafe(update)).execute(&mut connection).await.unwrap();
    assert_eq!(updated.rows_affected(), 1, "this test has to put a row into the table {table}");
    connection.close().await.unwrap();
}

/// Why no coordinator goes by what is there, if none does.
async fn refusal(config: &Config) -> Option<store::Error> {
    let store = Store::open(&config.database()).await.unwrap();
    let loaded = store.load_sound().await;
    store.close().await;
    loaded.err()
}

/// Which rows are found to be wrong.
async fn found(config: &Config) -> Vec<String> {
    let moment = Moment::of(config).await.unwrap();
    let mut found = Fsck::default();
    check_rows(&moment, &config.federation, &mut found).await.unwrap();
    found.damage.into_iter().map(|damage| damage.what).collect()
}

#[tokio::test]
async fn a_change_of_any_column_of_any_table_is_found_and_its_row_named() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    full(&config).await;
    assert_eq!(found(&config).await, [""; 0]);
    assert!(refusal(&config).await.is_none());
    let places = places(&config).await;
    let tables: BTreeSet<&str> = places.iter().map(|(table, ..)| table.as_str()).collect();
    assert!(tables.len() >= 14, "{tables:?}");
    let file = config.data.join("coordinator.db");
    let well = std::fs::read(&file).unwrap();
    for place in &places {
        edit(&config, place).await;
        let found = found(&config).await;
        let (table, column, _) = place;
        // A new table is to have checksums, or hashes of its own as those of the log have.
        let named = match table.as_str() {
            "event" | "log_node" => "the audit log".to_owned(),
            table => format!(" of the table {table}"),
        };
        assert!(found.iter().any(|what| what.ends_with(&named)), "{table}.{column}: {found:?}");
        if !FOR_FSCK.contains(&table.as_str()) && column != "run" {
            let refusal = refusal(&config).await.map(|error| error.to_string());
            let refusal = refusal.unwrap_or_default();
            assert!(refusal.contains(&format!("{named}: it ")), "{table}.{column}: {refusal}");
        }
        std::fs::write(&file, &well).unwrap();
    }
    assert_eq!(found(&config).await, [""; 0]);
}
