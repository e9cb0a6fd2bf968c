//! What a site makes of the heads that the coordinator signs over its log: pure. A site keeps the last one
//! that it believed; every later one has to be over the same entries and more.
//!
//! A log that does not begin with the one that was shown before has been changed where it must not be. No
//! answer of that coordinator is worth anything then, so the agent stops and keeps both heads: each is
//! signed, and together they prove it to anybody.

use fedpaint_proto::limits::CLOCK_SKEW_MAX;
use fedpaint_proto::log::{SignedHead, TreeHead};
use fedpaint_proto::merkle::{HASHES_MAX, Hash, verify_consistency};
use fedpaint_proto::signing::{self, Authority};
use fedpaint_proto::v1::LogDoubt;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What the coordinator says of its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The log as it is now; none from a coordinator that signs nothing.
    pub head: Option<SignedHead>,
    /// That it begins with the log of the head that was kept.
    pub proof: Vec<Hash>,
}

/// Why what the coordinator says of its log does not count.
#[derive(Debug, thiserror::Error)]
pub enum Doubt {
    /// It says nothing.
    #[error(
        "it signs no head of its log, and this site has a signing key: give it one, `signing` in its config"
    )]
    Unsigned,
    /// Nobody who may has signed it.
    #[error(transparent)]
    Signature(#[from] signing::Error),
    /// Its clock and this site's differ.
    #[error("it says that it is {at}, and here it is {now}: one of the two clocks is wrong")]
    Clock {
        /// What it says.
        at: Timestamp,
        /// This site's time.
        now: Timestamp,
    },
    /// Entries that were there are there no more.
    #[error(
        "its log has {told} entries and had {kept}: it was cut short, or the coordinator was restored \
         from a backup; see `fedpaint-site-agent head accept`"
    )]
    CutShort {
        /// How many there were.
        kept: u64,
        /// How many there are.
        told: u64,
    },
    /// Entries that were there are others now.
    #[error(
        "its log is a fork: its {told} entries do not begin with the {kept} that this site was shown"
    )]
    Fork {
        /// How many were shown.
        kept: u64,
        /// How many there are.
        told: u64,
    },
}

impl Doubt {
    /// What the coordinator is told.
    pub fn to_wire(&self) -> LogDoubt {
        match self {
            Doubt::Unsigned => LogDoubt::Unsigned,
            Doubt::Signature(_) => LogDoubt::Signature,
            Doubt::Clock { .. } => LogDoubt::Clock,
            Doubt::CutShort { .. } => LogDoubt::CutShort,
            Doubt::Fork { .. } => LogDoubt::Fork,
        }
    }

    /// Whether it proves that the log was changed, so that nothing heals it.
    pub fn is_proof(&self) -> bool {
        matches!(self, Doubt::CutShort { .. } | Doubt::Fork { .. })
    }
}

/// Two heads that do not fit together, as they are kept on the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// What is wrong, in words.
    pub why: String,
    /// The head that was kept.
    pub kept: SignedHead,
    /// The one that came.
    pub told: SignedHead,
    /// What came with it to prove that it fits.
    pub consistency: Vec<Hash>,
}

/// Whether a head that was kept cannot be the one that was believed: what it says is not what was signed.
///
/// Its certificate has to hold when it was signed and no longer, and where the roots were replaced since, nobody
/// can tell any more: neither is a reason not to know it.
pub fn is_harmed(authority: &Authority, kept: &SignedHead) -> bool {
    matches!(kept.signer(authority, kept.statement.at), Err(signing::Error::Forged(_)))
}

/// Judges what the coordinator says of its log at `now`, by the site's clock. The head to keep.
///
/// # Errors
/// Why it does not count.
pub fn judge<'a>(
    authority: &Authority,
    kept: Option<&SignedHead>,
    told: &'a Told,
    now: Timestamp,
) -> Result<&'a SignedHead, Doubt> {
    let head = told.head.as_ref().ok_or(Doubt::Unsigned)?;
    head.by_coordinator(authority, now)?;
    let TreeHead { size, root, at, .. } = head.statement;
    if now.duration_since(at).unsigned_abs() > CLOCK_SKEW_MAX {
        return Err(Doubt::Clock { at, now });
    }
    let Some(TreeHead { size: kept, root: kept_root, .. }) = kept.map(|kept| &kept.statement)
    else {
        return Ok(head);
    };
    if size < *kept {
        return Err(Doubt::CutShort { kept: *kept, told: size });
    }
    let fits = told.proof.len() <= HASHES_MAX
        && verify_consistency((*kept, *kept_root), (size, root), &told.proof);
    if fits { Ok(head) } else { Err(Doubt::Fork { kept: *kept, told: size }) }
}
