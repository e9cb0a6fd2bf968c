//! The coordinator's configuration: a TOML file, parsed once, its paths taken from its own folder.
//!
//! Nothing here opens anything but that file, and no secret is in it: the key is named by its path.

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fedpaint_proto::names::FederationName;
use fedpaint_proto::signing::SigningFiles;
use fedpaint_proto::tls::TlsFiles;
use serde::Deserialize;

use crate::roster::TwoPersons;

/// The longest configuration file.
const CONFIG_BYTES_MAX: u64 = 64 << 10;

/// How often sites may be told to ask, in milliseconds.
const HEARTBEAT_MS: std::ops::RangeInclusive<u32> = 50..=600_000;

/// How long certificates may last that the coordinator issues, in seconds: up to 90 days.
const LEAF_S: std::ops::RangeInclusive<u32> = 30..=90 * 86_400;

/// What `serve` needs to know.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The federation: the trust domain every certificate must be of.
    pub federation: FederationName,
    /// Where sites and operators reach the coordinator.
    pub listen: SocketAddr,
    /// Where `/healthz` and `/metrics` are; no certificate is asked for there.
    #[serde(default = "status_listen")]
    pub status_listen: SocketAddr,
    /// The folder for models and, unless `database` says otherwise, the database.
    pub data: PathBuf,
    /// `sqlite:FILE` or `postgres://...`; `coordinator.db` in the data folder if not given.
    #[serde(default)]
    pub database: Option<String>,
    /// How soon a site is to ask again, in milliseconds.
    #[serde(default = "heartbeat_ms")]
    pub heartbeat_ms: u32,
    /// What the log on stderr looks like.
    #[serde(default)]
    pub log: LogFormat,
    /// What is deleted once it is old.
    #[serde(default)]
    pub retention: Retention,
    /// The coordinator's certificate.
    pub tls: TlsFiles,
    /// What the coordinator signs with. Without it, it signs nothing, and sites that have a signing key
    /// of their own do not work for it.
    #[serde(default)]
    pub signing: Option<SigningFiles>,
    /// Whether an update that its site has not signed counts, where the coordinator signs. Only while
    /// there are agents from before updates were signed.
    #[serde(default)]
    pub unsigned_updates: UnsignedUpdates,
    /// The authority that it issues certificates with; without one, sites cannot join by a token and
    /// nobody's certificate is renewed.
    #[serde(default)]
    pub issuing: Option<Issuing>,
    /// What takes two persons.
    #[serde(default)]
    pub two_persons: TwoPersons,
}

/// What becomes of an update that its site has not signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnsignedUpdates {
    /// It is refused.
    #[default]
    Refuse,
    /// It counts.
    Accept,
}

/// The authority that the coordinator issues certificates with, as `fedctl ca init` makes it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuing {
    /// PEM: its certificate.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
    /// How long a certificate lasts, in seconds; it is renewed when two thirds of that are over.
    #[serde(default = "leaf_s")]
    pub leaf_s: u32,
    /// How long an operator's lasts, in seconds. It is renewed by the next command after a third of that, so
    /// that whoever comes back after less than the other two thirds can still work.
    #[serde(default = "leaf_s")]
    pub operator_s: u32,
}

/// What is deleted once it is old. Models stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Of how many committed rounds the sites' updates are kept, at least 1; of all if not given.
    /// Rounds whose updates are gone cannot be computed again.
    #[serde(default)]
    pub updates_rounds: Option<u32>,
}

/// What the log on stderr looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line, for programs.
    Json,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file does not open or read.
    #[error("cannot read the config {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is too long to be a configuration.
    #[error("the config {} is longer than the {CONFIG_BYTES_MAX} bytes a config may have", path.display())]
    TooLong {
        /// Which file.
        path: PathBuf,
    },
    /// The text is not a configuration.
    #[error("the config {} does not parse at line {line}: {reason}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where in it, from 1 on.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A value cannot be used.
    #[error("the config {}: {field} is {value}, it must be {must}", path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// The field as written in the file.
        field: &'static str,
        /// What it is.
        value: String,
        /// What it must be.
        must: &'static str,
    },
}

fn status_listen() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 9090).into()
}

fn leaf_s() -> u32 {
    7 * 86_400
}

fn heartbeat_ms() -> u32 {
    5_000
}

