//! Checks the audit log: that every entry and every node of the tree over them is the one that was saved,
//! that the heads are over those entries, and that the rows are what the entries vouch for. Whose the
//! signatures are is for `fedctl audit verify` to say, which has the root.

use fedpaint_proto::merkle::{Frontier, Node};
use fedpaint_proto::names::FederationName;

use super::fsck::Fsck;
use super::states::States;
use super::vouched::Rows;
use super::{Error, Moment};
use crate::store::Vouched;

/// How many entries of the audit log are read at a time.
const PAGE: u32 = 1_000;

const WHAT: &str = "the audit log";

const TODO: &str = "restore a backup, or sites will refuse the log; see `fedctl audit verify`";

/// Checks the log of `federation` and, where the rows could be read, that they are what it vouches for. What it
/// tells, unless it was changed itself.
pub(super) async fn check(
    moment: &Moment,
    federation: &FederationName,
    rows: Option<&Rows>,
    found: &mut Fsck,
) -> Result<Option<States>, Error> {
    let (mut tree, mut heads, mut told) = (Frontier::default(), 0, States::default());
    loop {
        let page = moment.store.vouched(federation, (tree.size(), u64::MAX >> 1), PAGE).await?;
        if page.is_empty() {
            break;
        }
        heads += page.iter().filter(|vouched| vouched.head.is_some()).count() as u64;
        if let Err(changed) = check_page(moment, &page, &mut tree).await? {
            found.damaged(WHAT, changed, TODO);
            return Ok(None);
        }
        for Vouched { entry, document, .. } in page {
            told.hear(&entry);
            if let Some(wrong) = rows.and_then(|rows| rows.wrong(&entry, document.as_ref())) {
                found.damaged(WHAT, wrong, "restore a backup: nothing that was signed changes");
            }
        }
    }
    check_extent(moment, tree.size(), heads, found).await?;
    Ok(Some(told))
}

/// Whether the entries of a page, and the nodes that are full with them, are those that were hashed and
/// signed; what has changed if they are not.
async fn check_page(
    moment: &Moment,
    page: &[Vouched],
    tree: &mut Frontier,
) -> Result<Result<(), String>, Error> {
    let saved = moment.store.nodes(tree.size(), tree.size() + page.len() as u64).await?;
    for Vouched { entry, leaf, head, .. } in page {
        let seq = entry.seq;
        if seq != tree.size() + 1 || entry.leaf() != *leaf {
            return Ok(Err(format!("entry {seq} is not the one that was hashed")));
        }
        // The first one is the leaf itself.
        for (node, hash) in tree.push(*leaf).into_iter().skip(1) {
            if saved.get(&node) != Some(&hash) {
                let Node { level, index } = node;
                let (first, last) = ((index << level) + 1, (index + 1) << level);
                return Ok(Err(format!(
                    "the node of its tree over entries {first} to {last} is not the one that was saved"
                )));
            }
        }
        if head.as_ref().is_some_and(|head| head.statement.root != tree.root()) {
            return Ok(Err(format!("entries up to {seq} are not those that were signed")));
        }
    }
    Ok(Ok(()))
}

