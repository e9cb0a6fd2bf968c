//! What the coordinator says of a run when it is over, from its rows and its audit log, and whether
//! that is the whole truth: every update that was acknowledged counts, and counts once.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use fedpaint_proto::names::{Blob, Digest, RoundId};
use fedpaint_proto::v1::admin_service_client::AdminServiceClient;
use fedpaint_proto::v1::{self, MemberState, RoundPhase};
use tonic::transport::Channel;

/// What an agent logs once the coordinator has acknowledged its update.
const DELIVERED: &str = "the update is delivered";

/// The kind of the audit log's entry for an update that was taken.
const ACCEPTED: &str = "update_accepted";

/// The kinds of those after which a member that had not reported when its round was sealed trains no more.
const LATE_ENDS: [&str; 2] = ["late_update_accepted", "late_update_dropped"];

/// The kind of the one for a site that joined a round.
const JOINED: &str = "site_joined";

/// Everything the coordinator says of one run.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The run.
    pub run: v1::Run,
    /// Its rounds, every attempt, oldest first.
    pub rounds: Vec<v1::Round>,
    /// The audit log of the whole coordinator.
    pub events: Vec<v1::Event>,
}

/// What is wrong with a run; empty lists where nothing is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Updates that were acknowledged and are in no committed and no abandoned round.
    pub lost: Vec<String>,
    /// Updates that were taken twice.
    pub doubled: Vec<String>,
    /// Rounds that do not follow from those before them, and gaps in the audit log.
    pub broken: Vec<String>,
}

