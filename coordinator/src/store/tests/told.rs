//! Whatever changes a row is told to the audit log in the same transaction: the life of a federation, step by step,
//! as the driver's core decides it, with a look at every row before and after each transaction.

use std::collections::{BTreeMap, BTreeSet};

use fedpaint_proto::identity::{KeyId, Role};
use fedpaint_proto::names::{Digest, OperatorName};
use fedpaint_proto::plan::LatePolicy;
use jiff::Timestamp;
use sqlx::{AssertSqlSafe, Row};

use super::*;
use crate::driver;
use crate::driver::core::{
    Activity, Asking, Beat, Command, Core, Renewal, Request, Sight, Step, Verdict,
};
use crate::evidence::{Notary, made};
use crate::roster::{OperatorRole, TwoPersons};
use crate::testing::{LATER, Pki};

/// The tables of which nothing is told, and why.
const EXEMPT: [(&str, &str); 6] = [
    ("event", "it is the audit log"),
    ("log_node", "the tree over the audit log"),
    ("log_head", "what is signed over the audit log"),
    ("signer", "whose certificates those signatures are by"),
    ("lease", "who may write, renewed every few seconds"),
    ("_sqlx_migrations", "the schema's own version"),
];

/// A row, as texts by column.
type Texts = BTreeMap<String, String>;

/// Every row of every table of which something is to be told.
type Rows = BTreeMap<String, BTreeSet<Texts>>;

/// How long a certificate lasts.
const LIFE: Duration = Duration::from_secs(3_600);

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Whether an entry names a row that has changed since `before`.
fn tells(event: &EventRow, before: &Rows, table: &str, row: &Texts) -> bool {
    let text = |column: &str| row[column].clone();
    let last = |text: &str, end: char| text.rsplit(end).next().unwrap_or_default().to_owned();
    let round = || format!("{}/{}.{}", row["run"], row["number"], row["attempt"]);
    let names = match table {
        "site" | "operator" | "run" => vec![text("name")],
        "invite" => vec![text("site")],
        "ended_invite" => {
            let of_token = |invite: &&Texts| invite["secret_hash"] == row["secret_hash"];
            match before["invite"].iter().find(of_token) {
                // It has ended now.
                Some(invite) => vec![invite["site"].clone()],
                None => vec![format!("token {}", &row["secret_hash"][..12])],
            }
        }
        "certificate" => vec![last(&row["holder"], '/')],
        "proposal" => vec![last(&row["what"], ' ')],
        "let_go" => vec![format!("run {}: updates up to round {}", row["run"], row["number"])],
        "round" => vec![round()],
        "member" | "straggler" => vec![round(), text("site")],
        "document" => {
            return event.document.is_some_and(|it| it.to_string() == row["fingerprint"]);
        }
        other => panic!("table {other} has changed: say here how an entry names its rows"),
    };
    names.iter().all(|name| event.detail.contains(name))
}

/// The columns of every table.
async fn schema(store: &Store) -> BTreeMap<String, Vec<String>> {
    let columns = sqlx::query(
        "SELECT CAST(t.name AS TEXT) AS place, CAST(c.name AS TEXT) AS name \
         FROM sqlite_master AS t, pragma_table_info(t.name) AS c WHERE t.type = 'table'",
    );
    let mut tables = BTreeMap::<String, Vec<String>>::new();
    for row in columns.fetch_all(&store.pool).await.unwrap() {
        tables.entry(row.get("place")).or_default().push(row.get("name"));
    }
    tables
}

async fn rows(store: &Store, schema: &BTreeMap<String, Vec<String>>) -> Rows {
    let mut rows = Rows::new();
    for (table, columns) in schema {
        let casts: Vec<String> =
            columns.iter().map(|c| format!("CAST(\"{c}\" AS TEXT) AS \"{c}\"")).collect();
        let all = format!("SELECT {} FROM {table}", casts.join(", "));
        let texts = |row: &sqlx::any::AnyRow| {
            let text = |column: &String| row.get::<Option<String>, _>(column.as_str());
            columns.iter().map(|c| (c.clone(), text(c).unwrap_or_default())).collect::<Texts>()
        };
        let all = sqlx::query(AssertSqlSafe(all)).fetch_all(&store.pool).await.unwrap();
        rows.insert(table.clone(), all.iter().map(texts).collect());
    }
    rows
}

fn named(name: &str) -> OperatorName {
    name.parse().unwrap()
}

struct Life {
    store: Store,
    core: Core,
    notary: Notary,
    now: Timestamp,
    /// Of which something is to be told.
    schema: BTreeMap<String, Vec<String>>,
    rows: Rows,
    /// The tables of which a row has changed.
    changed: BTreeSet<String>,
}

