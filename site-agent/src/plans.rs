//! The plans that a site was shown, and which of them a human here has approved: files by the plan's
//! digest in the workspace's folder `plans`.
//!
//! The agent writes plans, `plan approve` writes approvals; neither waits for the other. An approval is of
//! a plan's canonical text, whatever run has it: the same plan needs no second look. A file that lost a bit is
//! as good as none, see `seal`: nobody is to approve another plan than the one that its digest names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::limits::PLAN_BYTES_MAX;
use fedpaint_proto::names::{Digest, RunName};
use fedpaint_proto::plan::{self, PlanSignature, RunPlan, SignedPlan};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::disk::{Places, write_whole};
use crate::seal;

/// The most plans that are kept; one more takes the place of the oldest that nobody has approved.
pub const PLANS_MAX: usize = 256;

/// The longest file here: a plan of the greatest length, escaped, and its run.
const FILE_BYTES_MAX: u64 = 6 * PLAN_BYTES_MAX as u64 + 4096;

/// The longest name of who approves.
pub const APPROVER_CHARS_MAX: usize = 64;

const PLAN: Places = Places {
    create: "workspace.plan_create",
    write: "workspace.plan_write",
    sync: "workspace.plan_sync",
    rename: "workspace.plan_rename",
    folder: "workspace.plan_folder",
};

const APPROVAL: Places = Places {
    create: "workspace.approval_create",
    write: "workspace.approval_write",
    sync: "workspace.approval_sync",
    rename: "workspace.approval_rename",
    folder: "workspace.approval_folder",
};

/// A plan that the coordinator showed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shown {
    /// The run that had it first.
    pub run: RunName,
    /// When.
    pub at: Timestamp,
    /// The plan's canonical text.
    pub plan_toml: String,
    /// Who is said to stand behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<PlanSignature>,
}

impl Shown {
    /// The plan, read.
    ///
    /// # Errors
    /// If it is none.
    pub fn read(&self) -> Result<SignedPlan, plan::Error> {
        let plan = RunPlan::from_toml(&self.plan_toml)?;
        Ok(SignedPlan { plan, signature: self.signature })
    }
}

/// A human's yes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approved {
    /// Who, as the machine knows them or as they say.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// Why plans cannot be kept, or one not be approved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk fails.
    #[error("the plans' {}: {source}", path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no such plan.
    #[error(
        "no plan that this site was shown begins with {0}: see `fedpaint-site-agent plan show`"
    )]
    Unknown(String),
    /// There are several.
    #[error("{count} plans begin with {prefix}: give more of the digest")]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// How many there are.
        count: usize,
    },
    /// A plan that is kept is none.
    #[error("a plan that is kept here is none: {0}")]
    Plan(#[from] plan::Error),
}

/// The folder.
#[derive(Clone, Debug)]
pub struct Plans {
    folder: PathBuf,
}

impl Plans {
    /// The plans of the workspace `folder`.
    pub fn of(folder: &Path) -> Plans {
        Plans { folder: folder.join("plans") }
    }