impl Evidence {
    /// Asks for all of it.
    ///
    /// # Errors
    /// If the coordinator does not answer.
    pub async fn gather(
        admin: &mut AdminServiceClient<Channel>,
        name: &str,
    ) -> anyhow::Result<Evidence> {
        let run = admin.get_run(v1::GetRunRequest { name: name.into() }).await?.into_inner().run;
        let mut rounds: Vec<v1::Round> = Vec::new();
        loop {
            let oldest = rounds.first().and_then(|round| round.r#ref.as_ref());
            let (before_number, before_attempt) =
                oldest.map_or((0, 0), |oldest| (oldest.number, oldest.attempt));
            let run = name.into();
            let request = v1::ListRoundsRequest { run, before_number, before_attempt, limit: 0 };
            let mut older = admin.list_rounds(request).await?.into_inner().rounds;
            // A coordinator of before there were pages gives the same list again.
            let oldest = rounds.first().map(|round| &round.r#ref);
            if older.is_empty() || older.first().map(|round| &round.r#ref) == oldest {
                break;
            }
            older.append(&mut rounds);
            rounds = older;
        }
        let mut events: Vec<v1::Event> = Vec::new();
        loop {
            let after_seq = events.last().map_or(0, |event| event.seq);
            let request = v1::ListEventsRequest { after_seq, limit: 0 };
            let more = admin.list_events(request).await?.into_inner().events;
            if more.is_empty() {
                break;
            }
            events.extend(more);
        }
        Ok(Evidence { run: run.context("a run")?, rounds, events })
    }

    /// The model of every committed round, in order.
    pub fn models(&self) -> Vec<Digest> {
        let committed = self.committed();
        committed.iter().filter_map(|round| digest(round.model.as_ref())).collect()
    }

    /// The updates that made the committed rounds: round, site and digest.
    pub fn updates(&self) -> BTreeMap<(u32, String), Digest> {
        let mut updates = BTreeMap::new();
        for round in self.committed() {
            let number = round.r#ref.as_ref().map_or(0, |r| r.number);
            for member in reported(round) {
                if let Some(digest) = digest(member.update.as_ref()) {
                    updates.insert((number, member.site.clone()), digest);
                }
            }
        }
        updates
    }

    /// The committed rounds, oldest first.
    pub fn committed(&self) -> Vec<&v1::Round> {
        self.rounds.iter().filter(|round| round.phase() == RoundPhase::Committed).collect()
    }

    /// Attempts that were abandoned.
    pub fn abandoned(&self) -> usize {
        self.rounds.iter().filter(|round| round.phase() == RoundPhase::Abandoned).count()
    }

    /// How many sites still trained late, for one of the first `rounds` rounds, at a time in seconds since 1970.
    pub fn train_late(&self, rounds: usize, time: f64) -> usize {
        let ended = |round: &v1::Round, site: &str| {
            let times = self.times_of(round, &LATE_ENDS, Some(site));
            times.into_iter().any(|ended| ended <= time)
        };
        // Where a round was abandoned, nobody trains on for it.
        let sealed = self.rounds.iter().take(rounds).filter(|r| r.phase() == RoundPhase::Committed);
        let late = |round: &v1::Round| {
            let missing = round.members.iter().filter(|m| m.state() == MemberState::Joined);
            missing.filter(|member| !ended(round, &member.site)).count()
        };
        sealed.map(late).sum()
    }

    /// When the first site joined a round, in seconds since 1970.
    pub fn first_joined(&self, round: &v1::Round) -> Option<f64> {
        self.times_of(round, &[JOINED], None).into_iter().reduce(f64::min)
    }

    /// When something of these kinds befell a site, or any site, in a round.
    fn times_of(&self, round: &v1::Round, kinds: &[&str], site: Option<&str>) -> Vec<f64> {
        let Some(round) = id(round) else { return vec![] };
        let events = self.events.iter().filter(|event| kinds.contains(&event.kind.as_str()));
        let events = events.filter(|event| {
            let of = round_and_site(&event.detail);
            of.is_some_and(|(of, who)| of == round && site.is_none_or(|site| site == who))
        });
        events.filter_map(|event| event.at.as_ref()).map(seconds).collect()
    }

    /// Checks the run against `delivered`: what agents say was acknowledged, by site and round.
    pub fn findings(&self, delivered: &[(String, String)]) -> Findings {
        let mut found = Findings::default();
        let mut taken = BTreeSet::new();
        for event in self.events.iter().filter(|event| event.kind == ACCEPTED) {
            let Some((round, site)) = round_and_site(&event.detail) else { continue };
            if !round.starts_with(&format!("{}/", self.run.name)) {
                continue;
            }
            if !taken.insert((site.to_owned(), round.to_owned())) {
                found.doubled.push(format!("{site} in {round}"));
            }
        }
        for acknowledged in delivered.iter().filter(|what| !taken.contains(*what)) {
            let (site, round) = acknowledged;
            found.lost.push(format!("{site} in {round}: not in the audit log"));
        }
        for (site, round) in &taken {
            if !self.accounts_for(site, round) {
                found.lost.push(format!("{site} in {round}: not in the round's row"));
            }
        }
        self.chain(&mut found.broken);
        found
    }

    /// Whether the update is in its round, or its round was given up explicitly.
    fn accounts_for(&self, site: &str, round: &str) -> bool {
        let row = self.rounds.iter().find(|row| id(row).as_deref() == Some(round));
        row.is_some_and(|row| {
            row.phase() == RoundPhase::Abandoned || reported(row).any(|member| member.site == site)
        })
    }

    /// Each committed round follows from the one before, once; the audit log has no gap.
    fn chain(&self, broken: &mut Vec<String>) {
        let mut base = digest(self.run.initial_model.as_ref());
        for (i, round) in self.committed().into_iter().enumerate() {
            let number = round.r#ref.as_ref().map_or(0, |r| r.number);
            if number as usize != i + 1 {
                broken.push(format!("round {number} was committed in place {}", i + 1));
            }
            if digest(round.base_model.as_ref()) != base {
                broken.push(format!("round {number} does not begin where the one before ended"));
            }
            base = digest(round.model.as_ref());
        }
        if digest(self.run.model.as_ref()) != base {
            broken.push("the run's model is not that of its last round".into());
        }
        let gaps = self.events.iter().zip(1_u64..).filter(|(event, seq)| event.seq != *seq);
        broken.extend(gaps.take(1).map(|(_, seq)| format!("the audit log has no entry {seq}")));
    }
}

/// The rounds whose updates an agent says were acknowledged, from its log.
pub fn delivered(site: &str, log: &str) -> Vec<(String, String)> {
    let lines = log.lines().filter(|line| line.contains(DELIVERED));
    let rounds = lines.filter_map(|line| {
        let after = line.split("round=").nth(1)?;
        after.split_whitespace().next()
    });
    rounds.map(|round| (site.to_owned(), round.to_owned())).collect()
}

/// A time, in seconds since 1970.
pub fn seconds(at: &prost_types::Timestamp) -> f64 {
    at.seconds as f64 + f64::from(at.nanos) / 1e9
}

fn reported(round: &v1::Round) -> impl Iterator<Item = &v1::Member> {
    round.members.iter().filter(|member| member.state() == MemberState::Reported)
}

fn id(round: &v1::Round) -> Option<String> {
    RoundId::try_from(round.r#ref.as_ref()?).ok().map(|id| id.to_string())
}

fn digest(blob: Option<&v1::BlobRef>) -> Option<Digest> {
    blob.and_then(|blob| Blob::try_from(blob).ok()).map(|blob| blob.digest)
}

/// `round RUN/NUMBER.ATTEMPT: site SITE, ...`, as the audit log has it.
fn round_and_site(detail: &str) -> Option<(&str, &str)> {
    let (round, rest) = detail.strip_prefix("round ")?.split_once(": site ")?;
    Some((round, rest.split([',', ' ']).next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(name: &str) -> Option<v1::BlobRef> {
        Some(Blob { digest: Digest::of(name.as_bytes()), size: 1 }.into())
    }

    fn event(seq: u64, kind: &str, detail: &str) -> v1::Event {
        v1::Event { seq, kind: kind.into(), detail: detail.into(), ..v1::Event::default() }
    }

    fn evidence() -> Evidence {
        let member = v1::Member {
            site: "mayo".into(),
            state: MemberState::Reported.into(),
            update: blob("u"),
            ..v1::Member::default()
        };
        let round = v1::Round {
            r#ref: Some(v1::RoundRef { run: "brain".into(), number: 1, attempt: 2 }),
            phase: RoundPhase::Committed.into(),
            base_model: blob("0"),
            model: blob("1"),
            members: vec![member],
            ..v1::Round::default()
        };
        let run = v1::Run {
            name: "brain".into(),
            initial_model: blob("0"),
            model: blob("1"),
            ..v1::Run::default()
        };
        let accepted = "round brain/1.2: site mayo, 8 examples, model abc";
        Evidence { run, rounds: vec![round], events: vec![event(1, ACCEPTED, accepted)] }
    }

    #[test]
    fn a_run_in_which_all_is_well_has_no_findings() {
        let log = "INFO agent: the update is delivered round=brain/1.2\nINFO other round=x\n";
        let delivered = delivered("mayo", log);
        assert_eq!(delivered, [("mayo".to_owned(), "brain/1.2".to_owned())]);
        assert_eq!(evidence().findings(&delivered), Findings::default());
        assert_eq!(evidence().models(), [Digest::of(b"1")]);
        assert_eq!(evidence().updates().len(), 1);
    }

    #[test]
    fn a_lost_and_a_doubled_update_a_break_in_the_chain_and_a_gap_are_found() {
        let mut lost = evidence();
        lost.rounds[0].members.clear();
        assert_eq!(lost.findings(&[]).lost.len(), 1);
        let unheard = [("mayo".to_owned(), "brain/2.1".to_owned())];
        assert_eq!(evidence().findings(&unheard).lost.len(), 1);

        let mut doubled = evidence();
        doubled.events.push(event(2, ACCEPTED, &doubled.events[0].detail));
        assert_eq!(doubled.findings(&[]).doubled, ["mayo in brain/1.2"]);

        let mut broken = evidence();
        broken.rounds[0].base_model = blob("x");
        broken.events[0].seq = 2;
        assert_eq!(broken.findings(&[]).broken.len(), 2);

        // An update of a round that was abandoned is not lost without a word.
        let mut abandoned = evidence();
        abandoned.rounds[0].phase = RoundPhase::Abandoned.into();
        assert_eq!(abandoned.findings(&[]).lost, [""; 0]);
    }

    #[test]
    fn a_member_trains_late_from_its_round_on_until_its_update_has_come() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 500_000_000 });
        let mut evidence = evidence();
        evidence.rounds[0].members[0].state = MemberState::Joined.into();
        let joined = |site, seconds| v1::Event {
            at: at(seconds),
            ..event(1, JOINED, &format!("round brain/1.2: site {site}"))
        };
        evidence.events = vec![joined("oslo", 4), joined("mayo", 3), joined("mayo", 9)];
        assert_eq!(evidence.first_joined(&evidence.rounds[0]), Some(3.5));
        assert_eq!((evidence.train_late(0, 20.0), evidence.train_late(1, 20.0)), (0, 1));
        let came = "round brain/1.2: site mayo, 8 examples, model abc";
        evidence.events.push(v1::Event { at: at(20), ..event(2, LATE_ENDS[0], came) });
        assert_eq!((evidence.train_late(1, 20.0), evidence.train_late(1, 21.0)), (1, 0));
        evidence.rounds[0].phase = RoundPhase::Abandoned.into();
        assert_eq!(evidence.train_late(1, 20.0), 0);
    }
}
