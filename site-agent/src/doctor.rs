//! Whether this site is ready to take part: every check is one line that says what to do.
//!
//! It asks the coordinator nothing that changes anything, and it never opens a scan: device and data
//! are the trainer's to look at.

use std::path::{Path, PathBuf};

use fedpaint_proto::channel;
use fedpaint_proto::congestion;
use fedpaint_proto::identity::Validity;
use fedpaint_proto::names::RunName;
use fedpaint_proto::reason::Reason;
use fedpaint_proto::tls;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::net::TcpSocket;
use tonic::Status;

use crate::client;
use crate::config::{Config, Site};
use crate::pipe::Failure;
use crate::supervisor::{Error as TrainerError, Hello, Supervisor};

/// A clock that is off by more than this should be set.
const SKEW_WARN: SignedDuration = SignedDuration::from_secs(60);

/// A clock that is off by more than this makes new certificates look invalid.
const SKEW_FAIL: SignedDuration = SignedDuration::from_mins(5);

/// Less free disk than this is little.
const DISK_WARN_BYTES: u64 = 8 << 30;

/// Less free disk than this does not hold a model, its update and a transfer.
const DISK_FAIL_BYTES: u64 = 1 << 30;

/// A root that ends sooner than this is told, as `fedctl status` does: everybody has to take the next one.
const ROOT_WARN: SignedDuration = SignedDuration::from_hours(30 * 24);

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Fine.
    Ok,
    /// It works, but look at it.
    Warn,
    /// The agent cannot work like this.
    Fail,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it went.
    pub verdict: Verdict,
    /// What was found, and what to do about it.
    pub detail: String,
}

fn check(name: &'static str, verdict: Verdict, detail: impl Into<String>) -> Check {
    Check { name, verdict, detail: detail.into().replace('\n', " ") }
}

/// All checks, in order. `program` is this program, to start a trainer with.
pub async fn examine(config: &Config, now: Timestamp, program: PathBuf) -> Vec<Check> {
    let mut checks = Vec::new();
    let site = config.site();
    checks.push(certificate(config, &site, now));
    checks.extend(signing(config, now));
    checks.extend(roots(config, now));
    match site {
        Ok(site) => checks.extend(coordinator(config, &site, now).await),
        Err(_) => {
            checks.push(check("coordinator", Verdict::Warn, "not tried without a certificate"))
        }
    }
    checks.push(check("cryptography", Verdict::Ok, tls::cryptography()));
    checks.push(sending());
    checks.extend(trainer(config, program.clone()).await);
    checks.push(devices(program).await);
    checks.push(disk(&config.workspace));
    checks
}

fn certificate<E: std::fmt::Display>(
    config: &Config,
    site: &Result<Site, E>,
    now: Timestamp,
) -> Check {
    const NAME: &str = "certificate";
    let site = match site {
        Ok(site) => site,
        Err(error) => return check(NAME, Verdict::Fail, error.to_string()),
    };
    if let Err(error) = config.valid_site(now) {
        return check(NAME, Verdict::Fail, error.to_string());
    }
    let left = site.validity.not_after.duration_since(now);
    let hours = left.as_hours();
    let who =
        format!("site {} of federation {}, valid for {hours} hours", site.name, site.federation);
    let todo = "its renewal is due: `run` does it, if the coordinator issues certificates; else ask for \
                another one";
    match site.validity.renewal() <= now {
        true => check(NAME, Verdict::Warn, format!("{who}: {todo}")),
        false => check(NAME, Verdict::Ok, who),
    }
}

/// When the certificate for signing ends, where this site signs.
fn signing(config: &Config, now: Timestamp) -> Option<Check> {
    let files = config.signing.as_ref()?;
    let validity = validities("signing certificate", &files.certificate)?.into_iter().next()?;
    let todo = "its renewal is due: `run` does it with the other certificate's, if the coordinator issues \
                certificates; else ask for another one";
    Some(ending(
        "signing",
        ("the certificate for signing", todo),
        validity,
        validity.renewal(),
        now,
    ))
}