    /// Keeps a plan that was shown, if it is not kept already; its digest. The same plan in another run may
    /// be signed where the first was not, or by somebody else: then the newer signature is kept.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn keep(&self, run: &RunName, plan: &SignedPlan, at: Timestamp) -> Result<Digest, Error> {
        let SignedPlan { plan, signature } = plan;
        let digest = plan.digest();
        let path = self.plan_path(digest);
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { path, source }
        };
        let made = reach("workspace.plans").and_then(|()| fs::create_dir_all(&self.folder));
        made.map_err(io(&self.folder))?;
        let kept = read::<Shown>(&path)?;
        if kept.as_ref().is_some_and(|kept| signature.is_none() || kept.signature == *signature) {
            return Ok(digest);
        }
        if kept.is_none() {
            self.make_room()?;
        }
        let (run, at) = kept.map_or_else(|| (run.clone(), at), |kept| (kept.run, kept.at));
        let shown = Shown { run, at, plan_toml: plan.to_toml(), signature: *signature };
        write_whole(&path, &PLAN, |file| file.write_all(&seal::sealed(&shown)?))
            .map_err(io(&path))?;
        Ok(digest)
    }

    /// Every plan that is kept, the newest first.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn list(&self) -> Result<Vec<(Digest, Shown)>, Error> {
        let mut plans = Vec::new();
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(plans),
            Err(source) => return Err(Error::Io { path: self.folder.clone(), source }),
        };
        for entry in entries {
            let entry = entry.map_err(|source| Error::Io { path: self.folder.clone(), source })?;
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| name.strip_suffix(".plan"));
            let Some(digest) = digest.and_then(|digest| digest.parse::<Digest>().ok()) else {
                continue;
            };
            // A file of another version, or that has changed, is as good as none: the plan is shown again.
            if let Some(shown) = read::<Shown>(&entry.path())? {
                plans.push((digest, shown));
            }
        }
        plans.sort_by(|(a, first), (b, second)| {
            (second.at, a.to_string()).cmp(&(first.at, b.to_string()))
        });
        Ok(plans)
    }

    /// The one plan whose digest begins so.
    ///
    /// # Errors
    /// If there is none or several, or the disk fails.
    pub fn find(&self, prefix: &str) -> Result<(Digest, RunPlan), Error> {
        let mut found: Vec<_> = self.list()?;
        found.retain(|(digest, _)| digest.to_string().starts_with(prefix));
        match found.as_slice() {
            [] => Err(Error::Unknown(prefix.to_owned())),
            [(digest, shown)] => Ok((*digest, RunPlan::from_toml(&shown.plan_toml)?)),
            several => Err(Error::Ambiguous { prefix: prefix.to_owned(), count: several.len() }),
        }
    }

    /// Who has approved the plan and when, if somebody has.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn approved(&self, digest: Digest) -> Result<Option<Approved>, Error> {
        read(&self.approval_path(digest))
    }

    /// Writes down that the plan is approved.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn approve(&self, digest: Digest, approved: &Approved) -> Result<(), Error> {
        let path = self.approval_path(digest);
        write_whole(&path, &APPROVAL, |file| file.write_all(&seal::sealed(approved)?))
            .map_err(|source| Error::Io { path, source })
    }

    /// Takes an approval back; also where there is none.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn take_back(&self, digest: Digest) -> Result<(), Error> {
        let path = self.approval_path(digest);
        match reach("workspace.approval_drop").and_then(|()| fs::remove_file(&path)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::Io { path, source })
            }
            _ => Ok(()),
        }
    }

    /// Lets the oldest plan go that nobody has approved, where there are too many.
    fn make_room(&self) -> Result<(), Error> {
        let plans = self.list()?;
        if plans.len() < PLANS_MAX {
            return Ok(());
        }
        for (digest, _) in plans.iter().rev() {
            if self.approved(*digest)?.is_none() {
                let path = self.plan_path(*digest);
                let removed = reach("workspace.plan_drop").and_then(|()| fs::remove_file(&path));
                return removed.map_err(|source| Error::Io { path, source });
            }
        }
        Ok(())
    }

    fn plan_path(&self, digest: Digest) -> PathBuf {
        self.folder.join(format!("{digest}.plan"))
    }

    fn approval_path(&self, digest: Digest) -> PathBuf {
        self.folder.join(format!("{digest}.approved"))
    }
}

/// What a file holds; none if it is not there, is not one of ours, or is not as it was written.
fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    match fs::metadata(path) {
        Ok(found) if found.len() <= FILE_BYTES_MAX => {}
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    }
    Ok(seal::read(&fs::read(path).map_err(io)?))
}

#[cfg(test)]
mod tests {
    use fedpaint_proto::plan::PlanSigner;
    use rustls::pki_types::PrivatePkcs8KeyDer;

    use super::*;

