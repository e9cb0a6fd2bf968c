//! Checks every row and every blob, and names what is wrong and what to do. A row has to be what was written,
//! by its checksum; with the others it has to be what a coordinator writes, what was signed, and in the state
//! that the audit log told last. It reads a moment of the database and then the files, so it may run beside a
//! coordinator: what that writes meanwhile is not looked at, and nothing that a row names is deleted but what
//! retention lets go.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;

use fedpaint_proto::names::{Blob, Digest, FederationName};
use fedpaint_proto::weights::ModelFile;
use serde::Serialize;

use super::states::States;
use super::vouched::Rows;
use super::{Error, Moment, bar, log, lost, rows};
use crate::blobs::{Blobs, digest_of};
use crate::config::Config;
use crate::store::{self, Named, Unsound};

/// What a check has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fsck {
    /// Whether nothing is damaged.
    pub clean: bool,
    /// Sites, runs, rounds with every attempt, and entries of the audit log that were checked.
    pub sites: usize,
    /// Runs.
    pub runs: usize,
    /// Rounds, every attempt.
    pub rounds: usize,
    /// Entries of the audit log.
    pub events: u64,
    /// Rows that have no checksum yet, because they are of before there were any: a start gives it to them.
    pub unsummed: u64,
    /// Files that rows name and that were read to their last byte.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong.
    pub damage: Vec<Damage>,
    /// Files that no row names: an update that was not submitted yet, or one that was refused. The
    /// coordinator deletes them when they are old.
    pub orphans: u64,
    /// Files that rows name and that retention has let go.
    pub spent: u64,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Which row or blob.
    pub what: String,
    /// What is wrong with it.
    pub found: String,
    /// What to do about it.
    pub todo: String,
}

/// Checks the state that `config` names.
///
/// # Errors
/// If the database or the folder of blobs does not read at all.
pub async fn fsck(config: &Config) -> Result<Fsck, Error> {
    let mut found = Fsck::default();
    for line in store::integrity(&config.database()).await? {
        found.damaged("the database", line, "restore a backup");
    }
    let moment = Moment::of(config).await?;
    check_rows(&moment, &config.federation, &mut found).await?;
    let named = moment.store.named().await.map_err(Error::from);
    let Some(named) = unless_unreadable(named, &mut found)? else { return Ok(found) };
    let mut by_digest: BTreeMap<Digest, Vec<&Named>> = BTreeMap::new();
    for one in &named {
        by_digest.entry(one.blob.digest).or_default().push(one);
    }
    let blobs = Blobs::attach(&config.data);
    let missing = check_blobs(&blobs, &by_digest, &mut found)?;
    let count = missing.len();
    let lost = lost(config, &moment.store, &named, missing).await?;
    found.spent = (count - lost.len()) as u64;
    for rows in lost.iter().filter_map(|digest| by_digest.get(digest)) {
        let wrong = check_blob(&blobs, &rows[0].blob).unwrap_or_else(|| "it was not there".into());
        found.damaged(what(rows[0]), wrong, &todo(rows[0]));
    }
    found.clean = found.damage.is_empty();
    Ok(found)
}

/// Checks every row, and what was signed of them.
pub(super) async fn check_rows(
    moment: &Moment,
    federation: &FederationName,
    found: &mut Fsck,
) -> Result<(), Error> {
    let (unsound, unsummed) = moment.store.unsound().await?;
    found.unsummed = unsummed;
    for Unsound { row, found: wrong } in unsound {
        found.damaged(row, wrong, "restore a backup; until then nothing that it says is sure");
    }
    let (count, first, last) = moment.store.audit_extent().await?;
    found.events = count;
    if (count > 0 && first != 1) || count != last {
        let gap = format!("{count} entries from {first} to {last}: some are missing");
        found.damaged("the audit log", gap, "restore a backup if they matter");
    }
    let read = check_runs(moment, federation, found).await;
    // Where rows are missing, nothing can be said of what was signed of them.
    let rows = unless_unreadable(read, found)?;
    let (signed, states) = rows.unzip();
    let read = log::check(moment, federation, signed.as_ref(), found).await;
    let told = unless_unreadable(read, found)?.flatten();
    if let (Some(told), Some(states)) = (told, states) {
        found.damage.extend(told.against(&states));
    }
    Ok(())
}

