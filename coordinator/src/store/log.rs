//! The audit log's tree, the heads that were signed over it, and what its entries vouch for.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use fedpaint_proto::log::{SignedHead, TreeHead};
use fedpaint_proto::merkle::{Frontier, Hash, Node, Part};
use fedpaint_proto::names::{Digest, FederationName};
use fedpaint_proto::signing::{Signature, Signed};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AnyPool, Row};

use super::cell::Bound;
use super::checksum::insert;
use super::rows::{self, Columns, micros};
use super::write::{ROWS_AT_ONCE, insert_rows};
use super::{Document, DocumentKind, Error, EventRow, Log, Store, lease};

/// How many entries are hashed in one transaction, where the tree is behind them.
const CATCH_UP: u32 = 1_000;

/// An entry with everything that speaks for it.
#[derive(Clone, Debug)]
pub struct Vouched {
    /// The entry.
    pub entry: EventRow,
    /// Its hash, as it was saved with it.
    pub leaf: Hash,
    /// What it vouches for.
    pub document: Option<Document>,
    /// The head that was signed when this was the newest entry. Versions before signed one for each transaction,
    /// after its last entry.
    pub head: Option<SignedHead>,
}

impl Store {
    /// The log as it is now. Entries that have no place in the tree, as those of older versions, are
    /// given one first.
    pub(super) async fn log(&self) -> Result<Log, Error> {
        let row =
            sqlx::query("SELECT COALESCE(MAX(idx) + 1, 0) AS size FROM log_node WHERE level = 0");
        let mut size = row.fetch_one(&self.pool).await?.number("size")?;
        let mut tree = self.frontier(size).await?;
        loop {
            let mut transaction = self.pool.begin().await?;
            let entries = sqlx::query(
                "SELECT seq, at, actor, kind, detail, document FROM event WHERE seq > $1 \
                 ORDER BY seq LIMIT $2",
            );
            let entries = entries.bind(rows::bigint("the log", size)?).bind(i64::from(CATCH_UP));
            let entries = entries.fetch_all(&mut *transaction).await?;
            if entries.is_empty() {
                break;
            }
            if let Some(epoch) = self.epoch {
                lease::fence(&mut transaction, epoch).await?;
            }
            for row in &entries {
                let entry = rows::event(row)?;
                if entry.seq != size + 1 {
                    return Err(Error::Row { column: "seq", value: entry.seq.to_string() });
                }
                write_nodes(&mut transaction, &tree.push(entry.leaf())).await?;
                size = entry.seq;
            }
            transaction.commit().await?;
        }
        let newest = sqlx::query("SELECT at FROM event ORDER BY seq DESC LIMIT 1");
        let newest = newest.fetch_optional(&self.pool).await?;
        Ok(Log { tree, at: newest.as_ref().map(|row| row.time("at")).transpose()? })
    }

    async fn frontier(&self, size: u64) -> Result<Frontier, Error> {
        let peaks = hashes(&self.pool, &Node::peaks(size)).await?;
        let behind = || Error::Row { column: "idx", value: size.to_string() };
        Frontier::restore(size, peaks).ok_or_else(behind)
    }

    /// A proof over the log's tree, by its parts: a read or two in all, however long the log is.
    ///
    /// # Errors
    /// If the database fails or a node is missing.
    pub async fn proof(&self, parts: &[Part]) -> Result<Vec<Hash>, Error> {
        let nodes: Vec<Vec<Node>> = parts.iter().map(Part::nodes).collect();
        let found = hashes(&self.reads, &nodes.concat()).await?;
        let (mut left, mut proof) = (&found[..], Vec::with_capacity(parts.len()));
        for of_part in &nodes {
            let (own, others) = left.split_at(of_part.len());
            proof.push(Part::hash(own));
            left = others;
        }
        Ok(proof)
    }

    /// The nodes above the leaves that are full with the entries after `from` and up to `to`, as they were
    /// saved.
    ///
    /// # Errors
    /// If the database fails or holds what this version does not read.
    pub async fn nodes(&self, from: u64, to: u64) -> Result<BTreeMap<Node, Hash>, Error> {
        let mut nodes = BTreeMap::new();
        for level in (1..u64::BITS).take_while(|level| to >> level > 0) {
            let of_level = sqlx::query(
                "SELECT idx, hash FROM log_node WHERE level = $1 AND idx >= $2 AND idx < $3",
            );
            let of_level = of_level
                .bind(i64::from(level))
                .bind(rows::bigint("a node", from >> level)?)
                .bind(rows::bigint("a node", to >> level)?);
            for row in of_level.fetch_all(&self.reads).await? {
                let node = Node { level, index: row.number("idx")? };
                nodes.insert(node, row.parsed("hash")?);
            }
        }
        Ok(nodes)
    }