/// When the federation's root ends; of two that hold the one that ends first.
fn roots(config: &Config, now: Timestamp) -> Option<Check> {
    let roots = validities("root certificate", &config.tls.ca)?;
    let (held, ended): (Vec<_>, Vec<_>) = roots.into_iter().partition(|root| now < root.not_after);
    let end = |root: &Validity| root.not_after;
    let first = held.into_iter().min_by_key(end).or(ended.into_iter().max_by_key(end))?;
    let soon = first.not_after.checked_sub(ROOT_WARN).unwrap_or(Timestamp::MIN);
    let todo = "ask the operator for the next root: `tls.ca` holds both while it takes over, and then it alone";
    Some(ending("roots", ("the federation's root", todo), first, soon, now))
}

/// When the certificates of a file hold; none where one does not read, which `certificate` tells.
fn validities(what: &'static str, path: &Path) -> Option<Vec<Validity>> {
    let found = tls::certificates(what, path).ok()?;
    found.iter().map(|one| Validity::of_certificate(one).ok()).collect()
}

/// One certificate's end, with what to do from `soon` on.
fn ending(
    name: &'static str,
    (what, todo): (&str, &str),
    validity: Validity,
    soon: Timestamp,
    now: Timestamp,
) -> Check {
    let end = validity.not_after;
    let hours = end.duration_since(now).as_hours();
    if end <= now {
        return check(name, Verdict::Fail, format!("{what} has ended on {end}: {todo}"));
    }
    match soon <= now {
        true => check(name, Verdict::Warn, format!("{what}, valid for {hours} hours: {todo}")),
        false => check(name, Verdict::Ok, format!("{what}, valid for {hours} hours")),
    }
}

/// Whether the coordinator is there, knows this site, and has the same time.
async fn coordinator(config: &Config, site: &Site, now: Timestamp) -> [Check; 2] {
    const NAME: &str = "coordinator";
    let no_clock = || check("clock", Verdict::Warn, "not compared, the coordinator did not answer");
    let route = match config.route(|name| std::env::var(name).ok()) {
        Ok(route) => route,
        Err(error) => return [check(NAME, Verdict::Fail, error.to_string()), no_clock()],
    };
    let connected = match config.tls.client() {
        Ok(tls) => channel::connect_by(&route, &config.coordinator, &site.federation, tls).await,
        Err(error) => return [check(NAME, Verdict::Fail, error.to_string()), no_clock()],
    };
    let connected = match connected {
        Ok(connected) => connected,
        Err(error) => return [check(NAME, Verdict::Fail, error.to_string()), no_clock()],
    };
    // A question about a run that nobody has: it changes nothing, and its answer tells all.
    #[expect(clippy::expect_used, reason = "a constant that is a name")]
    let nobodys: RunName = "doctor-asks".parse().expect("a constant that is a name");
    let status = match client::run_plan(&connected, &nobodys).await {
        Ok(_) => Status::not_found(""),
        Err(status) => status,
    };
    let address = &config.coordinator;
    let found = match Reason::of(&status) {
        Some(Reason::NotEnrolled) => {
            let todo = format!("ask the operator to run `fedctl site enroll {}`", site.name);
            check(NAME, Verdict::Fail, format!("{address} does not know this site: {todo}"))
        }
        Some(Reason::Revoked | Reason::WrongRole | Reason::NoIdentity) => {
            check(NAME, Verdict::Fail, format!("{address} refuses: {}", status.message()))
        }
        Some(_) => check(NAME, Verdict::Ok, format!("{address} answers and knows this site")),
        None if status.code() == tonic::Code::NotFound => {
            check(NAME, Verdict::Ok, format!("{address} answers"))
        }
        None => {
            let why = channel::told(&status);
            let todo = "look at the coordinator's log, it says whom it refused";
            check(NAME, Verdict::Fail, format!("{address} does not answer: {why}: {todo}"))
        }
    };
    let date = status.metadata().get("date").and_then(|date| date.to_str().ok());
    [found, date.map_or_else(no_clock, |date| clock(date, now))]
}

