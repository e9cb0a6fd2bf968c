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
    /// The highest cosine with another site's; null where it is not asked for.
    pub(crate) nearest_cosine: Option<f64>,
    /// `length`, `direction`, `twin` or `replay`; null where nothing is to be told.
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
            v1::Outlier::Twin => Some("twin"),
            v1::Outlier::Replay => Some("replay"),
        };
        let v1::Standing { site, late, norm, cosine, excluded, nearest_cosine, .. } = standing;
        Standing { site, late, norm, cosine, nearest_cosine, outlier, excluded }
    }
}
