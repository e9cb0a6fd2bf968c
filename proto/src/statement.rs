//! What a site and the coordinator put their names to beside the log: an update, the receipt for it, and the
//! manifest of a global model. Each has one form in bytes, which is what is signed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::names::{Blob, Digest, FederationName, RoundId, RunName, SiteName};
use crate::signing::bytes::Bytes;
use crate::signing::{Malformed, Signed, Statement};
use crate::v1;

/// "This is my update for this attempt at this round": said by a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// In which federation.
    pub federation: FederationName,
    /// For which attempt at which round.
    pub round: RoundId,
    /// Whose update it is.
    pub site: SiteName,
    /// The model that it was trained from.
    pub base: Digest,
    /// The run's plan, as the digest of its text.
    pub plan: Digest,
    /// The trained model.
    pub update: Blob,
    /// Training examples behind it.
    pub examples: u64,
}

impl Statement for Envelope {
    fn to_bytes(&self) -> Vec<u8> {
        let Envelope { federation, round, site, base, plan, update, examples } = self;
        let bytes = Bytes::of("fedpaint/update/v1").text(federation.as_str());
        let bytes = bytes.text(round.run.as_str());
        let bytes = bytes.number(round.number.into()).number(round.attempt.into());
        let bytes = bytes.text(site.as_str()).digest(base.as_bytes()).digest(plan.as_bytes());
        bytes.digest(update.digest.as_bytes()).number(update.size).number(*examples).done()
    }
}

/// "I have taken this update, and said so in the log": said by the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// In which federation.
    pub federation: FederationName,
    /// The digest of the update's envelope, as bytes.
    pub envelope: Digest,
    /// The number of the log's entry that says so.
    pub entry: u64,
    /// When it was taken.
    pub at: Timestamp,
}

impl Statement for Receipt {
    fn to_bytes(&self) -> Vec<u8> {
        let Receipt { federation, envelope, entry, at } = self;
        let bytes = Bytes::of("fedpaint/receipt/v1").text(federation.as_str());
        bytes.digest(envelope.as_bytes()).number(*entry).time(*at).done()
    }
}

/// "This is version n of the model, and this is what it is made of": said by the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// In which federation.
    pub federation: FederationName,
    /// Of which run.
    pub run: RunName,
    /// The round that made it; 0 is what the run started from.
    pub version: u32,
    /// The attempt that made it; 0 for the first model, which no round made.
    pub attempt: u32,
    /// The model that the round began from; none for the first one.
    pub parent: Option<Digest>,
    /// The run's plan, as the digest of its text.
    pub plan: Digest,
    /// The model.
    pub model: Blob,
    /// The moving average beside it.
    pub ema: Option<Blob>,
    /// The updates that it is made of: in the order of the sites' names, then late ones likewise.
    pub contributors: Vec<Contributor>,
}

/// An update that a model is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contributor {
    /// Whose update it is.
    pub site: SiteName,
    /// The round that it was trained for; an earlier one where it came late.
    pub number: u32,
    /// The attempt at that round.
    pub attempt: u32,
    /// The update.
    pub update: Digest,
    /// Training examples behind it.
    pub examples: u64,
}

impl Statement for Manifest {
    fn to_bytes(&self) -> Vec<u8> {
        let Manifest { federation, run, version, attempt, parent, plan, model, ema, .. } = self;
        let bytes = Bytes::of("fedpaint/manifest/v1").text(federation.as_str()).text(run.as_str());
        let bytes = bytes.number((*version).into()).number((*attempt).into());
        let bytes = bytes.digest_or_none(parent.as_ref().map(Digest::as_bytes));
        let bytes = bytes.digest(plan.as_bytes());
        let bytes = bytes.digest(model.digest.as_bytes()).number(model.size);
        let bytes = bytes.digest_or_none(ema.as_ref().map(|ema| ema.digest.as_bytes()));
        let bytes = bytes.number(ema.map_or(0, |ema| ema.size));
        let mut bytes = bytes.number(self.contributors.len() as u64);
        for Contributor { site, number, attempt, update, examples } in &self.contributors {
            bytes = bytes.text(site.as_str()).number((*number).into()).number((*attempt).into());
            bytes = bytes.digest(update.as_bytes()).number(*examples);
        }
        bytes.done()
    }
}

/// A manifest as it travels.
pub fn manifest_to_wire(manifest: &Signed<Manifest>) -> v1::ModelManifest {
    let Manifest { run, version, attempt, parent, plan, model, ema, .. } = &manifest.statement;
    let contributor = |c: &Contributor| v1::Contributor {
        site: c.site.to_string(),
        number: c.number,
        attempt: c.attempt,
        update: c.update.as_bytes().to_vec(),
        examples: c.examples,
    };
    v1::ModelManifest {
        run: run.to_string(),
        version: *version,
        attempt: *attempt,
        parent: parent.map(|digest| digest.as_bytes().to_vec()).unwrap_or_default(),
        plan: plan.as_bytes().to_vec(),
        model: Some((*model).into()),
        ema: ema.map(Into::into),
        contributors: manifest.statement.contributors.iter().map(contributor).collect(),
        signature: Some(manifest.signature_to_wire()),
    }
}