/// Compares the time now with the `Date` of the coordinator's answer.
fn clock(date: &str, now: Timestamp) -> Check {
    let Ok(theirs) = jiff::fmt::rfc2822::parse(date) else {
        return check("clock", Verdict::Warn, "the coordinator's time does not parse");
    };
    let skew = now.duration_since(theirs.timestamp()).abs();
    let seconds = skew.as_secs();
    let verdict = match skew {
        skew if skew > SKEW_FAIL => Verdict::Fail,
        skew if skew > SKEW_WARN => Verdict::Warn,
        _ => {
            return check(
                "clock",
                Verdict::Ok,
                format!("within {} s of the coordinator's", seconds.max(1)),
            );
        }
    };
    let detail =
        format!("{seconds} s away from the coordinator's: synchronise it, for example with NTP");
    check("clock", verdict, detail)
}

async fn trainer(config: &Config, program: PathBuf) -> [Check; 2] {
    let not_tried =
        |name| check(name, Verdict::Warn, "not looked at, the trainer did not get that far");
    if let Err(error) = std::fs::create_dir_all(&config.workspace) {
        let detail = format!("the workspace {}: {error}", config.workspace.display());
        return [check("device", Verdict::Fail, detail), not_tried("data")];
    }
    let mut supervisor = Supervisor::new(program, config.setup());
    let started = supervisor.start().await;
    supervisor.stop().await;
    match started {
        Ok(Hello { device, cohort }) => {
            let found = format!(
                "{} cases of {} patients, {} of them held out, {} scans to train on",
                cohort.cases, cohort.patients, cohort.patients_held_out, cohort.scans_training
            );
            [check("device", Verdict::Ok, device), check("data", Verdict::Ok, found)]
        }
        Err(TrainerError::Failed { failure: Failure::NoData, detail }) => {
            // The trainer opens its device first.
            let device = check("device", Verdict::Ok, config.trainer.device.clone());
            [device, check("data", Verdict::Fail, detail)]
        }
        Err(error) => [check("device", Verdict::Fail, error.to_string()), not_tried("data")],
    }
}

/// By what connections send: the line may lose packets.
fn sending() -> Check {
    const NAME: &str = "sending";
    let todo = "has a line that loses packets be used in part alone: have the system offer BBR (`modprobe tcp_bbr`, \
                and `bbr` in net.ipv4.tcp_allowed_congestion_control), at the coordinator too";
    let by = TcpSocket::new_v4().ok().and_then(|socket| congestion::ask(&socket));
    let detail = match by.as_deref() {
        Some(congestion::WANTED) => "by BBR, as much as arrives".to_owned(),
        Some(other) => format!("by `{other}`, which {todo}"),
        None => "by what this system chooses".to_owned(),
    };
    check(NAME, Verdict::Ok, detail)
}

/// Asks a process of its own, because looking at a GPU opens it.
async fn devices(program: PathBuf) -> Check {
    const NAME: &str = "devices";
    match tokio::process::Command::new(program).arg("devices").output().await {
        Ok(output) if output.status.success() => {
            let lines = String::from_utf8_lossy(&output.stdout).into_owned();
            let each = lines.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let each: Vec<String> = each.map(|words| words.join(" ")).collect();
            check(NAME, Verdict::Ok, each.join("; "))
        }
        Ok(output) => check(NAME, Verdict::Warn, format!("cannot be listed: {}", output.status)),
        Err(error) => check(NAME, Verdict::Warn, format!("cannot be listed: {error}")),
    }
}