impl Life {
    async fn begin(store: Store) -> Life {
        let mut schema = schema(&store).await;
        for (table, why) in EXEMPT {
            assert!(schema.remove(table).is_some(), "there is no {table}: {why}");
        }
        let rows = rows(&store, &schema).await;
        let rules = TwoPersons { enrolling: true, planning: false, exporting: true };
        let core = Core::load(Loaded::default(), Duration::from_secs(5)).with_rules(rules);
        let pki = Pki::new();
        let signer = pki.signer("spiffe://brain/coordinator/main");
        let notary = Notary::new(pki.authority(), signer, false);
        Life { store, core, notary, now: LATER, schema, rows, changed: BTreeSet::new() }
    }

    /// Saves a step as the driver does, in one transaction, whose entries must name every row that has changed.
    async fn keep(&mut self, step: Step) {
        let mut change = step.change();
        change.heads = self.notary.heads(self.core.log(), &change.events, self.now);
        self.store.save(&change).await.unwrap();
        let events = change.events.clone();
        self.core.install(step);
        let rows = rows(&self.store, &self.schema).await;
        for (table, after) in &rows {
            for row in self.rows[table].symmetric_difference(after) {
                self.changed.insert(table.clone());
                let told = events.iter().any(|event| tells(event, &self.rows, table, row));
                assert!(told, "{table}: {row:?} has changed, and is not in {events:?}");
            }
        }
        self.rows = rows;
    }

    async fn settle(&mut self) {
        while let Some(step) = self.core.settle(self.now) {
            self.keep(step).await;
        }
    }

    /// Asks for a change; why it was refused, although that it was asked for is noted.
    async fn ask(&mut self, request: Request) -> Option<driver::Error> {
        self.settle().await;
        let mut step = self.core.apply(request, self.now).unwrap();
        let refused = step.take_refused();
        self.keep(step).await;
        self.settle().await;
        refused
    }

    /// Has two persons ask for a change.
    async fn ask_by_two(&mut self, request: Request) {
        let Some(driver::Error::SecondPerson { id, .. }) = self.ask(request.clone()).await else {
            panic!("it takes one");
        };
        self.ask(Request::ApproveProposal(named("bob"), id, Sight::Unsaid)).await;
        assert!(self.ask(request).await.is_none());
    }

    async fn beat(&mut self, name: &str, activity: Activity) {
        let beat = Beat {
            agent_version: "0.1.0".to_owned(),
            wire_version: 1,
            activity,
            declined: Vec::new(),
            doubt: None,
            shown_until: None,
            signing_until: None,
        };
        self.ask(Request::Beat(site(name), beat)).await;
    }

    async fn join(&mut self, names: &[&str]) {
        for name in names {
            self.beat(name, Activity::Joining(self.id())).await;
        }
    }

    async fn withdraw(&mut self, name: &str) {
        self.beat(name, Activity::Withdrawing(self.id(), Withdrawal::Stopping)).await;
    }

    async fn report(&mut self, name: &str, round: RoundId) {
        self.ask(Request::Report(site(name), round, update(name))).await;
    }

    async fn rule(&mut self, verdict: Verdict) {
        self.ask(Request::Verdict(named("ada"), self.id(), verdict)).await;
    }

    async fn command(&mut self, command: Command) {
        self.ask(Request::Command(named("ada"), "brain".parse().unwrap(), command)).await;
    }

    async fn average(&mut self, model: &str) {
        let made = Aggregate::of(blob(model));
        self.ask(Request::Aggregated(self.id(), Ok(made.into()))).await;
    }

    fn id(&self) -> RoundId {
        self.core.state().runs().next().unwrap().round().id().clone()
    }

    async fn shows(&mut self, name: &str, secret: &str) -> Option<driver::Error> {
        let asking = Asking {
            site: site(name),
            secret: Digest::of(secret.as_bytes()),
            public_key: name.as_bytes().to_vec(),
            signing_key: [7; 32],
            life: LIFE,
            approvals: 2,
        };
        self.ask(Request::Join(asking)).await
    }

