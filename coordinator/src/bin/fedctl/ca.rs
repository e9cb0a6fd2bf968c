//! `fedctl ca`: certificates as files. A private key is readable by its owner alone, and no file that
//! is there is ever replaced.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use fedpaint_coordinator::ca::{self, Issued, Validity};
use fedpaint_proto::identity::{Identity, Role};
use fedpaint_proto::passphrase;
use fedpaint_proto::tls;
use fedpaint_proto::weights::sync_folder;
use jiff::Timestamp;

use crate::cli::{CaVerb, Connection, RoleKind};
use crate::output::Output;
use crate::problem::Usage;
use crate::view::Certificate;

/// The root's certificate.
const ROOT: &str = "ca.pem";

/// The root's private key.
const ROOT_KEY: &str = "ca.key";

/// The issuing authority's certificate.
const ISSUING: &str = "issuing.pem";

/// The issuing authority's private key.
const ISSUING_KEY: &str = "issuing.key";

/// How long a certificate lasts that is renewed by who holds it.
const LEAF_DAYS: u32 = 7;

/// The longest PEM file that is read.
const PEM_BYTES_MAX: u64 = 1 << 20;

pub(crate) const EVERYBODY_READS: u32 = 0o644;
pub(crate) const OWNER_READS: u32 = 0o600;

/// Carries out a verb.
pub(crate) fn run(verb: CaVerb, settings: &Connection, output: &Output) -> anyhow::Result<()> {
    output.show(&make(verb, settings, output.now())?)
}

/// Makes a root or a certificate that holds from `now` on.
fn make(verb: CaVerb, settings: &Connection, now: Timestamp) -> anyhow::Result<Certificate> {
    Ok(match verb {
        CaVerb::Init { federation, out, days, issuing_days } => {
            let validity = Validity::days(now, days)?;
            let root = ca::create(&federation, validity)?;
            let issuing = ca::create_issuing(&root, Validity::days(now, issuing_days.min(days))?)?;
            let (certificate, key) = (out.join(ROOT), out.join(ROOT_KEY));
            let (own, own_key) = (out.join(ISSUING), out.join(ISSUING_KEY));
            let files: [(&Path, &str, u32); 3] = [
                (key.as_path(), root.key_pem.as_str(), OWNER_READS),
                (&own_key, &issuing.key_pem, OWNER_READS),
                (&own, &issuing.certificate_pem, EVERYBODY_READS),
            ];
            write_new(&files, &certificate, &root)?;
            let ca = certificate.clone();
            let identity = format!("spiffe://{federation}");
            written(identity, (&certificate, &key), None, &ca, validity)
        }
        CaVerb::Issuing { out, days } => {
            let root = read_root(authority(settings)?)?;
            let validity = Validity::days(now, days)?;
            let issuing = ca::create_issuing(&root, validity)?;
            let (certificate, key) = (out.join(ISSUING), out.join(ISSUING_KEY));
            write_new(&[(&key, &issuing.key_pem, OWNER_READS)], &certificate, &issuing)?;
            let identity = format!("spiffe://{}", ca::federation(&root)?);
            written(
                identity,
                (&certificate, &key),
                None,
                &folder_of(authority(settings)?).join(ROOT),
                validity,
            )
        }
        CaVerb::Issue { role, name, out, days, hosts } => {
            let (root, issuing) = read_authority(authority(settings)?)?;
            let validity = Validity::days(now, days.unwrap_or(LEAF_DAYS))?;
            let role = role_of(role, &name)?;
            let issued = ca::issue(&issuing, &role, &hosts, validity)?;
            let signing = match role {
                Role::Operator(_) => None,
                Role::Site(_) | Role::Coordinator(_) => {
                    // What was signed has to be believed for longer than a connection lasts, so this one
                    // is not renewed and ends with its authority, unless less is asked for.
                    let until = Validity::until(now, ca::inspect(&issuing)?.1);
                    let validity = days.map_or(until, |_| validity);
                    Some(ca::issue_signing(&issuing, &role, validity)?)
                }
            };
            let file = |end: &str| out.join(format!("{name}{end}"));
            let (certificate, key, copy) = (file(".pem"), file(".key"), out.join(ROOT));
            let (signing_certificate, signing_key) = (file(".signing.pem"), file(".signing.key"));
            let mut files = vec![(key.as_path(), issued.key_pem.as_str(), OWNER_READS)];
            if let Some(Issued { certificate_pem, key_pem }) = &signing {
                files.push((&signing_key, key_pem, OWNER_READS));
                files.push((&signing_certificate, certificate_pem, EVERYBODY_READS));
            }
            if !is_copy(&copy, &root)? {
                files.push((&copy, &root, EVERYBODY_READS));
            }
            write_new(&files, &certificate, &issued)?;
            let identity = Identity { federation: ca::federation(&issuing)?, role };
            let signing = signing.map(|_| (signing_certificate.as_path(), signing_key.as_path()));
            written(identity.to_string(), (&certificate, &key), signing, &copy, validity)
        }
    })
}

