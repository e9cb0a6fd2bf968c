//! Rows that are not what was written, and those of a database of before.

use super::*;
use crate::roster::Roster;
use crate::store::checksum::{LOADED, TABLES};

async fn a_row_that_was_changed_is_found(url: &str) {
    let store = Store::open(url).await.unwrap();
    every_query(&store).await;
    let (nobody, everybody) = (Roster::default(), roster::full());
    let change = Change { roster: Some((&nobody, &everybody)), ..Change::default() };
    store.save(&change).await.unwrap();
    assert_eq!(store.unsound().await.unwrap(), (vec![], 0), "also what was written more than once");
    let changed = async |sql: String, row: &str, found| {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&store.pool).await.unwrap();
        let (unsound, unsummed) = store.unsound().await.unwrap();
        let expected = Unsound { row: row.to_owned(), found };
        assert!(unsound.contains(&expected) && unsummed == 0, "{expected:?}: {unsound:?}");
    };
    let certificate = everybody.keys.iter().find(|(_, row)| row.revoked_at.is_none()).unwrap().0;
    for (sql, row) in [
        (
            "UPDATE member SET examples = examples + 1 WHERE number = 1 AND attempt = 1",
            "row brain/1/1/mayo of the table member".to_owned(),
        ),
        ("UPDATE run SET failures = failures + 1", "row brain of the table run".to_owned()),
        (
            "UPDATE operator SET roles = 'admin' WHERE name = 'bob'",
            "row bob of the table operator".to_owned(),
        ),
        // What was none, or is none now, is as good as anything else.
        (
            "UPDATE certificate SET revoked_at = 1 WHERE revoked_at IS NULL",
            format!("row {certificate} of the table certificate"),
        ),
        (
            "UPDATE site SET revoked_at = NULL WHERE name = 'oslo'",
            "row oslo of the table site".to_owned(),
        ),
    ] {
        changed(sql.to_owned(), &row, "it is not what was written").await;
    }
    let lost = "UPDATE site SET checksum = NULL WHERE name = 'mayo'".to_owned();
    changed(lost, "row mayo of the table site", "it has lost its checksum").await;

    // As a version from before checksums has left them.
    for (table, _) in TABLES {
        let forget = sqlx::AssertSqlSafe(format!("UPDATE {table} SET checksum = NULL"));
        sqlx::raw_sql(forget).execute(&store.pool).await.unwrap();
    }
    let (unsound, unsummed) = store.unsound().await.unwrap();
    assert!(unsound.is_empty() && unsummed > 15, "{unsummed}: {unsound:?}");
    assert_eq!(store.add_checksums().await.unwrap(), unsummed);
    assert_eq!(store.unsound().await.unwrap(), (vec![], 0));
    assert_eq!(store.add_checksums().await.unwrap(), 0, "once");
    let lost = "UPDATE site SET checksum = NULL WHERE name = 'mayo'".to_owned();
    changed(lost, "row mayo of the table site", "it has lost its checksum").await;
    assert_eq!(store.add_checksums().await.unwrap(), 0, "one that was lost is not made anew");
    store.close().await;
}

#[tokio::test]
async fn a_row_that_was_changed_is_found_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    a_row_that_was_changed_is_found(&sqlite_url(&folder)).await;
}

#[tokio::test]
async fn a_row_that_was_changed_is_found_on_postgres() {
    let Some((url, _guard)) = postgres().await else { return };
    a_row_that_was_changed_is_found(&url).await;
}

/// A round after those of [`every_query`], which are over for good with it.
async fn one_round_more(store: &Store) {
    let run = store.load().await.unwrap().runs.remove(0);
    let mut next = run.clone();
    next.resume().unwrap();
    next.open_round(START);
    let mut run = save(store, Some(&run), next).await;
    for event in [
        Event::Joined(site("mayo")),
        Event::Closed,
        Event::Reported(site("mayo"), update("more")),
        Event::Aggregated(kept("m2").into()),
    ] {
        let mut next = run.clone();
        next.apply(event, START).unwrap();
        run = save(store, Some(&run), next).await;
    }
    assert_eq!(run.committed(), 2);
}

async fn what_is_gone_by_is_what_was_written(url: &str) {
    let store = Store::open(url).await.unwrap();
    every_query(&store).await;
    one_round_more(&store).await;
    let (nobody, everybody) = (Roster::default(), roster::full());
    let change = Change { roster: Some((&nobody, &everybody)), ..Change::default() };
    store.save(&change).await.unwrap();
    let (loaded, sound) = (store.load().await.unwrap(), store.load_sound().await.unwrap());
    assert_eq!((sound.sites, sound.roster, sound.runs), (loaded.sites, loaded.roster, loaded.runs));
    let edit = async |sql: String| {
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&store.pool).await.unwrap();
        assert!(done.rows_affected() > 0);
    };
    for (what, which, row) in [
        ("run SET failures = failures", "name = 'brain'", "row brain of the table run"),
        ("round SET opened_at = opened_at", "number = 2", "row brain/2/1 of the table round"),
        ("member SET examples = examples", "number = 2", "row brain/2/1/mayo of the table member"),
        ("site SET enrolled_at = enrolled_at", "name = 'oslo'", "row oslo of the table site"),
        ("operator SET since = since", "name = 'bob'", "row bob of the table operator"),
    ] {
        edit(format!("UPDATE {what} + 1 WHERE {which}")).await;
        let refused = store.load_sound().await.map(drop).unwrap_err().to_string();
        assert!(refused.starts_with(&format!("{row}: it is not what was written, ")), "{refused}");
        // Whoever looks for damage reads all of it.
        store.load().await.unwrap();
        edit(format!("UPDATE {what} - 1 WHERE {which}")).await;
        store.load_sound().await.unwrap();
    }
    // However many rounds are over, they are not read as a coordinator starts.
    edit("UPDATE member SET examples = examples + 1 WHERE number = 1".to_owned()).await;
    store.load_sound().await.unwrap();
    assert!(!store.unsound().await.unwrap().0.is_empty());
    edit("UPDATE site SET checksum = NULL WHERE name = 'mayo'".to_owned()).await;
    let refused = store.load_sound().await.map(drop).unwrap_err().to_string();
    assert!(refused.starts_with("row mayo of the table site: it has lost its "), "{refused}");
    store.close().await;
}

#[tokio::test]
async fn what_a_coordinator_goes_by_is_what_was_written_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    what_is_gone_by_is_what_was_written(&sqlite_url(&folder)).await;
}

#[tokio::test]
async fn what_a_coordinator_goes_by_is_what_was_written_on_postgres() {
    let Some((url, _guard)) = postgres().await else { return };
    what_is_gone_by_is_what_was_written(&url).await;
}

#[tokio::test]
async fn the_rows_that_are_loaded_are_come_to_without_a_look_at_those_of_every_round() {
    let folder = tempfile::tempdir().unwrap();
    let store = sqlite(&folder).await;
    for table in ["round", "member", "straggler"] {
        let select = LOADED.iter().find(|(name, _)| *name == table).unwrap().1;
        let plan = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {select}"));
        let plan = sqlx::query(plan).fetch_all(&store.pool).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.text("detail").unwrap()).collect();
        assert!(!plan.iter().any(|line| line.starts_with(&format!("SCAN {table}"))), "{plan:?}");
    }
    store.close().await;
}
