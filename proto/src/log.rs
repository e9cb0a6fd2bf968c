//! The audit log as evidence: what an entry is as a leaf of the log's Merkle tree, and the heads that the
//! coordinator signs over it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::merkle::Hash;
use crate::names::{Digest, FederationName};
use crate::signing::bytes::Bytes;
use crate::signing::{Malformed, Signed, Statement};
use crate::v1;

/// An entry of the audit log: a leaf of its tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// From 1 on, without a gap; the leaf's place is one less.
    pub seq: u64,
    /// When; never before the entry before.
    pub at: Timestamp,
    /// Who caused it: `site/mayo`, `operator/ada`, or `coordinator`.
    pub actor: String,
    /// What happened, one word.
    pub kind: String,
    /// The same for people.
    pub detail: String,
    /// The digest of the document that the entry is about and vouches for, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<Digest>,
}

impl Entry {
    /// The entry's hash as a leaf. Times have microseconds, as they are kept.
    pub fn leaf(&self) -> Hash {
        let Entry { seq, at, actor, kind, detail, document } = self;
        let bytes = Bytes::of("fedpaint/entry/v1").number(*seq).time(*at);
        let bytes = bytes.text(actor).text(kind).text(detail);
        let document = document.as_ref().map(Digest::as_bytes);
        Hash::of_leaf(&bytes.digest_or_none(document).done())
    }
}

/// The whole log at a moment, in two numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeHead {
    /// Whose log it is.
    pub federation: FederationName,
    /// How many entries it has.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
    /// When this was said.
    pub at: Timestamp,
}

/// A head that the coordinator vouches for.
pub type SignedHead = Signed<TreeHead>;

impl Statement for TreeHead {
    fn to_bytes(&self) -> Vec<u8> {
        let TreeHead { federation, size, root, at } = self;
        let bytes = Bytes::of("fedpaint/tree-head/v1").text(federation.as_str());
        bytes.number(*size).digest(root.as_bytes()).time(*at).done()
    }
}

/// A head as it travels.
pub fn to_wire(head: &SignedHead) -> v1::SignedTreeHead {
    let TreeHead { size, root, at, .. } = &head.statement;
    v1::SignedTreeHead {
        size: *size,
        root: root.as_bytes().to_vec(),
        at_micros: at.as_microsecond(),
        signature: Some(head.signature_to_wire()),
    }
}

/// A head that travelled, of the log of `federation`, and whom it is said to be signed by.
///
/// # Errors
/// What of it is not there or is none.
pub fn from_wire(
    federation: &FederationName,
    head: v1::SignedTreeHead,
) -> Result<SignedHead, Malformed> {
    let v1::SignedTreeHead { size, root, at_micros, signature } = head;
    let root = Hash::try_from(&root[..]).map_err(|_| Malformed("root"))?;
    let at = Timestamp::from_microsecond(at_micros).map_err(|_| Malformed("time"))?;
    let statement = TreeHead { federation: federation.clone(), size, root, at };
    Signed::from_wire(statement, signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp::constant(1_795_000_000, 7_000);

    fn entry() -> Entry {
        Entry {
            seq: 7,
            at: AT,
            actor: "operator/ada".into(),
            kind: "site_enrolled".into(),
            detail: "site mayo".into(),
            document: None,
        }
    }

    /// Written once: an entry that was hashed stays what it was, in every later version.
    #[test]
    fn an_entry_and_a_head_have_the_bytes_that_they_had() {
        assert_eq!(
            entry().leaf().to_string(),
            "068cc83d154def9a9833c551829fb1e4ddb0c7b0157296e7f91b0e36a624dd88"
        );
        let text = |text: &str| [&(text.len() as u64).to_be_bytes()[..], text.as_bytes()].concat();
        let document = Digest::of(b"envelope");
        let said = [
            text("fedpaint/entry/v1"),
            7_u64.to_be_bytes().to_vec(),
            1_795_000_000_000_007_i64.to_be_bytes().to_vec(),
            text("operator/ada"),
            text("site_enrolled"),
            text("site mayo"),
            1_u64.to_be_bytes().to_vec(),
            document.as_bytes().to_vec(),
        ];
        let entry = Entry { document: Some(document), ..entry() };
        assert_eq!(entry.leaf(), Hash::of_leaf(&said.concat()));
        let federation = "brain".parse().unwrap();
        let root = Hash::of_nothing();
        let head = TreeHead { federation, size: 7, root, at: AT };
        let said = [
            &[0, 0, 0, 0, 0, 0, 0, 21][..],
            b"fedpaint/tree-head/v1",
            &[0, 0, 0, 0, 0, 0, 0, 5],
            b"brain",
            &[0, 0, 0, 0, 0, 0, 0, 7],
            root.as_bytes(),
            &1_795_000_000_000_007_i64.to_be_bytes(),
        ];
        assert_eq!(head.to_bytes(), said.concat());
    }

    #[test]
    fn every_field_of_an_entry_is_in_its_leaf() {
        let at = Timestamp::constant(1_795_000_000, 8_000);
        let (actor, kind) = ("operator/adasite".into(), "_enrolled".into());
        let changed = [
            Entry { seq: 8, ..entry() },
            Entry { at, ..entry() },
            Entry { actor: "operator/eve".into(), ..entry() },
            Entry { kind: "site_revoked".into(), ..entry() },
            Entry { detail: "site oslo".into(), ..entry() },
            Entry { document: Some(Digest::of(b"x")), ..entry() },
            // A letter that moves from one text to the next makes another entry.
            Entry { actor, kind, ..entry() },
        ];
        for other in changed {
            assert_ne!(other.leaf(), entry().leaf(), "{other:?}");
        }
    }
}