    /// How many nodes the log's tree has, leaves and those above them, and how many heads were signed.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn log_extent(&self) -> Result<(u64, u64), Error> {
        let row = sqlx::query(
            "SELECT (SELECT COUNT(*) FROM log_node) AS nodes, \
             (SELECT COUNT(*) FROM log_head) AS heads",
        );
        let row = row.fetch_one(&self.reads).await?;
        Ok((row.number("nodes")?, row.number("heads")?))
    }

    /// The entry that vouches for a document, if there is one.
    ///
    /// # Errors
    /// If the database fails or holds what this version does not read.
    pub async fn entry_about(&self, document: &Digest) -> Result<Option<EventRow>, Error> {
        let row = sqlx::query(
            "SELECT seq, at, actor, kind, detail, document FROM event WHERE document = $1 \
             ORDER BY seq LIMIT 1",
        );
        let row = row.bind(document.to_string()).fetch_optional(&self.reads).await?;
        row.as_ref().map(rows::event).transpose()
    }

    /// Entries after `after_seq` and up to `last_seq`, oldest first, with what speaks for them.
    ///
    /// # Errors
    /// If the database fails or holds what this version does not read.
    pub async fn vouched(
        &self,
        federation: &FederationName,
        (after_seq, last_seq): (u64, u64),
        limit: u32,
    ) -> Result<Vec<Vouched>, Error> {
        let rows = sqlx::query(
            "SELECT event.seq, event.at, event.actor, event.kind, event.detail, event.document, \
             document.kind AS document_kind, document.signed, log_node.hash, log_head.root, \
             log_head.at AS signed_at, log_head.signature, signer.certificate FROM event \
             JOIN log_node ON log_node.level = 0 AND log_node.idx = event.seq - 1 \
             LEFT JOIN log_head ON log_head.size = event.seq \
             LEFT JOIN signer ON signer.fingerprint = log_head.signer \
             LEFT JOIN document ON document.fingerprint = event.document \
             WHERE event.seq > $1 AND event.seq <= $2 ORDER BY event.seq LIMIT $3",
        )
        .bind(rows::bigint("an entry's number", after_seq)?)
        .bind(rows::bigint("an entry's number", last_seq)?)
        .bind(i64::from(limit));
        let vouched = |row: &AnyRow| {
            let entry = rows::event(row)?;
            let head = head(row, federation, entry.seq)?;
            let document = document(row, entry.document)?;
            Ok(Vouched { entry, leaf: row.parsed("hash")?, document, head })
        };
        rows.fetch_all(&self.reads).await?.iter().map(vouched).collect()
    }
}

/// How many nodes are read at a time: each read is a way to the database and back.
const NODES_AT_ONCE: usize = 16;

/// As many nodes, by their places.
pub(super) const NODES: &str = "SELECT level, idx, hash FROM log_node WHERE \
     (level = $1 AND idx = $2) OR (level = $3 AND idx = $4) OR \
     (level = $5 AND idx = $6) OR (level = $7 AND idx = $8) OR \
     (level = $9 AND idx = $10) OR (level = $11 AND idx = $12) OR \
     (level = $13 AND idx = $14) OR (level = $15 AND idx = $16) OR \
     (level = $17 AND idx = $18) OR (level = $19 AND idx = $20) OR \
     (level = $21 AND idx = $22) OR (level = $23 AND idx = $24) OR \
     (level = $25 AND idx = $26) OR (level = $27 AND idx = $28) OR \
     (level = $29 AND idx = $30) OR (level = $31 AND idx = $32)";

