//! Rows that are not what was written, and those of a database of before.

use super::*;
use crate::roster::Roster;
use crate::store::checksum::TABLES;

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
