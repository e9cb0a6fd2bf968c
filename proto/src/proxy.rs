//! The way out of a hospital: a tunnel through an HTTP proxy (CONNECT, RFC 9110 section 9.3.6).
//!
//! TLS runs inside the tunnel, from end to end, and the proxy resolves the coordinator's name. Nothing
//! here ever shows a proxy's password.

use std::fmt;
use std::io;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::channel::Address;

/// The longest answer to CONNECT that is read.
const ANSWER_BYTES_MAX: usize = 8 << 10;

/// The longest status line that is repeated to people.
const STATUS_CHARS_MAX: usize = 200;

/// Variables that name a proxy for `https`, as other programs know them.
const VARIABLES: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];

/// Variables that list what is reached without one.
const EXCEPTIONS: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// An HTTP proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// A DNS name or an IP address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// `user:password`, as it travels.
    credentials: Option<String>,
}

/// The text is not a proxy's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a proxy is written `http://host:port` or `http://user:password@host:port`, `@` as `%40`")]
pub struct NotAProxy;

/// A variable of the environment does not name a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable} in the environment: {NotAProxy}")]
pub struct BadVariable {
    variable: &'static str,
}

/// What a proxy says where it does not connect.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the proxy {proxy} refuses to connect: {status}{hint}")]
    Status { proxy: Proxy, status: String, hint: &'static str },
    #[error("{proxy} does not answer as an HTTP proxy does")]
    NotHttp { proxy: Proxy },
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", authority(&self.host, self.port))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

impl FromStr for Proxy {
    type Err = NotAProxy;
    fn from_str(text: &str) -> Result<Proxy, NotAProxy> {
        let text = text.strip_prefix("http://").unwrap_or(text);
        let text = text.strip_suffix('/').unwrap_or(text);
        let (user, place) = match text.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, text),
        };
        let (host, port) = place.rsplit_once(':').ok_or(NotAProxy)?;
        let port = port.parse().map_err(|_| NotAProxy)?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let strange = |c: char| c.is_whitespace() || c.is_control() || "/@[]?#".contains(c);
        let colons = bare.contains(':') && !host.starts_with('[');
        if bare.is_empty() || bare.contains(strange) || colons || port == 0 {
            return Err(NotAProxy);
        }
        let credentials = user.map(decoded).transpose()?;
        let credentials = credentials.map(|bytes| BASE64_STANDARD.encode(bytes));
        Ok(Proxy { host: bare.to_owned(), port, credentials })
    }
}

/// The proxy by which the environment has `address` reached, if it names one. `variable` looks a
/// variable up.
///
/// # Errors
/// If a variable is set to what is not a proxy.
pub fn of_environment(
    address: &Address,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Proxy>, BadVariable> {
    let set = |name: &&str| variable(name).filter(|value| !value.trim().is_empty());
    let Some((name, value)) = VARIABLES.iter().find_map(|name| Some((*name, set(name)?))) else {
        return Ok(None);
    };
    let exceptions = EXCEPTIONS.iter().find_map(set).unwrap_or_default();
    if exceptions.split(',').any(|exception| excepts(exception.trim(), address)) {
        return Ok(None);
    }
    value.trim().parse().map(Some).map_err(|NotAProxy| BadVariable { variable: name })
}

/// Whether an entry of NO_PROXY is about `address`: `*`, a host, or the end of one, with or without a
/// port. Ranges of addresses are not known.
fn excepts(exception: &str, Address { host, port }: &Address) -> bool {
    let of_port = format!(":{port}");
    let exception = exception.strip_suffix(&of_port).unwrap_or(exception);
    let exception = exception.trim_start_matches('[').trim_end_matches(']');
    let exception = exception.trim_start_matches('.').to_lowercase();
    let host = host.to_lowercase();
    let parent = host.strip_suffix(&exception).is_some_and(|rest| rest.ends_with('.'));
    !exception.is_empty() && (exception == "*" || exception == host || parent)
}

/// Asks the proxy at the other end of `stream` for a tunnel to `address`. After it, the stream is the
/// tunnel.
///
/// # Errors
/// If the stream breaks, or the proxy refuses: then the error says its status line.
pub async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    proxy: &Proxy,
    Address { host, port }: &Address,
) -> io::Result<()> {
    let target = authority(host, *port);
    let credentials = proxy.credentials.as_ref();
    let credentials = credentials
        .map_or(String::new(), |basic| format!("Proxy-Authorization: Basic {basic}\r\n"));
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{credentials}\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    // Byte for byte, because what follows the head is the tunnel's.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == ANSWER_BYTES_MAX {
            return Err(io::Error::other(Refusal::NotHttp { proxy: proxy.clone() }));
        }
        answer.push(stream.read_u8().await?);
    }
    judge(&answer, proxy).map_err(io::Error::other)
}

fn judge(answer: &[u8], proxy: &Proxy) -> Result<(), Refusal> {
    let line = answer.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let line: String = String::from_utf8_lossy(line)
        .chars()
        .filter(|c| !c.is_control())
        .take(STATUS_CHARS_MAX)
        .collect();
    let status = match line.split_once(' ') {
        Some((version, status)) if version.starts_with("HTTP/1.") => status.trim().to_owned(),
        _ => return Err(Refusal::NotHttp { proxy: proxy.clone() }),
    };
    if status.starts_with('2') {
        return Ok(());
    }
    let hint = match status.starts_with("407") {
        true => ": write the proxy as `http://user:password@host:port`",
        false => "",
    };
    Err(Refusal::Status { proxy: proxy.clone(), status, hint })
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Bytes of a text in which `%40` is `@`.
fn decoded(text: &str) -> Result<Vec<u8>, NotAProxy> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        rest = more;
        if *first == b'%' {
            let (digits, more) = rest.split_at_checked(2).ok_or(NotAProxy)?;
            let digits = str::from_utf8(digits).map_err(|_| NotAProxy)?;
            bytes.push(u8::from_str_radix(digits, 16).map_err(|_| NotAProxy)?);
            rest = more;
        } else {
            bytes.push(*first);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
