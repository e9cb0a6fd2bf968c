//! A log with its keys, honest or forged, in memory. As a coordinator does, it signs a head after each entry.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context;
use fedpaint_coordinator::ca;
use fedpaint_coordinator::evidence::Notary;
use fedpaint_coordinator::evidence::export::{Line, VERSION};
use fedpaint_coordinator::evidence::verify::{Broken, Check, Verified};
use fedpaint_coordinator::records::Log;
use fedpaint_proto::identity::Identity;
use fedpaint_proto::log::{Entry, SignedHead};
use fedpaint_proto::merkle::{Hash, Node, Part, consistency};
use fedpaint_proto::signing::{Authority, Signer};
use jiff::{SignedDuration, Timestamp};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

/// What is done to a log at the place of an entry, which is the first one that is not what was logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The entry is gone, and those after it have moved up: the next one is in its place.
    Delete,
    /// The entry says something else.
    Edit,
    /// The entry and the next one have changed their places: that one is in its place.
    Reorder,
    /// There is one more in its place, and it and those after it have moved down.
    Insert,
    /// From the entry on, everything is another history.
    Fork,
    /// The entry and all after it are gone: it is the first that is missing.
    Truncate,
    /// The entry says that it happened before.
    BackDate,
    /// The entry says that it happened after the next one. It is the wrong one, and not the next, of which a time
    /// before another's tells.
    ForwardDate,
}

/// All of it.
pub(crate) const KINDS: [Kind; 8] = [
    Kind::Delete,
    Kind::Edit,
    Kind::Reorder,
    Kind::Insert,
    Kind::Fork,
    Kind::Truncate,
    Kind::BackDate,
    Kind::ForwardDate,
];

/// When the log begins.
const START: Timestamp = Timestamp::constant(1_795_000_000, 0);

/// How far apart entries are, in microseconds.
const APART_US: i64 = 1_000;

/// A log, and who signs it.
pub(crate) struct Book {
    pub(crate) authority: Authority,
    notary: Arc<Notary>,
    pub(crate) entries: Vec<Entry>,
    /// Of each entry, but where only the newest is asked for.
    pub(crate) heads: Vec<SignedHead>,
    nodes: HashMap<Node, Hash>,
}

/// A stream of chance, one purpose each.
pub(crate) fn dice(seed: u64, purpose: &str) -> ChaCha8Rng {
    let seed = blake3::hash(format!("{seed} {purpose}").as_bytes());
    ChaCha8Rng::from_seed(*seed.as_bytes())
}

/// An entry of a history of enrolments.
pub(crate) fn entry(seq: u64) -> Entry {
    let at = START.as_microsecond() + seq as i64 * APART_US;
    Entry {
        seq,
        at: Timestamp::from_microsecond(at).unwrap_or(START),
        actor: "operator/ada".into(),
        kind: "site_enrolled".into(),
        detail: format!("site number-{seq}"),
        document: None,
    }
}

/// What an attacker makes of the entries, numbered as they must be.
pub(crate) fn attacked(entries: &[Entry], kind: Kind, place: u64) -> Vec<Entry> {
    let mut entries = entries.to_vec();
    let at = place as usize - 1;
    match kind {
        Kind::Delete => drop(entries.remove(at)),
        Kind::Edit => entries[at].detail.push_str(", on second thoughts not"),
        Kind::Reorder => {
            // Each keeps the time of its place, so that nothing but its place tells.
            let (first, second) = (entries[at].at, entries[at + 1].at);
            entries.swap(at, at + 1);
            (entries[at].at, entries[at + 1].at) = (first, second);
        }
        Kind::Insert => {
            let more = Entry { detail: "site that nobody enrolled".into(), ..entries[at].clone() };
            entries.insert(at, more);
        }
        Kind::Fork => {
            entries[at..].iter_mut().for_each(|entry| entry.actor = "operator/eve".into())
        }
        Kind::Truncate => entries.truncate(at),
        Kind::BackDate => {
            let before = entries.get(at.wrapping_sub(1)).map_or(START, |entry| entry.at);
            entries[at].at = before;
        }
        Kind::ForwardDate => {
            let after = entries.get(at + 1).map_or(START, |entry| entry.at);
            entries[at].at = after + SignedDuration::from_micros(APART_US / 2);
        }
    }
    for (seq, entry) in (1..).zip(&mut entries) {
        entry.seq = seq;
    }
    entries
}

/// What whoever signs anew makes of them: no entry is older than the one before, which would tell by itself.
pub(crate) fn in_order(mut entries: Vec<Entry>) -> Vec<Entry> {
    let mut newest = START;
    for entry in &mut entries {
        newest = newest.max(entry.at);
        entry.at = newest;
    }
    entries
}

