//! How many sites counted in a round, and how many did not. It follows from the round alone.

use std::fmt;

use super::{Member, Round};
use crate::standing::Standing;

/// How many sites counted in a round, and how many did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All that joined.
    pub joined: u32,
    /// Those of them whose update is there.
    pub reported: u32,
    /// Late updates of earlier rounds that count in this one.
    pub folded: u32,
    /// Those that gave the round up or were revoked.
    pub withdrawn: u32,
    /// Those that did neither.
    pub missing: u32,
    /// Those of whom the model has nothing although their update is there, because it was quarantined.
    pub quarantined: u32,
}

impl Counts {
    /// The counts of a round.
    pub fn of(round: &Round) -> Counts {
        let mut counts = Counts::default();
        for member in round.members().values() {
            counts.joined += 1;
            match member {
                Member::Joined => counts.missing += 1,
                Member::Reported(_) => counts.reported += 1,
                Member::Withdrawn(_) => counts.withdrawn += 1,
            }
        }
        let left_out = |late| {
            let of = |standing: &&Standing| standing.excluded && standing.late == late;
            round.standings().iter().filter(of).count() as u32
        };
        counts.folded = (round.late().len() as u32).saturating_sub(left_out(true));
        counts.quarantined = left_out(false);
        counts
    }
}

impl fmt::Display for Counts {
    /// `2 of 5 sites, 1 late update (1 withdrew, 1 missing, 1 quarantined)`; what is none is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = self.reported.saturating_sub(self.quarantined);
        write!(f, "{counted} of {} sites", self.joined)?;
        match self.folded {
            0 => {}
            1 => f.write_str(", 1 late update")?,
            folded => write!(f, ", {folded} late updates")?,
        }
        let lacks = [
            (self.withdrawn, "withdrew"),
            (self.missing, "missing"),
            (self.quarantined, "quarantined"),
        ];
        let lacks = lacks.iter().filter(|(count, _)| *count > 0);
        let lacks: Vec<String> = lacks.map(|(count, what)| format!("{count} {what}")).collect();
        match lacks.is_empty() {
            true => Ok(()),
            false => write!(f, " ({})", lacks.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_told_without_what_there_is_none_of() {
        let all = Counts { joined: 3, reported: 3, ..Counts::default() };
        assert_eq!(all.to_string(), "3 of 3 sites");
        let some =
            Counts { joined: 4, reported: 2, folded: 1, withdrawn: 1, missing: 1, quarantined: 0 };
        assert_eq!(some.to_string(), "2 of 4 sites, 1 late update (1 withdrew, 1 missing)");
        let quarantined = Counts { joined: 3, reported: 3, quarantined: 1, ..Counts::default() };
        assert_eq!(quarantined.to_string(), "2 of 3 sites (1 quarantined)");
    }
}