    /// Operators, sites by name and by a token, invitations of every fate, keys.
    async fn members(&mut self) {
        let (ada, admin) = (named("ada"), OperatorRole::Admin.into());
        self.ask(Request::SetOperator(ada.clone(), ada, admin, Sight::Unsaid)).await;
        for name in ["aachen", "kyoto"] {
            self.ask_by_two(Request::Enroll(named("ada"), site(name), None)).await;
        }
        for name in ["mayo", "oslo", "paris", "quito"] {
            let token = (Digest::of(name.as_bytes()), false);
            self.ask(Request::Invite(named("ada"), site(name), token, Sight::Unsaid)).await;
        }
        assert!(self.shows("mayo", "a guess").await.is_some());
        assert!(self.shows("nobody", "a guess").await.is_some());
        assert!(self.shows("mayo", "mayo").await.is_none());
        let invite = &self.core.state().roster().invites[&site("mayo")];
        let words = invite.candidate.as_ref().unwrap().keys().words(&site("mayo"));
        for operator in ["ada", "bob"] {
            let (operator, words) = (named(operator), words.clone());
            self.ask(Request::Approve(operator, site("mayo"), words, Sight::Unsaid)).await;
        }
        assert!(self.shows("mayo", "mayo").await.is_none());
        self.ask(Request::Reject(named("ada"), site("paris"), Sight::Unsaid)).await;
        for _ in 0..crate::roster::INVITE_TRIES {
            assert!(self.shows("quito", "a guess").await.is_some());
        }
        let (holder, held) = (Role::Site(site("mayo")), KeyId::of_public_key(b"mayo"));
        let renewal = Renewal { holder, held, next: KeyId::of_public_key(b"next"), life: LIFE };
        self.ask(Request::Renew(renewal)).await;
    }

    /// A round that waits for bytes and ends without mayo, whose update is folded into the second attempt of the
    /// next.
    async fn rounds(&mut self) {
        let mut plan = plan(4, 1);
        plan.round.late = LatePolicy::Fold;
        let name = "brain".parse().unwrap();
        let first = made::first(self.notary.federation(), &name, &plan, blob("base"));
        let document = Document::of(DocumentKind::Manifest, &self.notary.manifest(first));
        let create = Request::Create(named("ada"), name, Box::new(plan.into()), blob("base"));
        self.ask(Request::Vouched(Box::new(create), document)).await;

        self.join(&["aachen", "kyoto"]).await;
        self.withdraw("kyoto").await;
        self.join(&["kyoto", "mayo"]).await;
        let first = self.id();
        self.report("aachen", first.clone()).await;
        self.now += Duration::from_secs(990);
        self.ask(Request::Arriving(site("kyoto"), first.clone())).await;
        self.now += Duration::from_secs(10);
        self.ask(Request::Arriving(site("kyoto"), first.clone())).await;
        self.report("kyoto", first.clone()).await;
        self.average("model 1").await;

        self.report("mayo", first).await;
        self.join(&["aachen", "kyoto"]).await;
        self.rule(Verdict::Close).await;
        self.report("aachen", self.id()).await;
        self.rule(Verdict::Close).await;
        self.rule(Verdict::Abandon("again".to_owned())).await;
        self.join(&["aachen"]).await;
        self.rule(Verdict::Close).await;
        self.report("aachen", self.id()).await;
        self.average("model 2").await;
        let run = self.core.state().runs().next().unwrap();
        assert_eq!((run.committed(), run.round().id().number), (2, 3));
        self.ask(Request::LetGo(1)).await;
    }

    /// What an operator does to a run and its sites, and time alone.
    async fn decisions(&mut self) {
        self.command(Command::Readmit(site("mayo"))).await;
        self.command(Command::Pause(None)).await;
        self.command(Command::Resume(None)).await;
        self.now += Duration::from_secs(100);
        self.settle().await;
        self.join(&["aachen", "kyoto", "mayo"]).await;
        self.withdraw("aachen").await;
        self.ask(Request::Revoke(named("ada"), site("kyoto"), Sight::Unsaid)).await;
        self.command(Command::Stop).await;
    }

    /// What is over is forgotten by whatever changes the roster next.
    async fn forgetting(&mut self) {
        self.ask_by_two(Request::Export(named("ada"), blob("model 2").digest, 0)).await;
        let held = |life: &Life| {
            let roster = life.core.state().roster();
            let tokens = (roster.invites.len(), roster.ended.len());
            (tokens, roster.keys.len(), roster.proposals.is_empty())
        };
        assert_eq!(held(self), ((2, 2), 2, false));
        self.now += 2 * DAY;
        let roles = OperatorRole::Viewer.into();
        self.ask(Request::SetOperator(named("ada"), named("eve"), roles, Sight::Unsaid)).await;
        assert_eq!(held(self), ((0, 0), 0, true));
    }
}

#[tokio::test]
async fn every_row_that_changes_in_a_federations_life_is_named_by_an_entry_of_its_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let mut life = Life::begin(sqlite(&folder).await).await;
    life.members().await;
    life.rounds().await;
    life.decisions().await;
    life.forgetting().await;
    let tables: BTreeSet<String> = life.schema.keys().cloned().collect();
    assert_eq!(life.changed, tables, "the life has something of every table");
    let log = life.store.load().await.unwrap().log;
    assert_eq!(&log, life.core.log());
}
