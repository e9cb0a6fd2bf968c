//! The ways in which the coordinator turns on its site.

/// How the coordinator does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attack {
    /// Sends other bytes than those of the model that it names.
    OtherModel,
    /// Asks for a round again that is past.
    ReplayedRound,
    /// Asks for round 3 from the model of round 1.
    SkippedVersion,
    /// Sends another plan than the one that the model was made by.
    OtherPlan,
    /// Names a model that is larger than the site takes.
    Oversize,
    /// Sends bytes without end for a model that it has named with its size.
    Endless,
    /// Shows another history than before.
    ForkedLog,
    /// Changes the plan of a run that has begun, and signs it.
    PolicyChange,
    /// Has a run of more rounds than the site allows.
    MoreRounds,
    /// Signs nothing.
    Unsigned,
    /// Asks for a training from another model than it has signed.
    OtherBase,
    /// Does not sign what a model is made of.
    UnsignedManifest,
    /// Has it signed by a key that the federation's root has not certified.
    ForgedManifest,
    /// Says, and signs, that a model was made from another one than the site trained from.
    OtherParent,
    /// Says so of a model in whose round it did not have the site take part.
    MissedParent,
    /// Has rounds with fewer sites than the site allows.
    SmallCohort,
    /// Says that it is tomorrow.
    Clock,
    /// Has a plan that nobody has signed whom the site trusts.
    StrangersPlan,
    /// Has the signature of a plan that the site would follow, over another one.
    BorrowedSignature,
}

impl Attack {
    /// The round in which the coordinator turns.
    pub(super) fn round(self) -> u32 {
        match self {
            Attack::OtherPlan
            | Attack::Oversize
            | Attack::MoreRounds
            | Attack::Unsigned
            | Attack::SmallCohort
            | Attack::Clock
            | Attack::StrangersPlan
            | Attack::BorrowedSignature => 1,
            Attack::OtherModel
            | Attack::Endless
            | Attack::SkippedVersion
            | Attack::ForkedLog
            | Attack::PolicyChange
            | Attack::OtherBase
            | Attack::UnsignedManifest
            | Attack::ForgedManifest
            | Attack::OtherParent
            | Attack::MissedParent => 2,
            Attack::ReplayedRound => 3,
        }
    }
}