fn disk(workspace: &Path) -> Check {
    const NAME: &str = "disk";
    let path = workspace.display();
    match rustix::fs::statvfs(workspace) {
        Err(error) => check(NAME, Verdict::Fail, format!("the workspace {path}: {error}")),
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let detail = format!("{} MiB free for the workspace {path}", free >> 20);
            let verdict = match free {
                free if free < DISK_FAIL_BYTES => Verdict::Fail,
                free if free < DISK_WARN_BYTES => Verdict::Warn,
                _ => return check(NAME, Verdict::Ok, detail),
            };
            check(NAME, verdict, format!("{detail}: make room"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_when_it_is_near_and_fails_when_it_has_come() {
        let day = |day: i64| Timestamp::from_second(86_400 * day).unwrap();
        let root = Validity { not_before: day(0), not_after: day(100) };
        let judged = |today| ending("roots", ("the root", "ask"), root, day(70), day(today));
        assert_eq!(judged(69).verdict, Verdict::Ok);
        assert_eq!((judged(70).verdict, judged(99).verdict), (Verdict::Warn, Verdict::Warn));
        assert_eq!(judged(100).verdict, Verdict::Fail);
        assert_eq!(judged(99).detail, "the root, valid for 24 hours: ask");
    }

    /// A certificate that holds in 2026 from new year to that day, PEM.
    fn certificate_until((month, day): (u8, u8)) -> String {
        let mut params = rcgen::CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, month, day);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn the_ends_are_those_of_the_signing_certificate_and_of_the_root_that_ends_first() {
        let folder = tempfile::tempdir().unwrap();
        let text = "coordinator = \"https://fed.example.org:8443\"\nworkspace = \"work\"\n\
            [tls]\nca = \"ca.pem\"\ncertificate = \"mayo.pem\"\nkey = \"mayo.key\"\n\
            [signing]\ncertificate = \"signing.pem\"\nkey = \"signing.key\"\n\
            [data]\npath = \"scans\"\n";
        let config = Config::parse(text, &folder.path().join("site-agent.toml")).unwrap();
        let roots_pem = [(12, 1), (3, 2)].map(certificate_until).concat();
        std::fs::write(&config.tls.ca, roots_pem).unwrap();
        let files = config.signing.as_ref().unwrap();
        std::fs::write(&files.certificate, certificate_until((1, 31))).unwrap();
        for (day, of_signing, of_roots) in [
            ("01-20", Verdict::Ok, Verdict::Ok),
            // Two thirds of the life of the one for signing are over.
            ("01-21", Verdict::Warn, Verdict::Ok),
            // Its end, and thirty days before that of the first root.
            ("01-31", Verdict::Fail, Verdict::Warn),
            // The other root holds alone, until it ends too.
            ("03-02", Verdict::Fail, Verdict::Ok),
            ("11-01", Verdict::Fail, Verdict::Warn),
            ("12-01", Verdict::Fail, Verdict::Fail),
        ] {
            let now = format!("2026-{day}T00:00:00Z").parse().unwrap();
            let found = [signing(&config, now), roots(&config, now)].map(Option::unwrap);
            assert_eq!(found.each_ref().map(|check| check.name), ["signing", "roots"]);
            assert_eq!(found.map(|check| check.verdict), [of_signing, of_roots], "{day}");
        }
    }

    #[test]
    fn a_clock_is_judged_by_its_distance_from_the_coordinators() {
        let date = "Mon, 23 Nov 2026 12:00:00 GMT";
        let verdict = |now: &str| clock(date, now.parse().unwrap()).verdict;
        assert_eq!(verdict("2026-11-23T12:00:30Z"), Verdict::Ok);
        assert_eq!(verdict("2026-11-23T11:58:00Z"), Verdict::Warn);
        assert_eq!(verdict("2026-11-23T12:30:00Z"), Verdict::Fail);
        assert_eq!(clock("yesterday", Timestamp::UNIX_EPOCH).verdict, Verdict::Warn);
    }
}
