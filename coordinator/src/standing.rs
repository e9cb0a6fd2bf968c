//! What an aggregation found of each update, for the operator and for the round's rows. It holds no weight.

use std::fmt;

use fedpaint_proto::names::SiteName;
use serde::{Deserialize, Serialize};

/// How an update lies to the others of its round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Whose it is.
    pub site: SiteName,
    /// Whether it is of an earlier round: a site may have one of either kind.
    #[serde(default, skip_serializing_if = "is_false")]
    pub late: bool,
    /// The Euclidean norm of its difference to the model that it was trained from. In f32, which a database
    /// gives back as it was.
    pub norm: f32,
    /// The cosine of that difference and the sum of the others'; none where either is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f32>,
    /// The highest cosine of that difference and one of another site; none where either is nothing, or no rule
    /// and no quarantine asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<f32>,
    /// Why it is told, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier: Option<Outlier>,
    /// Whether it was quarantined: the round's model has nothing of it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub excluded: bool,
}

/// In what an update is unlike an honest one beside the others of its round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outlier {
    /// It is far longer or far shorter.
    Length,
    /// It leads elsewhere.
    Direction,
    /// It is all but another site's.
    Twin,
    /// The run was sent the same file for an earlier round.
    Replay,
}

impl fmt::Display for Outlier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outlier::Length => "unlike the others in length",
            Outlier::Direction => "unlike the others in direction",
            Outlier::Twin => "all but the same as another site's",
            Outlier::Replay => "the same file as an update for an earlier round",
        })
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let late = if self.late { ", late" } else { "" };
        write!(f, "site {}{late}, norm {:.3e}", self.site, self.norm)?;
        if let Some(cosine) = self.cosine {
            write!(f, ", cosine {cosine:.3}")?;
        }
        if let (Some(nearest), Some(Outlier::Twin)) = (self.nearest, self.outlier) {
            write!(f, ", nearest {nearest:.4}")?;
        }
        Ok(())
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_false(value: &bool) -> bool {
    !*value
}
