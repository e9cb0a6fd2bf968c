//! From settings to a coordinator: flags and variables first, then the file.
//!
//! The federation is that of the operator's own certificate, so that it is never written twice.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use fedpaint_proto::channel::{self, Address, Route};
use fedpaint_proto::credential;
use fedpaint_proto::given_up;
use fedpaint_proto::identity::{Identity, Role, Validity};
use fedpaint_proto::limits::{CALL_TIMEOUT, MESSAGE_BYTES_MAX};
use fedpaint_proto::names::FederationName;
use fedpaint_proto::proxy;
use fedpaint_proto::tls::TlsFiles;
use fedpaint_proto::v1::admin_service_client::AdminServiceClient;
use jiff::Timestamp;
use serde::Deserialize;
use tonic::Request;
use tonic::transport::Channel;

use crate::cli::Connection;
use crate::problem::Usage;
use crate::renewal;

/// The longest settings file.
const CONFIG_BYTES_MAX: u64 = 64 << 10;

/// A connection to the coordinator.
pub(crate) struct Session {
    /// Whose coordinator it is.
    pub(crate) federation: FederationName,
    /// For blobs.
    pub(crate) channel: Channel,
    /// For everything else.
    pub(crate) admin: AdminServiceClient<Channel>,
}

/// What the settings file may hold. Paths are taken from the file's own folder.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    coordinator: Option<String>,
    proxy: Option<String>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

/// Settings that are complete.
#[derive(Debug, PartialEq)]
struct Settings {
    address: Address,
    proxy: Option<proxy::Proxy>,
    tls: TlsFiles,
}

/// A channel to the coordinator, and the certificate that it was made with.
pub(crate) struct Line {
    /// To the coordinator.
    pub(crate) channel: Channel,
    /// Where the certificate lies.
    pub(crate) tls: TlsFiles,
    /// Whose it is.
    pub(crate) identity: Identity,
    /// When it is valid.
    pub(crate) validity: Validity,
}

/// Connects as the settings say, and has the operator's certificate renewed where that is due.
pub(crate) async fn connect(given: &Connection, now: Timestamp) -> anyhow::Result<Session> {
    let line = open(given, now).await?;
    renewal::when_due(&line, now).await;
    let (channel, federation) = (line.channel, line.identity.federation);
    let admin =
        AdminServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    Ok(Session { federation, channel, admin })
}

/// Connects as the settings say.
pub(crate) async fn open(given: &Connection, now: Timestamp) -> anyhow::Result<Line> {
    let file = read(given.config.as_deref(), default_config())?;
    let Settings { address, proxy, tls } = settle(given, file)?;
    let (identity, validity, client) = {
        // Another command may be renewing it just now. Files that are there to be read alone are nobody's
        // to replace.
        let held = credential::hold(&tls).ok();
        if let Some(Err(error)) = held.as_ref().map(credential::Held::settle) {
            bail!("cannot finish the renewal of {}: {error}", tls.certificate.display());
        }
        let (identity, validity) = operator_of(&tls, now)?;
        (identity, validity, tls.client()?)
    };
    let proxy = match proxy {
        Some(proxy) => Some(proxy),
        None => proxy::of_environment(&address, |name| std::env::var(name).ok())?,
    };
    let route = Route { proxy, ..Route::default() };
    let connected = channel::connect_by(&route, &address, &identity.federation, client).await;
    let channel = connected.map_err(|e| {
        anyhow::anyhow!("{e}; is it running, and are address and certificate right?")
    })?;
    Ok(Line { channel, tls, identity, validity })
}

/// A request with the time that a call may take, and when it will have been given up.
pub(crate) fn ask<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    given_up::mark(&mut request, crate::now());
    request
}

/// Where the settings are if nobody says otherwise.
fn default_config() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let folder = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(folder.join("fedpaint").join("fedctl.toml"))
}

/// Reads the settings file. One that was named must be there, the default one need not.
fn read(named: Option<&Path>, default: Option<PathBuf>) -> anyhow::Result<File> {
    let Some(path) = named.map(Path::to_owned).or(default) else { return Ok(File::default()) };
    let text = match std::fs::metadata(&path) {
        Ok(metadata) if metadata.len() > CONFIG_BYTES_MAX => {
            bail!("{} is too long to be a settings file", path.display())
        }
        Ok(_) => std::fs::read_to_string(&path),
        Err(error) => Err(error),
    };
    let text = match text {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
            return Ok(File::default());
        }
        Err(e) => bail!("cannot read the settings file {}: {e}", path.display()),
    };
    let file: File = toml::from_str(&text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count();
        anyhow::anyhow!("{} line {line}: {}", path.display(), error.message())
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let from_folder = |path: Option<PathBuf>| path.map(|path| folder.join(path));
    Ok(File {
        coordinator: file.coordinator,
        proxy: file.proxy,
        ca: from_folder(file.ca),
        cert: from_folder(file.cert),
        key: from_folder(file.key),
    })
}