    fn plan(rounds: u32) -> SignedPlan {
        RunPlan::from_toml(&format!("version = 1\nrounds = {rounds}")).unwrap().into()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_plan_is_kept_once_and_approved_for_whatever_run_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let plans = Plans::of(folder.path());
        assert!(plans.list().unwrap().is_empty());
        let (first, other): (RunName, RunName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let digest = plans.keep(&first, &plan(3), at(1)).unwrap();
        assert_eq!(plans.keep(&other, &plan(3), at(2)).unwrap(), digest);
        let newer = plans.keep(&other, &plan(4), at(3)).unwrap();
        let kept = plans.list().unwrap();
        assert_eq!(
            kept.iter().map(|(d, s)| (*d, s.at)).collect::<Vec<_>>(),
            [(newer, at(3)), (digest, at(1))]
        );
        assert_eq!(plans.approved(digest).unwrap(), None);
        let yes = Approved { by: "ada".into(), at: at(9) };
        plans.approve(digest, &yes).unwrap();
        assert_eq!(
            (plans.approved(digest).unwrap(), plans.approved(newer).unwrap()),
            (Some(yes), None)
        );
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let signer = PlanSigner::new(&PrivatePkcs8KeyDer::from(key.serialize_der())).unwrap();
        let signature = Some(signer.sign(&plan(3).plan));
        let signed = SignedPlan { signature, ..plan(3) };
        assert_eq!(plans.keep(&other, &signed, at(4)).unwrap(), digest);
        plans.keep(&other, &plan(3), at(5)).unwrap();
        let kept = plans.list().unwrap().pop().unwrap().1;
        assert_eq!((kept.run, kept.at, kept.signature), (first, at(1), signature));
        plans.take_back(digest).unwrap();
        plans.take_back(digest).unwrap();
        assert_eq!(plans.approved(digest).unwrap(), None);
    }

    #[test]
    fn a_plan_or_an_approval_with_one_bit_flipped_anywhere_is_none_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let plans = Plans::of(folder.path());
        let digest = plans.keep(&"a".parse().unwrap(), &plan(3), at(1)).unwrap();
        plans.approve(digest, &Approved { by: "ada".into(), at: at(9) }).unwrap();
        let found = || {
            let approved = plans.approved(digest).unwrap();
            plans.list().unwrap().len() + usize::from(approved.is_some())
        };
        assert_eq!(found(), 2);
        for path in [plans.plan_path(digest), plans.approval_path(digest)] {
            let whole = fs::read(&path).unwrap();
            for bit in 0..8 * whole.len() {
                let mut bytes = whole.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                fs::write(&path, bytes).unwrap();
                assert_eq!(found(), 1, "bit {bit} of {}", path.display());
            }
            fs::write(&path, whole).unwrap();
        }
        assert_eq!(found(), 2);
    }

    #[test]
    fn a_plan_is_found_by_the_beginning_of_its_digest_if_that_says_which() {
        let folder = tempfile::tempdir().unwrap();
        let plans = Plans::of(folder.path());
        let run: RunName = "a".parse().unwrap();
        let digest = plans.keep(&run, &plan(1), at(1)).unwrap().to_string();
        assert_eq!(plans.find(&digest[..12]).unwrap().1, plan(1).plan);
        assert!(matches!(plans.find("zz"), Err(Error::Unknown(_))));
        plans.keep(&run, &plan(2), at(1)).unwrap();
        assert!(matches!(plans.find(""), Err(Error::Ambiguous { count: 2, .. })));
    }

    #[test]
    fn one_plan_too_many_takes_the_place_of_the_oldest_that_nobody_approved() {
        let folder = tempfile::tempdir().unwrap();
        let plans = Plans::of(folder.path());
        let run: RunName = "a".parse().unwrap();
        let keep = |rounds: u32| plans.keep(&run, &plan(rounds), at(rounds.into())).unwrap();
        let digests: Vec<Digest> = (1..=PLANS_MAX as u32).map(keep).collect();
        let yes = Approved { by: "ada".into(), at: at(9) };
        plans.approve(digests[0], &yes).unwrap();
        keep(PLANS_MAX as u32 + 1);
        let kept: Vec<Digest> =
            plans.list().unwrap().into_iter().map(|(digest, _)| digest).collect();
        assert_eq!(kept.len(), PLANS_MAX);
        assert!(kept.contains(&digests[0]) && !kept.contains(&digests[1]));
    }
}
