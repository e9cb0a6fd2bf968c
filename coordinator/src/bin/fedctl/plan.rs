//! `fedctl plan`: who stands behind a plan. Nothing here speaks to a coordinator.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use fedpaint_proto::plan::{PlanSignature, PlanSigner, RunPlan};
use rcgen::{KeyPair, PKCS_ED25519};

use crate::ca::{EVERYBODY_READS, OWNER_READS, write_one};
use crate::cli::PlanVerb;
use crate::output::Output;
use crate::run::read_plan;
use crate::view::PlanSigned;

/// The longest signature that is read.
const SIGNATURE_BYTES_MAX: u64 = 4 << 10;

/// Carries out a verb.
pub(crate) fn run(verb: PlanVerb, output: &Output) -> anyhow::Result<()> {
    output.show(&make(verb)?)
}

fn make(verb: PlanVerb) -> anyhow::Result<PlanSigned> {
    match verb {
        PlanVerb::Keygen { out } => {
            write(&out, &KeyPair::generate_for(&PKCS_ED25519)?.serialize_pem(), OWNER_READS)?;
            let signer = PlanSigner::load(&out)?.key().to_string();
            Ok(PlanSigned { signer, plan: None, file: out.display().to_string() })
        }
        PlanVerb::Sign { plan, with, out } => {
            let out = out.unwrap_or_else(|| PathBuf::from(format!("{}.sig", plan.display())));
            let plan = RunPlan::from_toml(&read_plan(&plan)?)?;
            let signature = PlanSigner::load(&with)?.sign(&plan);
            let text = serde_json::to_string_pretty(&signature)? + "\n";
            write(&out, &text, EVERYBODY_READS)?;
            let (signer, plan) = (signature.key.to_string(), Some(plan.digest().to_string()));
            Ok(PlanSigned { signer, plan, file: out.display().to_string() })
        }
    }
}

fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    if path.exists() {
        bail!("{} is there already and is not replaced; choose another file", path.display());
    }
    write_one(path, text, mode).with_context(|| format!("cannot write {}", path.display()))
}

/// The signature in a file, once it is known to be over this plan.
pub(crate) fn read_signature(path: &Path, plan_toml: &str) -> anyhow::Result<PlanSignature> {
    let shown = path.display();
    let read = || format!("cannot read the signature {shown}");
    let mut text = String::new();
    let file = File::open(path).with_context(read)?;
    file.take(SIGNATURE_BYTES_MAX).read_to_string(&mut text).with_context(read)?;
    let signature: PlanSignature = serde_json::from_str(&text).with_context(read)?;
    let fits = signature.is_over(&RunPlan::from_toml(plan_toml)?);
    ensure!(fits, "the signature {shown} is not over this plan: sign it anew, `fedctl plan sign`");
    Ok(signature)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::problem::one_line;

    #[test]
    fn a_key_that_was_made_signs_plans_and_its_signature_is_taken_for_that_plan_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let (key, plan) = (file("ada.key"), file("run.toml"));
        std::fs::write(&plan, "version = 1\nrounds = 3\n").unwrap();
        let made = make(PlanVerb::Keygen { out: key.clone() }).unwrap();
        let mode = std::fs::metadata(&key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let sign = || PlanVerb::Sign { plan: plan.clone(), with: key.clone(), out: None };
        let signed = make(sign()).unwrap();
        assert_eq!((&signed.signer, signed.file.ends_with("run.toml.sig")), (&made.signer, true));
        let signature = read_signature(&file("run.toml.sig"), "rounds = 3\nversion = 1").unwrap();
        assert_eq!(signature.key.to_string(), made.signer);
        let other = read_signature(&file("run.toml.sig"), "rounds = 4\nversion = 1").unwrap_err();
        assert!(one_line(&other).contains("is not over this plan"), "{other:#}");
        for again in [sign(), PlanVerb::Keygen { out: key.clone() }] {
            assert!(make(again).unwrap_err().to_string().contains("is there already"));
        }
    }

    #[test]
    fn a_key_that_others_may_read_signs_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (key, plan) = (folder.path().join("ada.key"), folder.path().join("run.toml"));
        std::fs::write(&plan, "version = 1\nrounds = 3\n").unwrap();
        make(PlanVerb::Keygen { out: key.clone() }).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = make(PlanVerb::Sign { plan, with: key, out: None }).unwrap_err();
        assert!(one_line(&error).contains("ada.key"), "{error:#}");
    }
}
