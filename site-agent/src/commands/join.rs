//! `join`: from a token to a configured site.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use fedpaint_proto::channel::{Address, Route};
use fedpaint_proto::enrolment::Token;
use fedpaint_proto::proxy::{self, Proxy};

use super::output;
use super::run::runtime;
use crate::config::Config;
use crate::disk::{Places, write_whole};
use crate::join::{self, Files};

/// The configuration's name.
const CONFIG: &str = "site-agent.toml";

const PLACES: Places = Places {
    create: "join.config_create",
    write: "join.config_write",
    sync: "join.config_sync",
    rename: "join.config_rename",
    folder: "join.config_folder",
};

/// Options of `join`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The keys are made here and stay here. The coordinator is known by the root that the token names. Its
operator sees the same six words as this command shows: read them out to each other, by telephone and not
by the mail that the token came with. Repeating the command goes on where it was.

Writes the keys, the certificate, the federation's root, and site-agent.toml if it is not there:
  fedpaint-site-agent run --config site-agent.toml")]
pub struct Args {
    /// The token, as `fedctl site invite` prints it.
    token: String,
    /// The coordinator's address, https://HOST:PORT.
    #[arg(long, value_name = "URL")]
    coordinator: Address,
    /// The HTTP proxy on the way there; by default that of HTTPS_PROXY.
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// The folder to write to.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// The scans, for the configuration.
    #[arg(long, value_name = "DIR", default_value = "scans")]
    data: PathBuf,
    /// What the numbers of segmentations mean, for the configuration.
    #[arg(long, value_name = "SCHEME")]
    label_scheme: Option<String>,
}

/// Joins a federation.
///
/// # Errors
/// If the token does not hold, or a file does not write.
pub fn run(args: &Args) -> Result<ExitCode> {
    let token: Token = args.token.parse()?;
    let proxy = match &args.proxy {
        Some(proxy) => Some(proxy.parse::<Proxy>()?),
        None => proxy::of_environment(&args.coordinator, |name| std::env::var(name).ok())?,
    };
    let route = Route { proxy, ..Route::default() };
    let files = Files::of(&args.out, token.site.as_str());
    let show = |words: &str| {
        // Whoever closed the pipe reads the log.
        let told = format!(
            "site   {}\nwords  {words}\nread them to the operator, who lets you in by\n  \
             fedctl site approve {} {words}",
            token.site, token.site
        );
        let _ = output::print(&told);
    };
    let config = args.out.join(CONFIG);
    // A join that died between the certificate and the configuration has all that it needs of others.
    if config.exists() || !join::has_joined(&token, &files)? {
        runtime()?.block_on(join::join(&token, &args.coordinator, &route, &files, show))?;
    }
    if !config.exists() {
        configure(args, &token, &config)?;
    }
    output::print(&format!("joined; next: fedpaint-site-agent run --config {}", config.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the configuration that a site begins with.
fn configure(args: &Args, token: &Token, path: &Path) -> Result<()> {
    let site = &token.site;
    let data = std::path::absolute(&args.data).context("the data folder")?;
    let text = |value: &str| toml::Value::String(value.to_owned()).to_string();
    let proxy = args.proxy.as_ref().map(|proxy| format!("proxy = {}\n", text(proxy)));
    let scheme = args.label_scheme.as_ref().map(|s| format!("label_scheme = {}\n", text(s)));
    let signing = match args.out.join(format!("{site}.signing.pem")).exists() {
        true => format!(
            "[signing]\ncertificate = \"{site}.signing.pem\"\nkey = \"{site}.signing.key\"\n\n"
        ),
        false => String::new(),
    };
    let config = format!(
        "# Written by `fedpaint-site-agent join`; what else there is says deploy/site-agent.toml.\n\
         coordinator = {}\n{}workspace = \"workspace\"\n\n[tls]\nca = \"ca.pem\"\n\
         certificate = \"{site}.pem\"\nkey = \"{site}.key\"\n\n{signing}[data]\npath = {}\n{}",
        text(&args.coordinator.to_string()),
        proxy.unwrap_or_default(),
        text(&data.display().to_string()),
        scheme.unwrap_or_default(),
    );
    if let Err(error) = Config::parse(&config, path) {
        bail!("the configuration would not do: {error}");
    }
    write_whole(path, &PLACES, |file| file.write_all(config.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
