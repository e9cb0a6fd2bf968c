//! The agent's configuration: one TOML file, read and validated once.
//!
//! It names keys and data alike, so it is read by the agent alone; the trainer is handed the `[data]`
//! and `[trainer]` tables through the pipe. Paths are relative to the file's own folder.

use std::path::{Path, PathBuf};

use fedpaint_proto::channel::{self, Address, Route};
use fedpaint_proto::credential;
use fedpaint_proto::disk::may_pass;
use fedpaint_proto::identity::{self, Identity, Role, Validity};
use fedpaint_proto::names::{FederationName, SiteName};
use fedpaint_proto::proxy::{self, Proxy};
use fedpaint_proto::signing::{self, Authority, Signer, SigningFiles};
use fedpaint_proto::tls::{self, TlsFiles};
use jiff::Timestamp;
use serde::Deserialize;

use crate::pipe::Setup;
use crate::settings::{self, ComputeSettings, DataSettings, RehearsalSettings};
use crate::workspace::split_path;

/// The longest configuration file that is read.
pub const CONFIG_BYTES_MAX: u64 = 64 << 10;

/// A validated configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where the coordinator is.
    pub coordinator: Address,
    /// The HTTP proxy on the way there; without one, the environment's.
    pub proxy: Option<Proxy>,
    /// The folder that agent and trainer share.
    pub workspace: PathBuf,
    /// What this site allows, see [`crate::policy`]; without it, what a human approves.
    pub policy: Option<PathBuf>,
    /// This site's certificate, its key and the federation's root.
    pub tls: TlsFiles,
    /// What this site signs with. Without it, it signs nothing and asks for no signature.
    pub signing: Option<SigningFiles>,
    /// The scans.
    pub data: DataSettings,
    /// How the trainer computes.
    pub trainer: ComputeSettings,
    /// Whether the trainer only rehearses: for developers who break the machinery round a training.
    pub rehearsal: Option<RehearsalSettings>,
}

/// Who this site is, from its own certificate.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// The trust domain.
    pub federation: FederationName,
    /// The site's name.
    pub name: SiteName,
    /// When the certificate is valid.
    pub validity: Validity,
}