impl Book {
    /// An honest log of so many entries.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub(crate) fn new(size: u64) -> anyhow::Result<Book> {
        let validity = ca::Validity::days(START, 30)?;
        let identity: Identity = "spiffe://lab/coordinator/main".parse()?;
        let root = ca::create(&identity.federation, validity)?;
        let issued = ca::issue_signing(&root, &identity.role, validity)?;
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes());
        let authority =
            Authority::new(identity.federation.clone(), &[der(&root.certificate_pem)?])?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(issued.key_pem.as_bytes())?;
        let signer = Signer::new(&[der(&issued.certificate_pem)?], &key)?;
        let notary = Arc::new(Notary::new(authority.clone(), signer, false));
        Ok(Book::of(authority, notary, (1..=size).map(entry).collect(), 1))
    }

    /// A log of these entries, with the heads of those from number `signed_from` on.
    fn of(
        authority: Authority,
        notary: Arc<Notary>,
        entries: Vec<Entry>,
        signed_from: u64,
    ) -> Book {
        let (mut log, mut heads, mut nodes) = (Log::default(), Vec::new(), HashMap::new());
        for entry in &entries {
            nodes.extend(log.push(entry));
            if entry.seq >= signed_from {
                heads.push(notary.head(&log, entry.at));
            }
        }
        Book { authority, notary, entries, heads, nodes }
    }

    /// How many entries it has.
    pub(crate) fn size(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The time of its newest entry.
    pub(crate) fn now(&self) -> Timestamp {
        self.entries.last().map_or(START, |entry| entry.at)
    }

    /// Where a kind of attack is tried: at both ends and anywhere between.
    pub(crate) fn places(&self, kind: Kind, count: usize, seed: u64) -> Vec<u64> {
        // One of two neighbours, a time before or after, and what is left of a log, need an entry beside.
        let last = self.size() - 1;
        let first = if matches!(kind, Kind::BackDate | Kind::Truncate) { 2 } else { 1 };
        let mut dice = dice(seed, &format!("{kind:?}"));
        let between = (2..count).map(|_| dice.random_range(first..=last)).collect::<Vec<_>>();
        [vec![first, last], between].concat()
    }

    /// The same keys over what an attacker made of the entries: heads and all.
    pub(crate) fn forged(&self, kind: Kind, place: u64) -> Book {
        let entries = in_order(attacked(&self.entries, kind, place));
        Book::of(self.authority.clone(), Arc::clone(&self.notary), entries, 1)
    }

    /// The same with some entries more, so that its length does not betray it, and with the newest head alone, which
    /// is what a site is told.
    pub(crate) fn answering(&self, kind: Kind, place: u64) -> Book {
        let mut entries = in_order(attacked(&self.entries, kind, place));
        let size = entries.len() as u64;
        let later = |seq: u64| Entry { detail: format!("later number-{seq}"), ..entry(seq) };
        entries.extend((size + 1..=size + 7).map(later));
        Book::of(self.authority.clone(), Arc::clone(&self.notary), entries, size + 7)
    }

    /// The place among the heads of the first one over an entry.
    pub(crate) fn head_over(&self, place: u64) -> usize {
        self.heads.partition_point(|head| head.statement.size < place)
    }

    /// The log as it is exported.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.under_heads(&self.entries, |_, entry| entry.leaf())
    }

    /// What somebody without the key makes of an export: other entries, with hashes that fit, under the
    /// heads that were signed.
    pub(crate) fn rewritten(&self, kind: Kind, place: u64) -> Vec<Line> {
        self.under_heads(&attacked(&self.entries, kind, place), |_, entry| entry.leaf())
    }

    /// The same by somebody who leaves the hashes as they were.
    pub(crate) fn edited(&self, kind: Kind, place: u64) -> Vec<Line> {
        let entries = attacked(&self.entries, kind, place);
        self.under_heads(&entries, |at, entry| self.entries.get(at).unwrap_or(entry).leaf())
    }

    fn under_heads(&self, entries: &[Entry], leaf: impl Fn(usize, &Entry) -> Hash) -> Vec<Line> {
        let federation = self.authority.federation().clone();
        let mut lines = vec![Line::Begin { version: VERSION, federation }];
        let mut heads = self.heads.iter().peekable();
        for (at, entry) in entries.iter().enumerate() {
            lines.push(Line::Entry { entry: entry.clone(), leaf: leaf(at, entry) });
            if let Some(head) = heads.next_if(|head| head.statement.size == entry.seq) {
                lines.push(Line::Head { head: head.clone() });
            }
        }
        lines.extend(self.heads.last().map(|head| Line::End { head: head.clone() }));
        lines
    }

    /// Checks an export against the root and heads that were kept.
    pub(crate) fn check(&self, lines: &[Line], kept: &[SignedHead]) -> Result<Verified, Broken> {
        let mut check = Check::new(&self.authority, kept)?;
        for line in lines {
            check.line(line.clone())?;
        }
        check.done()
    }

    /// The proof that the log begins with its first `old` entries; empty where it has not as many.
    pub(crate) fn proof(&self, old: u64) -> Vec<Hash> {
        let hash = |part: &Part| {
            let nodes = part.nodes();
            Part::hash(
                &nodes.iter().filter_map(|node| self.nodes.get(node).copied()).collect::<Vec<_>>(),
            )
        };
        consistency(old, self.size()).iter().map(hash).collect()
    }
}

/// Writes a log into a new database, as the coordinator's program does.
///
/// # Errors
/// If the database fails.
pub(crate) async fn write_database(
    file: &std::path::Path,
    site: &str,
    entries: &[Entry],
) -> anyhow::Result<()> {
    use fedpaint_coordinator::store::{Change, SiteRow, Store, sqlite_url};
    let store = Store::open(&sqlite_url(file)).await?;
    let row = SiteRow::by_name(site.parse()?, START);
    store.save(&Change { sites: vec![&row], ..Change::default() }).await?;
    for some in entries.chunks(1_000) {
        let change = Change { events: some.to_vec(), ..Change::default() };
        store.save(&change).await.context("the log is not written")?;
    }
    store.close().await;
    Ok(())
}