/// The hashes of full subtrees, in the order in which these are asked for.
async fn hashes(pool: &AnyPool, nodes: &[Node]) -> Result<Vec<Hash>, Error> {
    let mut found: BTreeMap<Node, Hash> = BTreeMap::new();
    for some in nodes.chunks(NODES_AT_ONCE) {
        let mut query: Bound = sqlx::query(NODES);
        // Where there are fewer than the statement has places for, they are named again.
        for node in some.iter().cycle().take(NODES_AT_ONCE) {
            let index = rows::bigint("a node", node.index)?;
            query = query.bind(i64::from(node.level)).bind(index);
        }
        for row in query.fetch_all(pool).await? {
            let node = Node { level: row.number("level")?, index: row.number("idx")? };
            found.insert(node, row.parsed("hash")?);
        }
    }
    let hash = |node: &Node| {
        let missing = || Error::Row { column: "level", value: node.level.to_string() };
        found.get(node).copied().ok_or_else(missing)
    };
    nodes.iter().map(hash).collect()
}

/// The document in a row, if there is one in it.
fn document(row: &AnyRow, digest: Option<Digest>) -> Result<Option<Document>, Error> {
    let held: Option<String> = row.try_get("document_kind")?;
    let (Some(digest), Some(value)) = (digest, held) else { return Ok(None) };
    let kind = match value.as_str() {
        "update" => DocumentKind::Update,
        "manifest" => DocumentKind::Manifest,
        _ => return Err(Error::Row { column: "kind", value }),
    };
    Ok(Some(Document { digest, kind, signed: row.text("signed")? }))
}

/// The head in a row, if there is one in it.
fn head(row: &AnyRow, federation: &FederationName, size: u64) -> Result<Option<SignedHead>, Error> {
    let Some(root) = row.parsed_or_none("root")? else { return Ok(None) };
    let (federation, at) = (federation.clone(), row.time("signed_at")?);
    let statement = TreeHead { federation, size, root, at };
    let signature = bytes(row, "signature")?;
    let signature = Signature::try_from(&signature[..]);
    let signature =
        signature.map_err(|error| Error::Row { column: "signature", value: error.to_string() })?;
    Ok(Some(Signed { statement, signature, certificate: bytes(row, "certificate")? }))
}

fn bytes(row: &AnyRow, column: &'static str) -> Result<Vec<u8>, Error> {
    let value = row.text(column)?;
    BASE64_STANDARD.decode(&value).map_err(|_| Error::Row { column, value })
}

pub(super) async fn write_nodes(
    connection: &mut AnyConnection,
    nodes: &[(Node, Hash)],
) -> Result<(), Error> {
    for some in nodes.chunks(ROWS_AT_ONCE) {
        let head = "INSERT INTO log_node (level, idx, hash)";
        let mut statement = insert_rows(head, some.len(), 3);
        for (Node { level, index }, hash) in some {
            let index = rows::bigint("a node", *index)?;
            statement = statement.bind(i64::from(*level)).bind(index).bind(hash.to_string());
        }
        statement.execute(&mut *connection).await?;
    }
    Ok(())
}

pub(super) async fn write_document(
    connection: &mut AnyConnection,
    document: &Document,
) -> Result<(), Error> {
    let kind = match document.kind {
        DocumentKind::Update => "update",
        DocumentKind::Manifest => "manifest",
    };
    insert(
        "INSERT INTO document (fingerprint, kind, signed, checksum) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (fingerprint) DO NOTHING",
    )
    .bind(document.digest.to_string())
    .bind(kind)
    .bind(document.signed.as_str())
    .execute(connection)
    .await
}

/// Writes heads in their order, and the certificate that they are signed by once for all that follow on each other
/// by it.
pub(super) async fn write_heads(
    connection: &mut AnyConnection,
    heads: &[SignedHead],
) -> Result<(), Error> {
    let mut written: Option<&Vec<u8>> = None;
    for Signed { statement: TreeHead { size, root, at, .. }, signature, certificate } in heads {
        let signer = Digest::of(certificate).to_string();
        if written.replace(certificate) != Some(certificate) {
            insert(
                "INSERT INTO signer (fingerprint, certificate, checksum) VALUES ($1, $2, $3) \
                 ON CONFLICT (fingerprint) DO NOTHING",
            )
            .bind(signer.as_str())
            .bind(BASE64_STANDARD.encode(certificate))
            .execute(connection)
            .await?;
        }
        insert(
            "INSERT INTO log_head (size, root, at, signature, signer, checksum) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(rows::bigint("the log", *size)?)
        .bind(root.to_string())
        .bind(micros(*at))
        .bind(BASE64_STANDARD.encode(signature.as_bytes()))
        .bind(signer)
        .execute(connection)
        .await?;
    }
    Ok(())
}