/// Why the agent cannot run as configured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file does not read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML of the configuration's shape.
    #[error("the configuration {} does not parse: {reason}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What is wrong, on one line.
        reason: String,
    },
    /// The coordinator's address is not one.
    #[error("the configuration's `coordinator`: {0}")]
    Address(#[from] channel::Error),
    /// The proxy is not one.
    #[error("the configuration's `proxy`: {0}")]
    Proxy(#[from] proxy::NotAProxy),
    /// The environment's proxy is not one.
    #[error(transparent)]
    Environment(#[from] proxy::BadVariable),
    /// A value is out of its range.
    #[error("the configuration's {0}")]
    Range(#[from] settings::Error),
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// A certificate that was being replaced cannot be put into its place.
    #[error("cannot finish the replacement of {}: {source}", path.display())]
    Settle {
        /// The certificate.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The signing key or its certificate cannot be used.
    #[error("{0}; see `signing` in the configuration")]
    Signing(#[from] signing::Error),
    /// The certificate names nobody.
    #[error("{}: {source}", path.display())]
    Identity {
        /// The certificate.
        path: PathBuf,
        /// Why.
        source: identity::Error,
    },
    /// The certificate names something that is not a site.
    #[error(
        "{} is the certificate of {identity}, an agent needs that of a site: \
         run `fedctl ca issue site NAME`", path.display()
    )]
    NotASite {
        /// The certificate.
        path: PathBuf,
        /// Who it names.
        identity: Identity,
    },
    /// The certificate is not valid now.
    #[error(
        "{} is valid from {} to {} and it is {now}: renew it with `fedctl ca issue site`, or set the \
         clock", path.display(), validity.not_before, validity.not_after
    )]
    Expired {
        /// The certificate.
        path: PathBuf,
        /// When it is valid.
        validity: Validity,
        /// The time now.
        now: Timestamp,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    coordinator: String,
    proxy: Option<String>,
    workspace: PathBuf,
    policy: Option<PathBuf>,
    tls: TlsFiles,
    signing: Option<SigningFiles>,
    data: DataSettings,
    #[serde(default)]
    trainer: ComputeSettings,
    rehearsal: Option<RehearsalSettings>,
}

impl Error {
    /// Whether it may pass by itself: a disk that is full, broken or read-only now.
    pub fn may_pass(&self) -> bool {
        matches!(self, Error::Settle { source, .. } if may_pass(source))
    }
}

impl Config {
    /// Reads and validates a configuration.
    ///
    /// # Errors
    /// If the file is missing, malformed, or a value is out of its range. Files it names are not
    /// looked at.
    pub fn load(path: &Path) -> Result<Config, Error> {
        let read = |source| Error::Read { path: path.to_owned(), source };
        let bytes = std::fs::metadata(path).map_err(read)?.len();
        if bytes > CONFIG_BYTES_MAX {
            let reason = format!("{bytes} bytes are more than the {CONFIG_BYTES_MAX} allowed");
            return Err(Error::Parse { path: path.to_owned(), reason });
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        // Absolute, because the trainer's working folder is another one.
        let path = std::path::absolute(path).map_err(read)?;
        Config::parse(&text, &path)
    }

    /// The configuration in `text`, which is or will be the file at `path`.
    ///
    /// # Errors
    /// If it is malformed, or a value is out of its range.
    pub fn parse(text: &str, path: &Path) -> Result<Config, Error> {
        let file: File = toml::from_str(text).map_err(|e: toml::de::Error| {
            let line = e.span().map(|span| text[..span.start].lines().count().max(1));
            let at = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            let reason = format!("{at}{}", e.message().replace('\n', " "));
            Error::Parse { path: path.to_owned(), reason }
        })?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let workspace = folder.join(&file.workspace);
        let mut data = file.data.relative_to(folder);
        data.split.get_or_insert_with(|| split_path(&workspace));
        file.data.validate()?;
        file.trainer.validate()?;
        file.rehearsal.as_ref().map_or(Ok(()), RehearsalSettings::validate)?;
        Ok(Config {
            coordinator: file.coordinator.parse()?,
            proxy: file.proxy.as_deref().map(str::parse).transpose()?,
            workspace,
            policy: file.policy.map(|policy| folder.join(policy)),
            tls: file.tls.relative_to(folder),
            data,
            signing: file.signing.map(|files| files.relative_to(folder)),
            trainer: file.trainer,
            rehearsal: file.rehearsal,
        })
    }

    /// How the coordinator is reached. `variable` looks a variable of the environment up.
    ///
    /// # Errors
    /// If the environment names a proxy that is none.
    pub fn route(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Route, Error> {
        let proxy = match &self.proxy {
            Some(proxy) => Some(proxy.clone()),
            None => proxy::of_environment(&self.coordinator, variable)?,
        };
        Ok(Route { proxy, ..Route::default() })
    }

    /// All that the trainer is told of it.
    pub fn setup(&self) -> Setup {
        Setup {
            workspace: self.workspace.clone(),
            data: self.data.clone(),
            compute: self.trainer.clone(),
            rehearsal: self.rehearsal.clone(),
        }
    }

    /// Who this site is, by its certificate, whether or not it is valid now.
    ///
    /// # Errors
    /// If the certificate does not read or is not a site's.
    pub fn site(&self) -> Result<Site, Error> {
        let path = &self.tls.certificate;
        let certificate = self.tls.own_certificate()?;
        let wrong = |source| Error::Identity { path: path.clone(), source };
        let identity = Identity::from_certificate(&certificate).map_err(wrong)?;
        let validity = Validity::of_certificate(&certificate).map_err(wrong)?;
        match identity {
            Identity { federation, role: Role::Site(name) } => {
                Ok(Site { federation, name, validity })
            }
            identity => Err(Error::NotASite { path: path.clone(), identity }),
        }
    }

    /// Who this site is, by a certificate that is valid `now` and whose key fits.
    ///
    /// # Errors
    /// If a file does not read, does not fit the others, is not a site's, or is not valid now.
    pub fn valid_site(&self, now: Timestamp) -> Result<Site, Error> {
        let settled = credential::settle(&self.tls);
        settled.map_err(|source| Error::Settle { path: self.tls.certificate.clone(), source })?;
        let site = self.site()?;
        let path = self.tls.certificate.clone();
        if !site.validity.contains(now) {
            return Err(Error::Expired { path, validity: site.validity, now });
        }
        self.tls.client()?;
        self.signer(&site, now)?;
        Ok(site)
    }

    /// What this site signs with, if it does, by a certificate that is its own and valid `now`.
    ///
    /// # Errors
    /// If a file does not read, does not fit the others, is not this site's, or is not valid now.
    pub fn signer(&self, site: &Site, now: Timestamp) -> Result<Option<Signer>, Error> {
        let Some(files) = &self.signing else { return Ok(None) };
        let signer = files.load()?;
        let authority = Authority::load(site.federation.clone(), &self.tls.ca)?;
        authority.holder(signer.certificate(), now)?;
        let identity = signer.identity().clone();
        if identity.role == Role::Site(site.name.clone()) {
            return Ok(Some(signer));
        }
        Err(Error::NotASite { path: files.certificate.clone(), identity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "coordinator = \"https://fed.example.org:8443\"\nworkspace = \"work\"\n\
        [tls]\nca = \"ca.pem\"\ncertificate = \"mayo.pem\"\nkey = \"/keys/mayo.key\"\n\
        [data]\npath = \"../scans\"\n";

    fn parse(text: &str) -> Result<Config, Error> {
        Config::parse(text, Path::new("/etc/fedpaint/site-agent.toml"))
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let config = parse(TEXT).unwrap();
        assert_eq!(config.workspace, Path::new("/etc/fedpaint/work"));
        assert_eq!(config.tls.ca, Path::new("/etc/fedpaint/ca.pem"));
        assert_eq!(config.tls.key, Path::new("/keys/mayo.key"));
        assert_eq!(config.data.path, Path::new("/etc/fedpaint/../scans"));
        assert_eq!(config.trainer, ComputeSettings::default());
    }

    #[test]
    fn a_proxy_that_is_configured_goes_before_the_environments() {
        let environment = |name: &str| (name == "HTTPS_PROXY").then(|| "http://other:2".to_owned());
        let proxy = |config: &Config| {
            config.route(environment).unwrap().proxy.map(|proxy| proxy.to_string())
        };
        assert_eq!(proxy(&parse(TEXT).unwrap()).as_deref(), Some("http://other:2"));
        let text = format!("proxy = \"http://ada:secret@own:1\"\n{TEXT}");
        assert_eq!(proxy(&parse(&text).unwrap()).as_deref(), Some("http://own:1"));
        assert_eq!(parse(TEXT).unwrap().route(|_| None).unwrap().proxy, None);
    }

    #[test]
    fn the_sample_in_deploy_parses() {
        let sample = include_str!("../../deploy/site-agent.toml");
        parse(sample).unwrap();
    }

    #[test]
    fn a_bad_configuration_is_refused_on_one_line_that_names_the_field() {
        for (from, to, named) in [
            ("workspace", "workspaces", "workspaces"),
            ("https://", "http://", "coordinator"),
            ("[data]", "[data]\nheld_out = 1.5", "data.held_out"),
            ("[data]", "[trainer]\nthreads = 0\n[data]", "trainer.threads"),
            ("workspace", "proxy = \"socks5://p:1\"\nworkspace", "proxy"),
            ("[data]", "[rehearsal]\nsteps_ms = 9999999\n[data]", "rehearsal.steps_ms"),
            ("[tls]", "[tls", "line 3"),
            ("[data]\npath = \"../scans\"\n", "", "data"),
        ] {
            let error = parse(&TEXT.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(named) && !error.contains('\n'), "{error}");
        }
        let missing = Config::load(Path::new("/nonexistent/x.toml")).unwrap_err().to_string();
        assert!(missing.contains("/nonexistent/x.toml"), "{missing}");
    }
}