/// Whether there is a node or a head that belongs to no entry.
async fn check_extent(
    moment: &Moment,
    size: u64,
    heads: u64,
    found: &mut Fsck,
) -> Result<(), Error> {
    let (nodes_found, heads_found) = moment.store.log_extent().await?;
    let nodes: u64 = (0..u64::BITS).map(|level| size >> level).sum();
    for (what, found_of, expected) in
        [("nodes of its tree", nodes_found, nodes), ("signed heads", heads_found, heads)]
    {
        if found_of != expected {
            let changed = format!("it has {found_of} {what}, {expected} of them of its entries");
            found.damaged(WHAT, changed, TODO);
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use fedpaint_proto::signing::Signed;
    use fedpaint_proto::statement::Envelope;
    use sqlx::{AnyConnection, Connection};

    use super::super::fsck::check_rows;
    use super::*;
    use crate::aggregate::Aggregate;
    use crate::config::Config;
    use crate::evidence::{Notary, made, plan_digest};
    use crate::records::{Document, DocumentKind, EventRow, Log};
    use crate::round::tests::{site, update};
    use crate::round::{Event, Phase};
    use crate::run::Run;
    use crate::store::{Change, SiteRow, Store};
    use crate::testing::{LATER, Pki, blob, plan};

    pub(in crate::maintenance) fn config(folder: &Path) -> Config {
        let text = "federation = \"brain\"\nlisten = \"127.0.0.1:0\"\ndata = \"data\"\n\
                    [tls]\nca = \"ca\"\ncertificate = \"certificate\"\nkey = \"key\"\n";
        Config::parse(text, &folder.join("coordinator.toml")).unwrap()
    }

    /// Saves what a coordinator saves: a change, its entry, what that vouches for, and a head.
    struct Writer {
        store: Store,
        notary: Notary,
        log: Log,
    }

    impl Writer {
        async fn save(&mut self, change: Change<'_>, kind: &str, document: Option<Document>) {
            let entry = EventRow {
                seq: self.log.tree.size() + 1,
                at: LATER,
                actor: "coordinator".into(),
                kind: kind.into(),
                detail: String::new(),
                document: document.as_ref().map(|document| document.digest),
            };
            let nodes = self.log.push(&entry);
            let heads = vec![self.notary.head(&self.log, LATER)];
            let (events, documents) = (vec![entry], document.into_iter().collect());
            let change = Change { events, nodes, documents, heads, ..change };
            self.store.save(&change).await.unwrap();
        }
    }

    /// One round of one site, signed by it and by the coordinator: five entries.
    pub(in crate::maintenance) async fn history(config: &Config) {
        std::fs::create_dir(&config.data).unwrap();
        let (pki, federation) = (Pki::new(), config.federation.clone());
        let notary =
            Notary::new(pki.authority(), pki.signer("spiffe://brain/coordinator/main"), false);
        let store = Store::open(&config.database()).await.unwrap();
        let mut writer = Writer { store, notary, log: Log::default() };
        let mayo = SiteRow::by_name(site("mayo"), LATER);
        let mut run = Run::create("brain".parse().unwrap(), plan(9, 1), blob("base"), LATER);
        let first = made::first(&federation, run.name(), run.plan(), run.initial());
        let first = Document::of(DocumentKind::Manifest, &writer.notary.manifest(first));
        let change = Change { sites: vec![&mayo], runs: vec![(None, &run)], ..Change::default() };
        writer.save(change, "run_created", Some(first)).await;

        let envelope = Envelope {
            federation: federation.clone(),
            round: run.round().id().clone(),
            site: site("mayo"),
            base: run.initial().digest,
            plan: plan_digest(run.plan()),
            update: blob("update"),
            examples: update("update").examples,
        };
        let signed = Signed::by(&pki.signer("spiffe://brain/site/mayo"), envelope);
        let before = run.clone();
        for event in [
            Event::Joined(site("mayo")),
            Event::Closed,
            Event::Reported(site("mayo"), update("update")),
        ] {
            run.apply(event, LATER).unwrap();
        }
        let change = Change { runs: vec![(Some(&before), &run)], ..Change::default() };
        let document = Document::of(DocumentKind::Update, &signed);
        writer.save(change, "update_accepted", Some(document)).await;

        let before = run.clone();
        let ema = Some(blob("average"));
        let files = Aggregate { ema, ..Aggregate::of(blob("model")) };
        run.apply(Event::Aggregated(files.into()), LATER).unwrap();
        let Phase::Committed(files) = run.round().phase() else { panic!("{run:?}") };
        let manifest = made::by(&federation, run.plan(), run.round(), (files, &[]));
        let manifest = Document::of(DocumentKind::Manifest, &writer.notary.manifest(manifest));
        let change = Change { runs: vec![(Some(&before), &run)], ..Change::default() };
        writer.save(change, "round_committed", Some(manifest)).await;
        writer.save(Change::default(), "site_silent", None).await;
        writer.save(Change::default(), "site_heard", None).await;
        writer.store.close().await;
    }

    /// What is found of the rows once a statement has changed one.
    async fn found_after(config: &Config, sql: &'static str) -> Vec<String> {
        let mut connection = AnyConnection::connect(&config.database()).await.unwrap();
        let changed = sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        assert!(sql.is_empty() || changed.rows_affected() > 0, "{sql}");
        connection.close().await.unwrap();
        let moment = Moment::of(config).await.unwrap();
        let mut found = Fsck::default();
        check_rows(&moment, &config.federation, &mut found).await.unwrap();
        found.damage.into_iter().map(|damage| damage.found).collect()
    }

    #[tokio::test]
    async fn a_change_of_any_row_that_something_signed_speaks_of_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        history(&config).await;
        let file = config.data.join("coordinator.db");
        let well = std::fs::read(&file).unwrap();
        assert_eq!(found_after(&config, "").await, [""; 0]);
        let rows = "the rows say otherwise";
        for (sql, words) in [
            // Another hash that reads, in each inner node, and in a leaf.
            (
                "UPDATE log_node SET hash = (SELECT root FROM log_head WHERE size = 5) \
                 WHERE level = 1 AND idx = 0",
                "over entries 1 to 2",
            ),
            (
                "UPDATE log_node SET hash = (SELECT root FROM log_head WHERE size = 5) \
                 WHERE level = 1 AND idx = 1",
                "over entries 3 to 4",
            ),
            (
                "UPDATE log_node SET hash = (SELECT root FROM log_head WHERE size = 5) \
                 WHERE level = 2",
                "over entries 1 to 4",
            ),
            (
                "UPDATE log_node SET hash = (SELECT root FROM log_head WHERE size = 5) \
                 WHERE level = 0 AND idx = 2",
                "entry 3 is not the one",
            ),
            ("DELETE FROM log_node WHERE level = 1 AND idx = 0", "over entries 1 to 2"),
            (
                "INSERT INTO log_node (level, idx, hash) SELECT 1, 9, root FROM log_head \
                 WHERE size = 5",
                "it has 9 nodes",
            ),
            ("UPDATE log_head SET size = 9 WHERE size = 5", "it has 5 signed heads"),
            (
                "UPDATE log_head SET root = (SELECT hash FROM log_node WHERE level = 2) \
                 WHERE size = 3",
                "entries up to 3",
            ),
            ("UPDATE event SET detail = 'x' WHERE seq = 4", "entry 4 is not the one"),
            ("DELETE FROM document WHERE kind = 'update'", "entry 2 vouches for is not there"),
            ("UPDATE document SET kind = 'manifest' WHERE kind = 'update'", "another kind"),
            (
                "UPDATE document SET signed = replace(signed, '\"examples\":10', '\"examples\":11') \
                 WHERE kind = 'update'",
                "entry 2 vouches for is not what was signed",
            ),
            ("UPDATE document SET signed = 'x' WHERE kind = 'update'", "does not read"),
            ("UPDATE member SET examples = 11", rows),
            ("UPDATE member SET update_size = 7", rows),
            (
                "UPDATE member SET update_digest = (SELECT initial_digest FROM run)",
                "site mayo signed for round brain/1.1",
            ),
            ("UPDATE round SET base_size = 1, model_size = 7", "version 1 of run brain"),
            ("UPDATE round SET ema_size = 1", rows),
            ("UPDATE round SET ema_digest = base_digest", rows),
            ("UPDATE run SET plan = replace(plan, 'rounds = 9', 'rounds = 8')", rows),
            ("UPDATE run SET initial_size = 1", "version 0 of run brain"),
        ] {
            let found = found_after(&config, sql).await;
            assert!(found.iter().any(|line| line.contains(words)), "{sql}: {found:?}");
            std::fs::write(&file, &well).unwrap();
        }
        assert_eq!(found_after(&config, "").await, [""; 0]);
    }
}
