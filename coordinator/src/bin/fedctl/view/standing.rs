//! How the updates of a round lie to each other.

use fedpaint_proto::v1;
use serde::Serialize;

/// An update of a committed round.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Standing {
    pub(crate) site: String,
    /// Whether it is of an earlier round.
    pub(crate) late: bool,
    /// The Euclidean norm of its difference to the model that it was trained from.
    pub(crate) norm: f64,
    /// The cosine of that and the sum of the others'; null where either is nothing.
    pub(crate) cosine: Option<f64>,
    /// `length` or `direction`; null where it is like the others.
    pub(crate) outlier: Option<&'static str>,
    /// Whether it was quarantined.
    pub(crate) excluded: bool,
}

impl From<v1::Standing> for Standing {
    fn from(standing: v1::Standing) -> Standing {
        let outlier = match standing.outlier() {
            v1::Outlier::Unspecified => None,
            v1::Outlier::Length => Some("length"),
            v1::Outlier::Direction => Some("direction"),
        };
        let v1::Standing { site, late, norm, cosine, excluded, .. } = standing;
        Standing { site, late, norm, cosine, outlier, excluded }
    }
}