fn written(
    identity: String,
    (certificate, key): (&Path, &Path),
    signing: Option<(&Path, &Path)>,
    ca: &Path,
    validity: Validity,
) -> Certificate {
    let shown = |path: &Path| path.display().to_string();
    Certificate {
        identity,
        certificate: shown(certificate),
        key: shown(key),
        signing_certificate: signing.map(|(certificate, _)| shown(certificate)),
        signing_key: signing.map(|(_, key)| shown(key)),
        ca: shown(ca),
        not_before: validity.not_before,
        not_after: validity.not_after,
    }
}

fn role_of(kind: RoleKind, name: &str) -> Result<Role, Usage> {
    let wrong = |e: fedpaint_proto::names::Error| Usage(e.to_string());
    if name == "ca" || name == "issuing" {
        return Err(Usage(format!("the name `{name}` is taken by the authority's own files")));
    }
    Ok(match kind {
        RoleKind::Site => Role::Site(name.parse().map_err(wrong)?),
        RoleKind::Operator => Role::Operator(name.parse().map_err(wrong)?),
        RoleKind::Coordinator => {
            let name: fedpaint_proto::names::OperatorName = name.parse().map_err(wrong)?;
            Role::Coordinator(name.into())
        }
    })
}

fn authority(settings: &Connection) -> Result<&Path, Usage> {
    let told = || Usage("give --ca DIR, the folder that `fedctl ca init` filled".into());
    settings.ca.as_deref().ok_or_else(told)
}

/// The authority's folder, which may also be named by the root's certificate.
fn folder_of(authority: &Path) -> &Path {
    let folder = if authority.is_dir() { Some(authority) } else { authority.parent() };
    folder.unwrap_or(Path::new(""))
}

fn read(what: &str, path: PathBuf) -> anyhow::Result<String> {
    let length = std::fs::metadata(&path).map(|metadata| metadata.len());
    if length.as_ref().is_ok_and(|length| *length > PEM_BYTES_MAX) {
        bail!("{} is too long to be the {what}", path.display());
    }
    std::fs::read_to_string(&path).with_context(|| {
        format!("cannot read the {what} {}; `fedctl ca init` makes it", path.display())
    })
}

fn read_root(authority: &Path) -> anyhow::Result<Issued> {
    let folder = folder_of(authority);
    Ok(Issued {
        certificate_pem: read("root certificate", folder.join(ROOT))?,
        key_pem: tls::key_pem(&folder.join(ROOT_KEY))?,
    })
}

