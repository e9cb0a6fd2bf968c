//! Values to columns and back. A row that this version cannot read is an error that names it.

use std::collections::BTreeMap;
use std::str::FromStr;

use fedpaint_proto::names::{Blob, RoundId, SiteName};
use fedpaint_proto::plan::{RoundPlan, RunPlan, SignedPlan};
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::{Error, EventRow, ModelRow, SiteRow, roster};
use crate::aggregate::Aggregate;
use crate::round::{Kept, LateUpdate, Member, Phase, Round, Stretch, Update};
use crate::run::{Saved, State, Tally};

/// Typed reading of columns.
pub(super) trait Columns {
    fn text(&self, column: &'static str) -> Result<String, Error>;
    fn number<T: TryFrom<i64>>(&self, column: &'static str) -> Result<T, Error>;
    fn time(&self, column: &'static str) -> Result<Timestamp, Error>;
    fn time_or_none(&self, column: &'static str) -> Result<Option<Timestamp>, Error>;
    fn parsed<T: FromStr>(&self, column: &'static str) -> Result<T, Error>;
    fn parsed_or_none<T: FromStr>(&self, column: &'static str) -> Result<Option<T>, Error>;
    fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, Error>;
    fn json_or_none<T: DeserializeOwned>(&self, column: &'static str) -> Result<Option<T>, Error>;
    fn blob(&self, digest: &'static str, size: &'static str) -> Result<Blob, Error>;
    fn blob_or_none(&self, digest: &'static str, size: &'static str)
    -> Result<Option<Blob>, Error>;
    fn aggregate(&self) -> Result<Aggregate<Blob>, Error>;
}

impl Columns for AnyRow {
    fn text(&self, column: &'static str) -> Result<String, Error> {
        Ok(self.try_get(column)?)
    }

    fn number<T: TryFrom<i64>>(&self, column: &'static str) -> Result<T, Error> {
        let value: i64 = self.try_get(column)?;
        T::try_from(value).map_err(|_| Error::Row { column, value: value.to_string() })
    }

    fn time(&self, column: &'static str) -> Result<Timestamp, Error> {
        let value = self.try_get(column)?;
        time(column, value)
    }

    fn time_or_none(&self, column: &'static str) -> Result<Option<Timestamp>, Error> {
        let value: Option<i64> = self.try_get(column)?;
        value.map(|value| time(column, value)).transpose()
    }

    fn parsed<T: FromStr>(&self, column: &'static str) -> Result<T, Error> {
        let value = self.text(column)?;
        value.parse().map_err(|_| Error::Row { column, value })
    }

    fn parsed_or_none<T: FromStr>(&self, column: &'static str) -> Result<Option<T>, Error> {
        let held: Option<String> = self.try_get(column)?;
        held.map(|_| self.parsed(column)).transpose()
    }

    fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, Error> {
        let value = self.text(column)?;
        serde_json::from_str(&value).map_err(|_| Error::Row { column, value })
    }

    fn json_or_none<T: DeserializeOwned>(&self, column: &'static str) -> Result<Option<T>, Error> {
        let held: Option<String> = self.try_get(column)?;
        held.map(|_| self.json(column)).transpose()
    }

    fn blob(&self, digest: &'static str, size: &'static str) -> Result<Blob, Error> {
        Ok(Blob { digest: self.parsed(digest)?, size: self.number(size)? })
    }

    fn blob_or_none(
        &self,
        digest: &'static str,
        size: &'static str,
    ) -> Result<Option<Blob>, Error> {
        let held: Option<String> = self.try_get(digest)?;
        held.map(|_| self.blob(digest, size)).transpose()
    }

    fn aggregate(&self) -> Result<Aggregate<Blob>, Error> {
        Ok(Aggregate {
            model: self.blob("model_digest", "model_size")?,
            ema: self.blob_or_none("ema_digest", "ema_size")?,
            momentum: self.blob_or_none("momentum_digest", "momentum_size")?,
            second_moment: self.blob_or_none("second_moment_digest", "second_moment_size")?,
        })
    }
}

fn time(column: &'static str, value: i64) -> Result<Timestamp, Error> {
    Timestamp::from_microsecond(value).map_err(|_| Error::Row { column, value: value.to_string() })
}

/// A time as a column holds it.
pub(super) fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

/// A count as a column holds it.
pub(super) fn bigint(what: &'static str, value: u64) -> Result<i64, Error> {
    i64::try_from(value).map_err(|_| Error::Range(what))
}

pub(super) fn json(column: &'static str, value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|e| Error::Row { column, value: e.to_string() })
}

pub(super) fn site(row: &AnyRow) -> Result<SiteRow, Error> {
    let signing_key: Option<String> = row.try_get("signing_key")?;
    Ok(SiteRow {
        name: row.parsed("name")?,
        enrolled_at: row.time("enrolled_at")?,
        revoked_at: row.time_or_none("revoked_at")?,
        joined_at: row.time_or_none("joined_at")?,
        signing_key: signing_key.map(|text| roster::key_32("signing_key", text)).transpose()?,
    })
}

pub(super) fn event(row: &AnyRow) -> Result<EventRow, Error> {
    Ok(EventRow {
        seq: row.number("seq")?,
        at: row.time("at")?,
        actor: row.text("actor")?,
        kind: row.text("kind")?,
        detail: row.text("detail")?,
        document: row.parsed_or_none("document")?,
    })
}

pub(super) fn model(row: &AnyRow) -> Result<ModelRow, Error> {
    Ok(ModelRow {
        round: row.number("number")?,
        blob: row.blob("model_digest", "model_size")?,
        ema: row.blob_or_none("ema_digest", "ema_size")?,
        committed_at: row.time("closed_at")?,
    })
}

pub(super) fn run(row: &AnyRow) -> Result<Saved, Error> {
    let state = row.text("state")?;
    let state = match state.as_str() {
        "active" => State::Active,
        "paused" => State::Paused { reason: row.json("reason")? },
        "finished" => State::Finished,
        "stopped" => State::Stopped,
        _ => return Err(Error::Row { column: "state", value: state }),
    };
    let plan = row.text("plan")?;
    let plan = RunPlan::from_toml(&plan).map_err(|_| Error::Row { column: "plan", value: plan })?;
    let signature: Option<String> = row.try_get("plan_signature")?;
    let wrong = |value: String| Error::Row { column: "plan_signature", value };
    let read = |text: String| serde_json::from_str(&text).map_err(|_| wrong(text));
    let signature = signature.map(read).transpose()?;
    Ok(Saved {
        name: row.parsed("name")?,
        plan: SignedPlan { plan, signature },
        initial: row.blob("initial_digest", "initial_size")?,
        created_at: row.time("created_at")?,
        state,
        newest: row.aggregate()?,
        committed: row.number("committed")?,
        failures: row.number("failures")?,
        stragglers: Vec::new(),
        tally: Tally::default(),
        readmitted: row.json_or_none("readmitted")?.unwrap_or_default(),
        resumed_from: row.json_or_none("resumed_from")?,
    })
}

/// A run's state as a word, and why it is paused.
pub(super) fn run_state(state: &State) -> Result<(&'static str, Option<String>), Error> {
    Ok(match state {
        State::Active => ("active", None),
        State::Paused { reason } => ("paused", Some(json("reason", reason)?)),
        State::Finished => ("finished", None),
        State::Stopped => ("stopped", None),
    })
}

/// What belongs to a round beside its own row.
#[derive(Default)]
pub(super) struct Parts {
    members: BTreeMap<SiteName, Member>,
    since: BTreeMap<SiteName, Timestamp>,
    pub(super) late: BTreeMap<SiteName, LateUpdate>,
}

impl Parts {
    /// Adds a member's row.
    pub(super) fn member(&mut self, row: &AnyRow) -> Result<(), Error> {
        let (site, member) = member(row)?;
        if let Some(since) = row.time_or_none("since")? {
            self.since.insert(site.clone(), since);
        }
        self.members.insert(site, member);
        Ok(())
    }
}

pub(super) fn round(row: &AnyRow, policy: &RoundPlan, parts: Parts) -> Result<Round, Error> {
    let phase = row.text("phase")?;
    let phase = match phase.as_str() {
        "selecting" => Phase::Selecting { until: row.time("until_at")? },
        "reporting" => Phase::Reporting { until: row.time("until_at")? },
        "aggregating" => Phase::Aggregating,
        "committed" => Phase::Committed(row.aggregate()?),
        "abandoned" => Phase::Abandoned { reason: row.json("reason")? },
        _ => return Err(Error::Row { column: "phase", value: phase }),
    };
    let id = RoundId {
        run: row.parsed("run")?,
        number: row.number("number")?,
        attempt: row.number("attempt")?,
    };
    let times = (row.time("opened_at")?, row.time_or_none("closed_at")?);
    let base = row.blob("base_digest", "base_size")?;
    let Parts { members, since, late } = parts;
    let standings = row.json_or_none("standings")?.unwrap_or_default();
    let sealed_at = row.time_or_none("sealed_at")?;
    let kept = Kept { since, stretch: stretch(row)?, late, standings, sealed_at };
    Ok(Round::restore(id, base, policy.clone(), phase, members, times, kept))
}

fn stretch(row: &AnyRow) -> Result<Option<Stretch>, Error> {
    let Some(due) = row.time_or_none("due_at")? else { return Ok(None) };
    let arriving: BTreeMap<String, i64> = row.json("arriving")?;
    let entry = |(site, at): (String, i64)| {
        let name = site.parse();
        let name = name.map_err(|_| Error::Row { column: "arriving", value: site })?;
        Ok((name, time("arriving", at)?))
    };
    let arriving = arriving.into_iter().map(entry).collect::<Result<_, Error>>()?;
    Ok(Some(Stretch { due, arriving }))
}

/// When reporting was due and what was arriving, as two columns.
pub(super) fn stretch_columns(round: &Round) -> Result<(Option<i64>, Option<String>), Error> {
    let Some(Stretch { due, arriving }) = round.stretch() else { return Ok((None, None)) };
    let arriving: BTreeMap<&str, i64> =
        arriving.iter().map(|(site, at)| (site.as_str(), micros(*at))).collect();
    Ok((Some(micros(*due)), Some(json("arriving", &arriving)?)))
}

/// A phase's columns.
#[derive(Default)]
pub(super) struct PhaseColumns {
    pub(super) word: &'static str,
    pub(super) until_at: Option<i64>,
    pub(super) model: BlobColumns,
    pub(super) ema: BlobColumns,
    pub(super) momentum: BlobColumns,
    pub(super) second_moment: BlobColumns,
    pub(super) reason: Option<String>,
}

/// A blob's two columns, both of them NULL where there is none.
#[derive(Default)]
pub(super) struct BlobColumns {
    pub(super) digest: Option<String>,
    pub(super) size: Option<i64>,
}

fn blob_columns(blob: Option<Blob>) -> Result<BlobColumns, Error> {
    let size = blob.map(|blob| bigint("a blob's size", blob.size)).transpose()?;
    Ok(BlobColumns { digest: blob.map(|blob| blob.digest.to_string()), size })
}

pub(super) fn phase(phase: &Phase) -> Result<PhaseColumns, Error> {
    let mut columns = PhaseColumns::default();
    match phase {
        Phase::Selecting { until } => {
            columns.word = "selecting";
            columns.until_at = Some(micros(*until));
        }
        Phase::Reporting { until } => {
            columns.word = "reporting";
            columns.until_at = Some(micros(*until));
        }
        Phase::Aggregating => columns.word = "aggregating",
        Phase::Committed(Aggregate { model, ema, momentum, second_moment }) => {
            columns.word = "committed";
            columns.model = blob_columns(Some(*model))?;
            columns.ema = blob_columns(*ema)?;
            columns.momentum = blob_columns(*momentum)?;
            columns.second_moment = blob_columns(*second_moment)?;
        }
        Phase::Abandoned { reason } => {
            columns.word = "abandoned";
            columns.reason = Some(json("reason", reason)?);
        }
    }
    Ok(columns)
}

/// The update in a row that has one.
pub(super) fn update(row: &AnyRow) -> Result<Update, Error> {
    Ok(Update {
        weights: row.blob("update_digest", "update_size")?,
        examples: row.number("examples")?,
        report: row.json("report")?,
    })
}

fn member(row: &AnyRow) -> Result<(SiteName, Member), Error> {
    let state = row.text("state")?;
    let member = match state.as_str() {
        "joined" => Member::Joined,
        "reported" => Member::Reported(update(row)?),
        "withdrawn" => Member::Withdrawn(row.json("reason")?),
        _ => return Err(Error::Row { column: "state", value: state }),
    };
    Ok((row.parsed("site")?, member))
}

/// A member's columns.
#[derive(Default)]
pub(super) struct MemberColumns {
    pub(super) state: &'static str,
    pub(super) update: UpdateColumns,
    pub(super) reason: Option<String>,
}

/// An update's columns, all of them NULL where there is none.
#[derive(Default)]
pub(super) struct UpdateColumns {
    pub(super) weights: BlobColumns,
    pub(super) examples: Option<i64>,
    pub(super) report: Option<String>,
}

pub(super) fn update_columns(update: Option<&Update>) -> Result<UpdateColumns, Error> {
    let Some(update) = update else { return Ok(UpdateColumns::default()) };
    Ok(UpdateColumns {
        weights: blob_columns(Some(update.weights))?,
        examples: Some(bigint("a count of examples", update.examples)?),
        report: Some(json("report", &update.report)?),
    })
}

pub(super) fn member_columns(member: &Member) -> Result<MemberColumns, Error> {
    let mut columns = MemberColumns::default();
    match member {
        Member::Joined => columns.state = "joined",
        Member::Reported(update) => {
            columns.state = "reported";
            columns.update = update_columns(Some(update))?;
        }
        Member::Withdrawn(why) => {
            columns.state = "withdrawn";
            columns.reason = Some(json("reason", why)?);
        }
    }
    Ok(columns)
}
