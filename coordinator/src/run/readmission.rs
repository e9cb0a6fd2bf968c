//! PURE: whom an operator has readmitted: the sites whose updates no quarantine leaves out any more. From which
//! round on is part of it, so that a past round is computed again as it was.

use std::collections::{BTreeMap, BTreeSet};

use fedpaint_proto::names::SiteName;
use jiff::Timestamp;

use super::{Run, RunOver};
use crate::round::Phase;

impl Run {
    /// Which sites an operator has readmitted, and from which round on.
    pub fn readmitted(&self) -> &BTreeMap<SiteName, u32> {
        &self.readmitted
    }

    /// The sites that were readmitted by the round `number`.
    pub fn exempt(&self, number: u32) -> BTreeSet<SiteName> {
        let exempt = self.readmitted.iter().filter(|(_, from)| **from <= number);
        exempt.map(|(site, _)| site.clone()).collect()
    }

    /// Counts what `site` sends whatever it is, from the next round on that is not sealed. A site that is
    /// readmitted stays so.
    ///
    /// # Errors
    /// If the run is over.
    pub fn readmit(&mut self, site: SiteName, now: Timestamp) -> Result<(), RunOver> {
        if self.readmitted.contains_key(&site) {
            return Ok(());
        }
        self.tick(now);
        if self.is_over() {
            return Err(RunOver);
        }
        // What is sealed follows from what it was sealed with.
        let sealed = matches!(self.round.phase(), Phase::Aggregating | Phase::Committed(_));
        let from = self.round.id().number + u32::from(sealed);
        self.readmitted.insert(site, from);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Aggregate;
    use crate::round::{Event, Report, Update};
    use crate::testing::{START, blob, plan};

    #[test]
    fn a_site_is_readmitted_from_the_next_round_on_that_is_not_sealed_and_stays_so() {
        let mut run = Run::create("brain".parse().unwrap(), plan(3, 1), blob("base"), START);
        let site = |name: &str| name.parse::<SiteName>().unwrap();
        let exempt = |run: &Run, number| run.exempt(number).into_iter().collect::<Vec<_>>();
        run.readmit(site("mayo"), START).unwrap();
        let weights = blob("update");
        let update = Update { weights, examples: 1, report: Report::default() };
        let reported = Event::Reported(site("mayo"), update);
        for event in [Event::Joined(site("mayo")), Event::Closed, reported] {
            run.apply(event, START).unwrap();
        }
        assert_eq!(run.round().phase(), &Phase::Aggregating);
        run.readmit(site("kyoto"), START).unwrap();
        assert_eq!(exempt(&run, 1), [site("mayo")], "the round is sealed");
        run.apply(Event::Aggregated(Aggregate::of(blob("model")).into()), START).unwrap();
        run.readmit(site("oslo"), START).unwrap();
        run.readmit(site("mayo"), START).unwrap();
        assert_eq!(exempt(&run, 1), [site("mayo")]);
        assert_eq!(exempt(&run, 2), [site("kyoto"), site("mayo"), site("oslo")]);
        run.stop(START).unwrap();
        assert_eq!(run.readmit(site("mayo"), START), Ok(()), "as it was");
        assert_eq!(run.readmit(site("aachen"), START), Err(RunOver));
    }
}