impl Config {
    /// Reads the configuration at `path`.
    ///
    /// # Errors
    /// If the file does not read, does not parse, or a value cannot be used.
    pub fn read(path: &Path) -> Result<Config, Error> {
        let fail = |source| Error::Read { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(fail)?;
        file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.len() as u64 > CONFIG_BYTES_MAX {
            return Err(Error::TooLong { path: path.to_owned() });
        }
        let text = String::from_utf8(bytes)
            .map_err(|e| fail(std::io::Error::new(std::io::ErrorKind::InvalidData, e)))?;
        Config::parse(&text, path)
    }

    /// The configuration in `text`, which was read from `path`.
    ///
    /// # Errors
    /// If the text does not parse or a value cannot be used.
    pub fn parse(text: &str, path: &Path) -> Result<Config, Error> {
        let config: Config = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count();
            let reason = error.message().lines().collect::<Vec<_>>().join(" ");
            Error::Parse { path: path.to_owned(), line, reason }
        })?;
        config.checked(path)
    }

    /// Where the database is.
    pub fn database(&self) -> String {
        match &self.database {
            Some(url) => url.clone(),
            None => sqlite(&self.data.join("coordinator.db")),
        }
    }

    /// How soon a site is to ask again.
    pub fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms.into())
    }

    fn checked(mut self, path: &Path) -> Result<Config, Error> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let value =
            |field, value, must| Err(Error::Value { path: path.to_owned(), field, value, must });
        if !HEARTBEAT_MS.contains(&self.heartbeat_ms) {
            let must = "from 50 to 600000";
            return value("heartbeat_ms", self.heartbeat_ms.to_string(), must);
        }
        if self.retention.updates_rounds == Some(0) {
            return value("retention.updates_rounds", "0".to_owned(), "at least 1");
        }
        self.data = folder.join(&self.data);
        self.tls = self.tls.relative_to(folder);
        self.signing = self.signing.map(|files| files.relative_to(folder));
        if let Some(issuing) = &mut self.issuing {
            issuing.certificate = folder.join(&issuing.certificate);
            issuing.key = folder.join(&issuing.key);
            let lives =
                [("issuing.leaf_s", issuing.leaf_s), ("issuing.operator_s", issuing.operator_s)];
            if let Some((field, found)) = lives.into_iter().find(|(_, s)| !LEAF_S.contains(s)) {
                return value(field, found.to_string(), "from 30 to 7776000");
            }
        }
        if self.data.to_str().is_none() {
            return value("data", self.data.display().to_string(), "a path in UTF-8");
        }
        if let Some(url) = &self.database {
            let file = url.strip_prefix("sqlite:").filter(|file| !file.is_empty());
            match file {
                Some(file) => self.database = Some(sqlite(&folder.join(file))),
                None if url.starts_with("postgres://") || url.starts_with("postgresql://") => {}
                // The text may hold a password, so it is not repeated.
                None => {
                    let found = "something else".to_owned();
                    return value("database", found, "`sqlite:FILE` or `postgres://...`");
                }
            }
        }
        Ok(self)
    }
}

/// The URL of an SQLite file. Only what would end the path of a URL is escaped.
pub(crate) fn sqlite(file: &Path) -> String {
    let path = file.to_string_lossy().replace('%', "%25").replace('?', "%3F").replace('#', "%23");
    format!("sqlite:{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: &str = r#"
        federation = "brain"
        listen = "127.0.0.1:0"
        data = "state"
        [tls]
        ca = "ca.pem"
        certificate = "/etc/own.pem"
        key = "own.key"
    "#;

    fn parse(text: &str) -> Result<Config, Error> {
        Config::parse(text, Path::new("/srv/fed/coordinator.toml"))
    }

    #[test]
    fn the_sample_in_deploy_parses() {
        let text = include_str!("../../deploy/coordinator.toml");
        let config = parse(text).unwrap();
        assert_eq!(config.status_listen, status_listen());
        assert_eq!(config.heartbeat_ms, heartbeat_ms());
        let signing = config.signing.unwrap();
        assert_eq!(signing.key, Path::new("/srv/fed/pki/coordinator.signing.key"));
    }

    #[test]
    fn relative_paths_are_taken_from_the_folder_of_the_file() {
        let config = parse(SHORT).unwrap();
        assert_eq!(config.data, Path::new("/srv/fed/state"));
        assert_eq!(config.database(), "sqlite:/srv/fed/state/coordinator.db");
        assert_eq!(config.tls.ca, Path::new("/srv/fed/ca.pem"));
        assert_eq!(config.tls.certificate, Path::new("/etc/own.pem"));
        let named = parse(&format!("database = \"sqlite:a b?.db\"\n{SHORT}")).unwrap();
        assert_eq!(named.database(), "sqlite:/srv/fed/a b%3F.db");
        let postgres = "postgres://fed@db/fed";
        let other = parse(&format!("database = \"{postgres}\"\n{SHORT}")).unwrap();
        assert_eq!(other.database(), postgres);
    }

    #[test]
    fn certificates_last_seven_days_where_nobody_says_otherwise() {
        let files = "[issuing]\ncertificate = \"issuing.pem\"\nkey = \"issuing.key\"\n";
        let issuing = parse(&format!("{SHORT}\n{files}")).unwrap().issuing.unwrap();
        assert_eq!((issuing.leaf_s, issuing.operator_s), (604_800, 604_800));
        let other = format!("{SHORT}\n{files}leaf_s = 60\noperator_s = 90\n");
        let issuing = parse(&other).unwrap().issuing.unwrap();
        assert_eq!((issuing.leaf_s, issuing.operator_s), (60, 90));
    }

    #[test]
    fn a_wrong_value_is_refused_by_its_name_in_one_line() {
        for (line, names) in [
            ("heartbeat = 5", "heartbeat"),
            ("heartbeat_ms = 1", "heartbeat_ms"),
            ("database = \"mysql://root:secret@db\"", "database"),
            ("log = \"xml\"", "xml"),
            ("status_listen = \"nowhere\"", "line 1"),
            ("federation = \"Brain\"", "duplicate"),
            ("retention = { updates_rounds = 0 }", "retention.updates_rounds"),
            ("retention = { models = 1 }", "models"),
            ("issuing = { certificate = \"a\", key = \"b\", leaf_s = 5 }", "issuing.leaf_s"),
            (
                "issuing = { certificate = \"a\", key = \"b\", operator_s = 9 }",
                "issuing.operator_s",
            ),
            ("two_persons = { lunch = true }", "lunch"),
        ] {
            let error = parse(&format!("{line}\n{SHORT}")).unwrap_err().to_string();
            assert!(error.contains(names), "{error}");
            assert!(!error.contains('\n') && !error.contains("secret"), "{error}");
        }
        let bad_name = SHORT.replace("\"brain\"", "\"Brain\"");
        assert!(parse(&bad_name).unwrap_err().to_string().contains("federation name"));
        assert!(parse("").unwrap_err().to_string().contains("federation"));
    }
}