/// The root's certificate, and what issues certificates under it: the root itself where the folder is from
/// before there were issuing authorities.
fn read_authority(authority: &Path) -> anyhow::Result<(String, Issued)> {
    let folder = folder_of(authority);
    if !folder.join(ISSUING).exists() {
        let root = read_root(authority)?;
        return Ok((root.certificate_pem.clone(), root));
    }
    let issuing = Issued {
        certificate_pem: read("issuing certificate", folder.join(ISSUING))?,
        key_pem: tls::key_pem(&folder.join(ISSUING_KEY))?,
    };
    Ok((read("root certificate", folder.join(ROOT))?, issuing))
}

/// Whether `path` is a copy of the root's certificate; false if nothing is there.
fn is_copy(path: &Path, root: &str) -> anyhow::Result<bool> {
    match std::fs::read(path) {
        Ok(bytes) if bytes == root.as_bytes() => Ok(true),
        Ok(_) => bail!("{} is of another root; choose another folder", path.display()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes files that must not be there yet: all of them or none, the certificate last.
fn write_new(
    files: &[(&Path, &str, u32)],
    certificate: &Path,
    issued: &Issued,
) -> anyhow::Result<()> {
    let last = (certificate, issued.certificate_pem.as_str(), EVERYBODY_READS);
    let files: Vec<_> = files.iter().copied().chain([last]).collect();
    if let Some((there, ..)) = files.iter().find(|(path, ..)| path.exists()) {
        bail!("{} is there already and is not replaced; choose another folder", there.display());
    }
    let mut done = Vec::new();
    for (path, text, mode) in files {
        if let Err(error) = write_one(path, text, mode) {
            for path in done {
                // What made us fail is what must be told; a file that stays is not replaced either.
                let _ = std::fs::remove_file(path);
            }
            return Err(error).with_context(|| format!("cannot write {}", path.display()));
        }
        done.push(path);
    }
    Ok(())
}

/// Writes a file that must not be there yet; what its owner alone may read is a key, encrypted where a
/// passphrase is given.
pub(crate) fn write_one(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let text = match mode {
        OWNER_READS => passphrase::seal(text).map_err(std::io::Error::other)?,
        _ => text.to_owned(),
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    std::fs::create_dir_all(folder)?;
    // A temporary file is readable by its owner alone from the first byte on.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    sync_folder(path)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Arguments, Command};

    /// When everything is made.
    const NOW: Timestamp = Timestamp::constant(1_795_000_000, 0);

    fn fedctl(line: &str) -> anyhow::Result<()> {
        let arguments =
            Arguments::try_parse_from(std::iter::once("fedctl").chain(line.split(' '))).unwrap();
        let Command::Ca { verb } = arguments.command else { panic!("another command") };
        make(verb, &arguments.connection, NOW).map(drop)
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_root_and_certificates_are_files_whose_keys_only_the_owner_reads() {
        let folder = tempfile::tempdir().unwrap();
        let (ca, out) = (folder.path().join("ca"), folder.path().join("site"));
        let (ca_text, out_text) = (ca.display(), out.display());
        fedctl(&format!("ca init --federation brain --out {ca_text}")).unwrap();
        fedctl(&format!("ca issue site mayo --ca {ca_text} --out {out_text}")).unwrap();
        // The root may also be named by its certificate, and a second holder shares its copy.
        fedctl(&format!("ca issue operator ada --ca {ca_text}/ca.pem --out {out_text}")).unwrap();
        assert_eq!((mode(&ca.join(ROOT)), mode(&ca.join(ROOT_KEY))), (0o644, 0o600));
        let mut names: Vec<_> =
            std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        let signing = ["mayo.signing.key", "mayo.signing.pem"];
        let rest = ["ada.key", "ada.pem", "ca.pem", "mayo.key", "mayo.pem"];
        assert_eq!(names, [&rest[..], &signing].concat());
        for name in ["mayo", "mayo.signing"] {
            let file = |end: &str| out.join(format!("{name}.{end}"));
            assert_eq!((mode(&file("pem")), mode(&file("key"))), (0o644, 0o600), "{name}");
        }
        let signing = fedpaint_proto::signing::SigningFiles {
            certificate: out.join("mayo.signing.pem"),
            key: out.join("mayo.signing.key"),
        };
        assert_eq!(signing.load().unwrap().identity().to_string(), "spiffe://brain/site/mayo");
        let (certificate, key) = (out.join("mayo.pem"), out.join("mayo.key"));
        let tls = fedpaint_proto::signing::SigningFiles { certificate, key };
        assert!(tls.load().unwrap_err().to_string().contains("mayo.key"));
        let same =
            |name| std::fs::read(ca.join(name)).unwrap() == std::fs::read(out.join(name)).unwrap();
        assert!(same(ROOT));
        let tls = fedpaint_proto::tls::TlsFiles {
            ca: out.join(ROOT),
            certificate: out.join("mayo.pem"),
            key: out.join("mayo.key"),
        };
        tls.client().unwrap();
    }

    #[test]
    fn a_certificate_lasts_seven_days_by_default_and_one_to_sign_with_as_long_as_its_authority() {
        let folder = tempfile::tempdir().unwrap();
        let (ca, out) = (folder.path().join("ca"), folder.path().join("out"));
        let (ca_text, out_text) = (ca.display(), out.display());
        fedctl(&format!("ca init --federation brain --out {ca_text}")).unwrap();
        for who in [
            "site mayo",
            "operator ada",
            "coordinator main --host localhost",
            "site oslo --days 9",
            "operator bob --days 9",
        ] {
            fedctl(&format!("ca issue {who} --ca {ca_text} --out {out_text}")).unwrap();
        }
        let end = |path: PathBuf| {
            let chain = tls::certificates("certificate", &path).unwrap();
            let held = fedpaint_proto::identity::Validity::of_certificate(&chain[0]).unwrap();
            held.not_after.as_second() - NOW.as_second()
        };
        let of = |name: &str| end(out.join(name));
        let day = 86_400;
        for name in ["mayo", "ada", "main"] {
            assert_eq!(of(&format!("{name}.pem")), 7 * day, "{name}");
        }
        for name in ["oslo.pem", "bob.pem", "oslo.signing.pem"] {
            assert_eq!(of(name), 9 * day, "{name}");
        }
        for name in ["mayo.signing.pem", "main.signing.pem"] {
            assert_eq!(of(name), end(ca.join(ISSUING)), "{name}");
        }
    }

    #[test]
    fn nothing_that_is_there_is_replaced_and_a_refusal_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca");
        let line = format!("ca init --federation brain --out {}", ca.display());
        fedctl(&line).unwrap();
        let key = std::fs::read(ca.join(ROOT_KEY)).unwrap();
        assert!(fedctl(&line).unwrap_err().to_string().contains("is there already"));
        assert_eq!(std::fs::read(ca.join(ROOT_KEY)).unwrap(), key);

        let out = folder.path().join("out");
        let refused = |rest: &str| {
            let line = format!("ca issue {rest} --out {} --ca {}", out.display(), ca.display());
            let error = fedctl(&line).unwrap_err().to_string();
            assert!(!out.exists(), "{error}");
            error
        };
        assert!(refused("coordinator main").contains("at least one host"));
        assert!(refused("site mayo --host localhost").contains("only a coordinator"));
        assert!(refused("site Mayo").contains("lower-case"));
        assert!(refused("site ca").contains("taken"));
        assert!(refused("site mayo --days 7000").contains("fewer days"));

        // A folder that holds the copy of another root.
        std::fs::create_dir(&out).unwrap();
        std::fs::write(out.join(ROOT), "another").unwrap();
        let line = format!("ca issue site mayo --out {} --ca {}", out.display(), ca.display());
        assert!(fedctl(&line).unwrap_err().to_string().contains("another root"));
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1);
        let line = format!("ca issue site mayo --out {0} --ca {0}", folder.path().display());
        assert!(fedctl(&line).unwrap_err().to_string().contains("fedctl ca init"));
    }
}