/// What was given, completed by the file.
fn settle(given: &Connection, file: File) -> anyhow::Result<Settings> {
    let missing = |name: &str| {
        let variable = format!("FEDCTL_{}", name.to_uppercase());
        Usage(format!(
            "{name} is not set: give --{name}, set {variable}, or put it into the settings file"
        ))
    };
    let path = |given: &Option<PathBuf>, file: Option<PathBuf>, name| {
        given.clone().or(file).ok_or_else(|| missing(name))
    };
    let address = given.coordinator.clone().or(file.coordinator);
    let address = address.ok_or_else(|| missing("coordinator"))?;
    let proxy = given.proxy.clone().or(file.proxy);
    Ok(Settings {
        address: address.parse().map_err(|e: channel::Error| Usage(e.to_string()))?,
        proxy: proxy
            .map(|proxy| proxy.parse().map_err(|e: proxy::NotAProxy| Usage(e.to_string())))
            .transpose()?,
        tls: TlsFiles {
            ca: path(&given.ca, file.ca, "ca")?,
            certificate: path(&given.cert, file.cert, "cert")?,
            key: path(&given.key, file.key, "key")?,
        },
    })
}

/// Who the operator is by the certificate, and when that is valid, if it can be used now.
fn operator_of(tls: &TlsFiles, now: Timestamp) -> anyhow::Result<(Identity, Validity)> {
    let der = tls.own_certificate()?;
    let path = tls.certificate.display();
    let identity = Identity::from_certificate(&der).with_context(|| path.to_string())?;
    let Role::Operator(_) = identity.role else {
        bail!("{path} is the certificate of {}, fedctl needs an operator's", identity.role)
    };
    let validity = Validity::of_certificate(&der).with_context(|| path.to_string())?;
    let Validity { not_before: from, not_after: until } = validity;
    if until < now {
        bail!("{path} expired on {until}; ask for another one (`fedctl ca issue operator`)")
    }
    if from > now {
        bail!("{path} holds only from {from} on; is this machine's clock right?")
    }
    Ok((identity, validity))
}

#[cfg(test)]
mod tests {
    use fedpaint_coordinator::ca;

    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_795_000_000, 0);

    #[test]
    fn what_is_given_goes_before_the_file_and_the_files_paths_are_its_folders() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fedctl.toml");
        let text =
            "coordinator = \"https://file:1\"\nca = \"ca.pem\"\ncert = \"/x.pem\"\nkey = \"k\"";
        std::fs::write(&path, text).unwrap();
        let file = read(Some(&path), None).unwrap();
        let given =
            Connection { coordinator: Some("https://flag:2".into()), ..Connection::default() };
        let Settings { address, tls, .. } = settle(&given, file).unwrap();
        assert_eq!(address.to_string(), "https://flag:2");
        assert_eq!(tls.ca, folder.path().join("ca.pem"));
        assert_eq!(tls.certificate, Path::new("/x.pem"));
    }

    #[test]
    fn a_settings_file_that_is_wrong_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fedctl.toml");
        std::fs::write(&path, "ca = \"ca.pem\"\ncertificate = \"x\"").unwrap();
        let error = read(Some(&path), None).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("certificate"), "{error}");
        let absent = folder.path().join("absent.toml");
        assert!(read(Some(&absent), None).is_err());
        assert_eq!(read(None, Some(absent)).unwrap(), File::default());
    }

    #[test]
    fn a_missing_setting_is_asked_for_by_its_three_names() {
        let error = settle(&Connection::default(), File::default()).unwrap_err();
        assert!(error.is::<Usage>());
        let text = error.to_string();
        assert!(text.contains("--coordinator") && text.contains("FEDCTL_COORDINATOR"), "{text}");
    }

    #[test]
    fn only_an_operators_certificate_that_holds_now_will_do() {
        let folder = tempfile::tempdir().unwrap();
        let validity = ca::Validity::days(NOW, 10).unwrap();
        let root = ca::create(&"brain".parse().unwrap(), validity).unwrap();
        let tls = |uri: &str| {
            let role = uri.parse::<Identity>().unwrap().role;
            let issued = ca::issue(&root, &role, &[], validity).unwrap();
            let certificate = folder.path().join("own.pem");
            std::fs::write(&certificate, issued.certificate_pem).unwrap();
            TlsFiles { ca: "x".into(), certificate, key: "x".into() }
        };
        let site = operator_of(&tls("spiffe://brain/site/mayo"), NOW).unwrap_err().to_string();
        assert!(site.contains("site/mayo") && site.contains("operator"), "{site}");
        let operator = tls("spiffe://brain/operator/ada");
        assert_eq!(operator_of(&operator, NOW).unwrap().0.federation.as_str(), "brain");
        let at = |days: i64| Timestamp::from_second(NOW.as_second() + days * 86_400).unwrap();
        assert!(operator_of(&operator, at(11)).unwrap_err().to_string().contains("expired"));
        assert!(operator_of(&operator, at(-1)).unwrap_err().to_string().contains("clock"));
    }
}
