//! What a site is given for an update that was taken: pure. The coordinator's word, the log's entry that says
//! so, and the proof that the entry is in the log; the site keeps it all.

use fedpaint_proto::log::{self, Entry, SignedHead};
use fedpaint_proto::merkle::{HASHES_MAX, Hash, verify_inclusion};
use fedpaint_proto::names::Digest;
use fedpaint_proto::signing::{self, Authority, Malformed, Signed};
use fedpaint_proto::statement::Receipt;
use fedpaint_proto::v1;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A receipt that was believed, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// The coordinator's word.
    pub receipt: Signed<Receipt>,
    /// The log's entry.
    pub entry: Entry,
    /// A head over the log with it.
    pub head: SignedHead,
    /// That the entry is in the log of that head.
    pub inclusion: Vec<Hash>,
}

/// Why a receipt is none.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is none.
    #[error("the coordinator gives no receipt")]
    Absent,
    /// A part of it is not there.
    #[error("the receipt does not parse: {0}")]
    Malformed(#[from] Malformed),
    /// Nobody who may has signed it.
    #[error("the receipt does not count: {0}")]
    Signature(#[from] signing::Error),
    /// It is for something else, or its entry is.
    #[error("the receipt is not for this update")]
    OtherUpdate,
    /// The entry is not in the log.
    #[error("the receipt's entry {0} is not in the log that came with it")]
    NotInTheLog(u64),
}

/// Judges the receipt for the update of `envelope`, at `now` by the site's clock.
///
/// # Errors
/// Why it is none.
pub fn judge(
    authority: &Authority,
    envelope: Digest,
    told: Option<v1::Receipt>,
    now: Timestamp,
) -> Result<Kept, Refusal> {
    let told = told.ok_or(Refusal::Absent)?;
    let time = |micros| Timestamp::from_microsecond(micros).map_err(|_| Malformed("time"));
    let (federation, at) = (authority.federation().clone(), time(told.at_micros)?);
    let receipt = Receipt { federation, envelope, entry: told.entry, at };
    let receipt = Signed::from_wire(receipt, told.signature)?;
    let entry = entry(told.event.ok_or(Malformed("entry"))?)?;
    let head = log::from_wire(authority.federation(), told.head.ok_or(Malformed("head"))?)?;
    if told.inclusion.len() > HASHES_MAX {
        return Err(Malformed("proof").into());
    }
    let hash = |bytes: &Vec<u8>| Hash::try_from(&bytes[..]).map_err(|_| Malformed("proof"));
    let inclusion = told.inclusion.iter().map(hash).collect::<Result<Vec<_>, _>>()?;
    receipt.by_coordinator(authority, now)?;
    head.by_coordinator(authority, now)?;
    if entry.document != Some(envelope) || entry.seq != told.entry || entry.seq == 0 {
        return Err(Refusal::OtherUpdate);
    }
    let (size, root) = (head.statement.size, head.statement.root);
    if !verify_inclusion((entry.seq - 1, entry.leaf()), (size, root), &inclusion) {
        return Err(Refusal::NotInTheLog(entry.seq));
    }
    Ok(Kept { receipt, entry, head, inclusion })
}

fn entry(event: v1::Event) -> Result<Entry, Malformed> {
    let v1::Event { seq, at, actor, kind, detail, document } = event;
    let at = at.ok_or(Malformed("time"))?;
    let at = Timestamp::new(at.seconds, at.nanos).map_err(|_| Malformed("time"))?;
    let document = Digest::try_from(&document[..]).map_err(|_| Malformed("document"))?;
    Ok(Entry { seq, at, actor, kind, detail, document: Some(document) })
}
