//! What follows from a directive: pure, so that every case is on one screen.
//!
//! The coordinator's answer tells what the site should be doing, not what changed; hearing it twice,
//! late, or never leads to the same place.

use fedpaint_proto::names::{Blob, RoundId};

use crate::client::{Activity, Directive};

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Go on as before.
    GoOn,
    /// Give up whatever is in hand and be idle.
    Rest,
    /// Give up whatever is in hand and say that this round would be joined, which begins from this model.
    Join(RoundId, Option<Blob>),
    /// Give up whatever is in hand and train this round, as one of so many sites.
    Train(RoundId, Blob, u32),
}

/// What a site that does `activity` does when it hears `directive`.
pub fn next(activity: &Activity, directive: &Directive) -> Next {
    let in_hand = match activity {
        Activity::Idle | Activity::Joining(_) => None,
        // A withdrawn round stays withdrawn: an answer from before the withdrawal changes nothing.
        Activity::Training(round, _)
        | Activity::Uploading(round)
        | Activity::Withdrawing(round, _)
        | Activity::Refusing(round, _) => Some(round),
    };
    match directive {
        Directive::Rest if *activity == Activity::Idle => Next::GoOn,
        Directive::Rest => Next::Rest,
        Directive::Join(round, _) if *activity == Activity::Joining(round.clone()) => Next::GoOn,
        Directive::Join(round, _) if in_hand == Some(round) => Next::GoOn,
        Directive::Join(round, base) => Next::Join(round.clone(), *base),
        Directive::Train(round, ..) if in_hand == Some(round) => Next::GoOn,
        Directive::Train(round, base, cohort) => Next::Train(round.clone(), *base, *cohort),
    }
}

#[cfg(test)]
mod tests {
    use fedpaint_proto::names::Digest;
    use fedpaint_proto::rule::Rule;
    use fedpaint_proto::v1::WithdrawalReason;

    use super::*;
    use crate::pipe::Progress;

    fn round(number: u32, attempt: u32) -> RoundId {
        RoundId { run: "brain".parse().unwrap(), number, attempt }
    }

    fn base() -> Blob {
        Blob { digest: Digest::of(b"m"), size: 1 }
    }

    fn activities(id: &RoundId) -> [Activity; 6] {
        [
            Activity::Idle,
            Activity::Joining(id.clone()),
            Activity::Training(id.clone(), Progress::default()),
            Activity::Uploading(id.clone()),
            Activity::Withdrawing(id.clone(), WithdrawalReason::TrainerDied),
            Activity::Refusing(id.clone(), Rule::Hours),
        ]
    }

    #[test]
    fn rest_gives_up_whatever_is_in_hand() {
        for activity in activities(&round(1, 1)) {
            let expected = if activity == Activity::Idle { Next::GoOn } else { Next::Rest };
            assert_eq!(next(&activity, &Directive::Rest), expected, "{activity:?}");
        }
    }

    #[test]
    fn hearing_of_the_round_in_hand_again_changes_nothing() {
        let id = round(1, 1);
        for activity in &activities(&id)[2..] {
            let train = Directive::Train(id.clone(), base(), 2);
            assert_eq!(next(activity, &train), Next::GoOn, "{activity:?}");
            let join = Directive::Join(id.clone(), Some(base()));
            assert_eq!(next(activity, &join), Next::GoOn, "{activity:?}");
        }
        let joining = Activity::Joining(id.clone());
        assert_eq!(next(&joining, &Directive::Join(id, Some(base()))), Next::GoOn);
    }

    #[test]
    fn another_round_or_attempt_takes_the_place_of_the_one_in_hand() {
        for other in [round(1, 2), round(2, 1)] {
            for activity in activities(&round(1, 1)) {
                let train = Directive::Train(other.clone(), base(), 2);
                assert_eq!(next(&activity, &train), Next::Train(other.clone(), base(), 2));
                let join = Directive::Join(other.clone(), Some(base()));
                assert_eq!(next(&activity, &join), Next::Join(other.clone(), Some(base())));
            }
        }
    }

    #[test]
    fn a_round_that_was_joined_is_trained() {
        let id = round(1, 1);
        let train = Directive::Train(id.clone(), base(), 2);
        assert_eq!(next(&Activity::Joining(id.clone()), &train), Next::Train(id, base(), 2));
    }
}
