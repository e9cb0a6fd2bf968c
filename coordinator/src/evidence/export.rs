//! The audit log as a file that proves itself: one JSON object a line, each entry with its hash and with
//! the head that was signed when it was the newest. Where a version before has logged, the last entry of each
//! transaction has one.
//!
//! ```text
//! {"line":"begin",...}   whose log it is
//! {"line":"entry",...}   an entry, and its hash as it was saved with it
//! {"line":"update",...}  the update that the entry vouches for, as its site signed it
//! {"line":"manifest",...} what the model that the entry tells of is made of
//! {"line":"head",...}    the head that was signed over the log as it leaves it
//! {"line":"end",...}     the head that was signed for this export
//! ```

use fedpaint_proto::log::{Entry, SignedHead};
use fedpaint_proto::merkle::Hash;
use fedpaint_proto::names::FederationName;
use fedpaint_proto::signing::Signed;
use fedpaint_proto::statement::{Envelope, Manifest};
use serde::{Deserialize, Serialize};

use crate::records::{Document, DocumentKind};

/// The version of the format.
pub const VERSION: u32 = 1;

/// The longest line there is.
pub const LINE_BYTES_MAX: usize = 4 << 20;

/// A line of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case", deny_unknown_fields)]
pub enum Line {
    /// The first one.
    Begin {
        /// The version of the format.
        version: u32,
        /// Whose log it is.
        federation: FederationName,
    },
    /// An entry.
    Entry {
        /// The entry.
        entry: Entry,
        /// Its hash, as it was saved with it.
        leaf: Hash,
    },
    /// The update that the entry before vouches for.
    Update {
        /// Its envelope.
        signed: Signed<Envelope>,
    },
    /// The manifest that the entry before vouches for.
    Manifest {
        /// The manifest.
        signed: Signed<Manifest>,
    },
    /// What was signed when the entry before was the newest.
    Head {
        /// The head.
        head: SignedHead,
    },
    /// The last one.
    End {
        /// The head over the whole, signed for this export.
        head: SignedHead,
    },
}

impl Line {
    /// A document as a line; none if it is not what it says it is, which the check then finds missing.
    pub fn of_document(document: &Document) -> Option<Line> {
        let text = &document.signed;
        match document.kind {
            DocumentKind::Update => {
                serde_json::from_str(text).ok().map(|signed| Line::Update { signed })
            }
            DocumentKind::Manifest => {
                serde_json::from_str(text).ok().map(|signed| Line::Manifest { signed })
            }
        }
    }

    /// The line as text, with its end.
    pub fn to_text(&self) -> String {
        // Nothing in a line fails to be JSON: its keys are texts and it holds no floats.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}