/// What was read, unless there is a row that does not read: it hides those behind it.
fn unless_unreadable<T>(read: Result<T, Error>, found: &mut Fsck) -> Result<Option<T>, Error> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(Error::Store(error)) if error.is_of_a_row() => {
            found.damaged("a row", error.to_string(), "restore a backup, or use a newer version");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn check_runs(
    moment: &Moment,
    federation: &FederationName,
    found: &mut Fsck,
) -> Result<(Rows, States), Error> {
    let loaded = moment.store.load().await?;
    (found.sites, found.runs) = (loaded.sites.len(), loaded.runs.len());
    let (mut signed, mut states) = (Rows::default(), States::default());
    states.members(&loaded.sites, &loaded.roster.operators);
    for run in &loaded.runs {
        // One run's rounds at a time.
        let rounds = moment.rounds(run).await?;
        found.rounds += rounds.len();
        found.damage.extend(rows::check(run, &rounds));
        signed.add(federation, run, &rounds, &moment.store.stragglers(run.name()).await?);
        states.run(run, &rounds);
    }
    Ok((signed, states))
}

/// Checks every file that rows name; gives those that are not there.
fn check_blobs(
    blobs: &Blobs,
    by_digest: &BTreeMap<Digest, Vec<&Named>>,
    found: &mut Fsck,
) -> Result<BTreeSet<Digest>, Error> {
    let mut missing = BTreeSet::new();
    let bytes = by_digest.values().map(|rows| rows[0].blob.size).sum();
    let bar = bar("checking", bytes);
    for (digest, rows) in by_digest {
        if !blobs.path(digest).exists() {
            missing.insert(*digest);
        } else if let Some(wrong) = check_blob(blobs, &rows[0].blob) {
            // It may have been deleted just now.
            match blobs.path(digest).exists() {
                true => found.damaged(what(rows[0]), wrong, &todo(rows[0])),
                false => drop(missing.insert(*digest)),
            }
        } else if rows.iter().any(|row| row.blob.size != rows[0].blob.size) {
            found.damaged(
                what(rows[0]),
                "its rows disagree about its size".to_owned(),
                "restore a backup",
            );
        } else {
            found.blobs += 1;
            found.bytes += rows[0].blob.size;
        }
        bar.inc(rows[0].blob.size);
    }
    bar.finish_and_clear();
    let here = blobs.list()?;
    found.orphans = here.iter().filter(|digest| !by_digest.contains_key(digest)).count() as u64;
    Ok(missing)
}

/// What is wrong with a blob; nothing if it is all there.
fn check_blob(blobs: &Blobs, blob: &Blob) -> Option<String> {
    let path = blobs.path(&blob.digest);
    let size = match fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(_) if path.with_extension("rotten").exists() => {
            return Some("it had changed on the disk and was set aside".to_owned());
        }
        Err(error) => return Some(format!("it is not there: {error}")),
    };
    if size != blob.size {
        return Some(format!("it has {size} bytes and should have {}", blob.size));
    }
    match digest_of(&path) {
        Ok(digest) if digest != blob.digest => {
            return Some(format!("its bytes have changed: they are {}", digest.short()));
        }
        Ok(_) => {}
        Err(error) => return Some(error.to_string()),
    }
    ModelFile::open(&path).err().map(|error| error.to_string())
}

fn what(named: &Named) -> String {
    format!("blob {}, {}", named.blob.digest, named.what)
}

fn todo(named: &Named) -> String {
    let digest = named.blob.digest.to_string();
    let file = format!("blobs/{}/{digest}", &digest[..2]);
    match named.update_of {
        Some(_) => format!("copy {file} from a backup; if there is none, only `replay` misses it"),
        None => format!("copy {file} from a backup; `replay` of its round makes it, too"),
    }
}

impl Fsck {
    pub(super) fn damaged(
        &mut self,
        what: impl Into<String>,
        found: impl Into<String>,
        todo: &str,
    ) {
        let (what, found, todo) = (what.into(), found.into(), todo.to_owned());
        self.damage.push(Damage { what, found, todo });
    }
}

impl fmt::Display for Fsck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Damage { what, found, todo } in &self.damage {
            writeln!(f, "damaged  {what}\n         {found}\n         {todo}")?;
        }
        let Fsck { sites, runs, rounds, events, blobs, bytes, orphans, spent, .. } = self;
        writeln!(f, "rows     {sites} sites, {runs} runs, {rounds} rounds, {events} events")?;
        if self.unsummed > 0 {
            let rows = self.unsummed;
            writeln!(
                f,
                "         {rows} of them without a checksum until a coordinator is started"
            )?;
        }
        writeln!(
            f,
            "blobs    {blobs} read, {bytes} bytes; {orphans} named by no row, {spent} let go"
        )?;
        match self.damage.len() {
            0 => writeln!(f, "clean"),
            n => writeln!(f, "{n} damaged"),
        }
    }
}
