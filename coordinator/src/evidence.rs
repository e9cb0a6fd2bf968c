//! What the coordinator proves and what it demands: the heads that it signs over its audit log, receipts,
//! manifests ([`made`]), whether an update is signed by its site, the log as lines that can be checked
//! anywhere ([`export`]), and the check ([`verify`]). Pure but for the key.

pub mod export;
pub mod made;
pub mod verify;

use std::sync::{Arc, PoisonError, RwLock};

use fedpaint_proto::identity::Role;
use fedpaint_proto::log::{SignedHead, TreeHead};
use fedpaint_proto::names::{Digest, FederationName, SiteName};
use fedpaint_proto::plan::RunPlan;
use fedpaint_proto::signing::{self, Authority, Holder, Signed, Signer};
use fedpaint_proto::statement::{Envelope, Manifest, Receipt};
use jiff::Timestamp;

use crate::records::{Document, DocumentKind, EventRow, Log};

/// Who signs for the coordinator, and judges what sites have signed.
#[derive(Debug)]
pub struct Notary {
    federation: FederationName,
    /// Another one once the files have changed.
    seal: RwLock<Arc<Seal>>,
    accept_unsigned: bool,
}

/// What is signed with, and by what signatures are judged: the one is under the other's roots.
#[derive(Debug)]
pub(crate) struct Seal {
    /// The federation's roots.
    pub(crate) authority: Authority,
    /// The coordinator's key and its certificate.
    pub(crate) signer: Signer,
}

/// Why an update does not count.
#[derive(Debug, thiserror::Error)]
pub enum Unsigned {
    /// Nobody has signed it.
    #[error("it is not signed; give the agent a key: `signing` in its configuration")]
    Absent,
    /// The site has not signed it.
    #[error(transparent)]
    Signature(#[from] signing::Error),
}

/// The digest of a plan, as it is signed: that of its text.
pub fn plan_digest(plan: &RunPlan) -> Digest {
    Digest::of(plan.to_toml().as_bytes())
}

impl Notary {
    /// A notary under a federation's root. With `accept_unsigned`, updates need no signature.
    pub fn new(authority: Authority, signer: Signer, accept_unsigned: bool) -> Notary {
        Notary::sealing(Arc::new(Seal { authority, signer }), accept_unsigned)
    }

    /// A notary that signs with `seal` until it is given another one.
    pub(crate) fn sealing(seal: Arc<Seal>, accept_unsigned: bool) -> Notary {
        let federation = seal.authority.federation().clone();
        Notary { federation, seal: RwLock::new(seal), accept_unsigned }
    }

    /// Signs with another seal from now on, and judges by it.
    pub(crate) fn take(&self, seal: Arc<Seal>) {
        // It is whole after any panic.
        *self.seal.write().unwrap_or_else(PoisonError::into_inner) = seal;
    }

    fn seal(&self) -> Arc<Seal> {
        Arc::clone(&self.seal.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whose log it signs.
    pub fn federation(&self) -> &FederationName {
        &self.federation
    }

    /// Vouches for the log as it is at `now`. The head is never older than the newest entry, whatever
    /// the clock says.
    pub fn head(&self, log: &Log, now: Timestamp) -> SignedHead {
        self.head_by(&self.seal().signer, log, now)
    }

    /// Vouches for the log as each of `entries` leaves it, with which it has grown from `before` to what it is
    /// at `now`: so that of each of them alone it can be told whether it is the one that was logged. All heads
    /// are by one key.
    pub fn heads(&self, before: &Log, entries: &[EventRow], now: Timestamp) -> Vec<SignedHead> {
        let (seal, mut log) = (self.seal(), before.clone());
        let head_with = |entry: &EventRow| {
            log.push(entry);
            self.head_by(&seal.signer, &log, now)
        };
        entries.iter().map(head_with).collect()
    }

    fn head_by(&self, signer: &Signer, log: &Log, now: Timestamp) -> SignedHead {
        let at = log.at.map_or(now, |newest| newest.max(now));
        let (size, root) = (log.tree.size(), log.tree.root());
        Signed::by(signer, TreeHead { federation: self.federation().clone(), size, root, at })
    }

    /// Vouches for what a model is made of.
    pub fn manifest(&self, manifest: Manifest) -> Signed<Manifest> {
        Signed::by(&self.seal().signer, manifest)
    }

    /// The receipt for the update whose envelope `entry` vouches for.
    pub fn receipt(&self, envelope: Digest, entry: &EventRow) -> Signed<Receipt> {
        let (federation, at) = (self.federation().clone(), entry.at);
        Signed::by(&self.seal().signer, Receipt { federation, envelope, entry: entry.seq, at })
    }

    /// Judges the signature of an update at `now`, which must be by the site's `key` where that is known.
    /// The envelope as a document; none where it is not signed and need not be.
    ///
    /// # Errors
    /// Why the update does not count.
    pub fn judge(
        &self,
        (site, key): (&SiteName, Option<[u8; 32]>),
        envelope: Envelope,
        signature: Option<&signing::Unbound>,
        now: Timestamp,
    ) -> Result<Option<Document>, Unsigned> {
        let Some(signature) = signature else {
            return if self.accept_unsigned { Ok(None) } else { Err(Unsigned::Absent) };
        };
        let signed = signature.clone().over(envelope);
        let holder = signed.signer(&self.seal().authority, now)?;
        if holder.role != Role::Site(site.clone()) {
            let (found, must) = (holder.role, "site that it is the update of");
            return Err(signing::Error::Signer { found, must }.into());
        }
        key_of(&holder, key)?;
        Ok(Some(Document::of(DocumentKind::Update, &signed)))
    }

    /// The key that a member signs with, by its certificate at `now`; it must be its `key` where that is
    /// known.
    ///
    /// # Errors
    /// Why the certificate does not count.
    pub fn key(
        &self,
        (member, key): (&Role, Option<[u8; 32]>),
        certificate: &[u8],
        now: Timestamp,
    ) -> Result<[u8; 32], signing::Error> {
        let holder = self.seal().authority.holder(certificate, now)?;
        if holder.role != *member {
            return Err(signing::Error::Certificate(format!("it is that of {}", holder.role)));
        }
        key_of(&holder, key)
    }
}

/// The key of a signing certificate, which must be the `known` one where there is one.
fn key_of(holder: &Holder, known: Option<[u8; 32]>) -> Result<[u8; 32], signing::Error> {
    let key = holder.key().filter(|key| known.is_none_or(|known| known == *key));
    let why = || "its key is another than the site joined with".to_owned();
    key.ok_or_else(|| signing::Error::Certificate(why()))
}