/// A manifest that travelled, of a model of `federation`, not yet believed.
///
/// # Errors
/// What of it is not there or is none.
pub fn manifest_from_wire(
    federation: &FederationName,
    manifest: v1::ModelManifest,
) -> Result<Signed<Manifest>, Malformed> {
    let digest = |bytes: &[u8], what| Digest::try_from(bytes).map_err(|_| Malformed(what));
    let blob = |blob: &v1::BlobRef| Blob::try_from(blob).map_err(|_| Malformed("model"));
    let contributor = |c: &v1::Contributor| -> Result<Contributor, Malformed> {
        let site = c.site.parse().map_err(|_| Malformed("contributor"))?;
        let (number, attempt, examples) = (c.number, c.attempt, c.examples);
        let update = digest(&c.update, "contributor")?;
        Ok(Contributor { site, number, attempt, update, examples })
    };
    let parent = (!manifest.parent.is_empty()).then(|| digest(&manifest.parent, "parent"));
    let statement = Manifest {
        federation: federation.clone(),
        run: manifest.run.parse().map_err(|_| Malformed("run"))?,
        version: manifest.version,
        attempt: manifest.attempt,
        parent: parent.transpose()?,
        plan: digest(&manifest.plan, "plan")?,
        model: blob(manifest.model.as_ref().ok_or(Malformed("model"))?)?,
        ema: manifest.ema.as_ref().map(blob).transpose()?,
        contributors: manifest.contributors.iter().map(contributor).collect::<Result<_, _>>()?,
    };
    Signed::from_wire(statement, manifest.signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        Envelope {
            federation: "brain".parse().unwrap(),
            round: RoundId { run: "t1".parse().unwrap(), number: 3, attempt: 2 },
            site: "mayo".parse().unwrap(),
            base: Digest::of(b"base"),
            plan: Digest::of(b"plan"),
            update: Blob { digest: Digest::of(b"update"), size: 6 },
            examples: 40,
        }
    }

    fn manifest() -> Manifest {
        Manifest {
            federation: "brain".parse().unwrap(),
            run: "t1".parse().unwrap(),
            version: 3,
            attempt: 2,
            parent: Some(Digest::of(b"base")),
            plan: Digest::of(b"plan"),
            model: Blob { digest: Digest::of(b"model"), size: 5 },
            ema: None,
            contributors: vec![Contributor {
                site: "mayo".parse().unwrap(),
                number: 3,
                attempt: 2,
                update: Digest::of(b"update"),
                examples: 40,
            }],
        }
    }

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_be_bytes()[..], text.as_bytes()].concat()
    }

    /// Written once: what was signed stays what it was, in every later version.
    #[test]
    fn what_is_signed_has_the_bytes_that_it_had() {
        let number = |number: u64| number.to_be_bytes().to_vec();
        let digest = |bytes: &[u8]| Digest::of(bytes).as_bytes().to_vec();
        let said = [
            text("fedpaint/update/v1"),
            text("brain"),
            text("t1"),
            number(3),
            number(2),
            text("mayo"),
            digest(b"base"),
            digest(b"plan"),
            digest(b"update"),
            number(6),
            number(40),
        ];
        assert_eq!(envelope().to_bytes(), said.concat());
        let at = Timestamp::constant(1_795_000_000, 0);
        let federation = "brain".parse().unwrap();
        let receipt = Receipt { federation, envelope: Digest::of(b"e"), entry: 9, at };
        let said = [
            text("fedpaint/receipt/v1"),
            text("brain"),
            digest(b"e"),
            number(9),
            1_795_000_000_000_000_i64.to_be_bytes().to_vec(),
        ];
        assert_eq!(receipt.to_bytes(), said.concat());
        let said = [
            text("fedpaint/manifest/v1"),
            text("brain"),
            text("t1"),
            number(3),
            number(2),
            number(1),
            digest(b"base"),
            digest(b"plan"),
            digest(b"model"),
            number(5),
            number(0),
            number(0),
            number(1),
            text("mayo"),
            number(3),
            number(2),
            digest(b"update"),
            number(40),
        ];
        assert_eq!(manifest().to_bytes(), said.concat());
    }

    #[test]
    fn every_field_of_a_manifest_is_signed() {
        let other = Digest::of(b"other");
        let blob = Blob { digest: other, size: 5 };
        let contributor = manifest().contributors.remove(0);
        let changed = [
            Manifest { federation: "heart".parse().unwrap(), ..manifest() },
            Manifest { run: "t2".parse().unwrap(), ..manifest() },
            Manifest { version: 4, ..manifest() },
            Manifest { attempt: 1, ..manifest() },
            Manifest { parent: None, ..manifest() },
            Manifest { plan: other, ..manifest() },
            Manifest { model: blob, ..manifest() },
            Manifest { ema: Some(blob), ..manifest() },
            Manifest { contributors: Vec::new(), ..manifest() },
            Manifest { contributors: vec![contributor.clone(), contributor.clone()], ..manifest() },
            Manifest {
                contributors: vec![Contributor { examples: 41, ..contributor }],
                ..manifest()
            },
        ];
        for changed in changed {
            assert_ne!(changed.to_bytes(), manifest().to_bytes(), "{changed:?}");
        }
    }
}
