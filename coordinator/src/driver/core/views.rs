//! What the outside sees of the state: see [`crate::driver::view`].

use fedpaint_proto::identity::Role;
use fedpaint_proto::names::SiteName;
use jiff::Timestamp;

use super::state::{Doing, Seen, State};
use crate::driver::troubles::Troubles;
use crate::driver::view::{RoundView, RunView, SiteView};
use crate::records::SiteRow;
use crate::round::Round;
use crate::run::Run;

impl State {
    pub(in crate::driver) fn run_view(&self, run: &Run, troubles: &Troubles) -> RunView {
        let made_models = run.is_over() && run.committed() > 0;
        let absent = if made_models { self.absent(run) } else { Vec::new() };
        RunView { absent, trouble: troubles.of_runs(), ..RunView::from(run) }
    }

    pub(in crate::driver) fn round_view(&self, round: &Round, troubles: &Troubles) -> RoundView {
        let progress = |site: &SiteName| match self.seen(site)?.doing.as_ref()? {
            (id, Doing::Training(progress)) if id == round.id() => Some(*progress),
            _ => None,
        };
        let average = troubles.averages.get(round.id()).cloned();
        let view = RoundView { average, ..RoundView::new(round, progress) };
        let run = self.find_run(&round.id().run);
        view.with_late(run.into_iter().flat_map(|run| run.stragglers()))
    }

    pub(in crate::driver) fn site_views(&self) -> Vec<SiteView> {
        let view = |(_, site): (&SiteName, &SiteRow)| {
            let seen = self.seen(&site.name);
            SiteView {
                name: site.name.clone(),
                enrolled_at: site.enrolled_at,
                revoked_at: site.revoked_at,
                seen_at: seen.map(|seen| seen.at),
                agent_version: seen.map(|seen| seen.agent_version.clone()),
                wire_version: seen.map(|seen| seen.wire_version),
                joined_at: site.joined_at,
                signing_key: site.signing_key,
                certificate_until: self.certificate_until(site),
                signing_until: self.seen_since_in(site).and_then(|seen| seen.signing_until),
            }
        };
        self.sites().map(view).collect()
    }

    /// When the certificate ends that a site uses: the one that it showed last, whoever issued it. Where it has
    /// shown none since it was let in, the newest that was issued to it; one that is out uses none.
    fn certificate_until(&self, site: &SiteRow) -> Option<Timestamp> {
        if site.revoked_at.is_some() {
            return None;
        }
        let issued = || self.roster().until(&Role::Site(site.name.clone()));
        self.seen_since_in(site).and_then(|seen| seen.shown_until).or_else(issued)
    }

    /// What a site that is in has last told since it was let in.
    fn seen_since_in(&self, site: &SiteRow) -> Option<&Seen> {
        let is_in = site.revoked_at.is_none();
        self.seen(&site.name).filter(|seen| is_in && seen.at >= site.enrolled_at)
    }

    /// The sites that were enrolled when a run ended, and not revoked, and took part in none of its rounds
    /// that made a model.
    pub(super) fn absent(&self, run: &Run) -> Vec<SiteName> {
        let ended = run.round().closed_at();
        let was_in = |row: &SiteRow| {
            let in_time = ended.is_none_or(|ended| row.enrolled_at <= ended);
            in_time && row.revoked_at.is_none_or(|at| ended.is_some_and(|ended| at > ended))
        };
        let absent =
            self.sites().filter(|(site, row)| was_in(row) && !run.tally().members.contains(*site));
        absent.map(|(site, _)| site.clone()).collect()
    }
}
