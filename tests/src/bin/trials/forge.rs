//! A certificate authority that makes what none should make: under a lab's own authority, or under a root
//! of its own.

use std::path::{Path, PathBuf};

use fedpaint_proto::credential;
use fedpaint_proto::tls::TlsFiles;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use time::{Duration, OffsetDateTime};

/// An authority and the folder that it writes to.
pub(crate) struct Forge {
    issuer: Issuer<'static, KeyPair>,
    /// What follows a certificate: the authority's own.
    chain: String,
    /// The roots that the holders trust.
    roots: String,
    folder: PathBuf,
}

/// What is to be in a certificate.
#[derive(Clone)]
pub(crate) struct Leaf {
    /// Its URIs.
    pub(crate) uris: Vec<String>,
    /// What it is good for.
    pub(crate) usage: Option<ExtendedKeyUsagePurpose>,
    /// From when on it holds, in hours from now.
    pub(crate) from_hours: i64,
    /// Until when.
    pub(crate) hours: i64,
}

impl Leaf {
    /// An ordinary certificate of whoever calls.
    pub(crate) fn client(uri: &str) -> Leaf {
        let usage = Some(ExtendedKeyUsagePurpose::ClientAuth);
        Leaf { uris: vec![uri.to_owned()], usage, from_hours: -48, hours: 24 }
    }
}

impl Forge {
    /// With the authority in `ca`, as `fedctl ca init` makes it.
    pub(crate) fn of(ca: &Path, folder: PathBuf) -> anyhow::Result<Forge> {
        let chain = std::fs::read_to_string(ca.join("issuing.pem"))?;
        let key = KeyPair::from_pem(&std::fs::read_to_string(ca.join("issuing.key"))?)?;
        let issuer = Issuer::from_ca_cert_pem(&chain, key)?;
        let roots = std::fs::read_to_string(ca.join("ca.pem"))?;
        std::fs::create_dir_all(&folder)?;
        Ok(Forge { issuer, chain, roots, folder })
    }

    /// With a root of its own; the holders trust the roots in `ca` all the same.
    pub(crate) fn new(folder: PathBuf, ca: &Path) -> anyhow::Result<Forge> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = Issuer::new(params, KeyPair::generate()?);
        let roots = std::fs::read_to_string(ca.join("ca.pem"))?;
        std::fs::create_dir_all(&folder)?;
        Ok(Forge { issuer, chain: String::new(), roots, folder })
    }

    /// Writes a certificate and its key.
    pub(crate) fn issue(&self, name: &str, leaf: &Leaf) -> anyhow::Result<TlsFiles> {
        let mut params = CertificateParams::new(Vec::new())?;
        for uri in &leaf.uris {
            params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
        }
        params.extended_key_usages.extend(leaf.usage.clone());
        let now = OffsetDateTime::now_utc();
        params.not_before = now + Duration::hours(leaf.from_hours);
        params.not_after = now + Duration::hours(leaf.hours);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let file = |end: &str| self.folder.join(format!("{}.{end}", name.replace(' ', "-")));
        let files = TlsFiles { ca: file("ca.pem"), certificate: file("pem"), key: file("key") };
        std::fs::write(&files.ca, &self.roots)?;
        std::fs::write(&files.certificate, certificate.pem() + &self.chain)?;
        credential::write_key(&files.key, &key.serialize_pem())?;
        Ok(files)
    }
}
