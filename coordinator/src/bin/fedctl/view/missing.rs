//! Whose update is not there, since when, and why.

use fedpaint_proto::v1;
use jiff::Timestamp;
use serde::Serialize;

use super::{Progress, UNKNOWN, time};

/// A site whose update is not there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Missing {
    pub(crate) site: String,
    /// `never_joined`, `waiting`, `silent`, `not_begun`, `training`, `uploading`, `withdrew`, `late`,
    /// `declined` or `busy`.
    pub(crate) why: &'static str,
    pub(crate) detail: String,
    /// Null where it was before the coordinator was started, which is never so of a silent site.
    pub(crate) since: Option<Timestamp>,
    pub(crate) heard_at: Option<Timestamp>,
    pub(crate) progress: Option<Progress>,
    pub(crate) uploaded_bytes: Option<u64>,
    pub(crate) upload_bytes: Option<u64>,
}

impl From<v1::Missing> for Missing {
    fn from(missing: v1::Missing) -> Missing {
        let uploads = missing.upload_bytes > 0;
        Missing {
            why: match missing.reason() {
                v1::MissingReason::NeverJoined => "never_joined",
                v1::MissingReason::Waiting => "waiting",
                v1::MissingReason::Silent => "silent",
                v1::MissingReason::NotBegun => "not_begun",
                v1::MissingReason::Training => "training",
                v1::MissingReason::Uploading => "uploading",
                v1::MissingReason::Withdrew => "withdrew",
                v1::MissingReason::Late => "late",
                v1::MissingReason::Declined => "declined",
                v1::MissingReason::Busy => "busy",
                v1::MissingReason::Unspecified => UNKNOWN,
            },
            site: missing.site,
            detail: missing.detail,
            since: time(missing.since),
            heard_at: time(missing.heard_at),
            progress: missing.progress.map(Progress::from),
            uploaded_bytes: uploads.then_some(missing.uploaded_bytes),
            upload_bytes: uploads.then_some(missing.upload_bytes),
        }
    }
}
