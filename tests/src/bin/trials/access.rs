//! Every call of the table, made by everybody: who has no certificate, a bad one, or a good one of every
//! role. What is expected follows from the table alone.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use fedpaint_coordinator::roster::OperatorRole;
use fedpaint_coordinator::rules::{Rule, TABLE};
use fedpaint_proto::channel::{self, Address, Route};
use fedpaint_proto::enrolment::Token;
use fedpaint_proto::reason::Reason;
use fedpaint_proto::tls::TlsFiles;
use fedpaint_proto::v1;
use fedpaint_tests::lab::{FEDERATION, Lab, LabOptions};
use fedpaint_tests::outcome::Outcome;
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use rustls::ClientConfig;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::Args;
use crate::forge::{Forge, Leaf};

/// How rustls puts that the other end has sent an alert; the alert's name follows.
const ALERT: &str = "received fatal alert: ";

/// How a channel puts that the coordinator hung up after both handshakes, which is how the door refuses
/// whom the certificate does not name.
const CLOSED: &str = "it closes the connection at once";

/// What the coordinator's log says of those who hear no more than that it hangs up, each of one of them.
const LOGGED: [&str; 4] = [
    "the certificate is of federation elsewhere",
    "the certificate has 0 URIs",
    "the certificate has 2 URIs",
    "the certificate's URI is not",
];

/// How often a channel may find its connection broken until it has to be told why it gets no other.
const BROKEN_MAX: usize = 10;

/// What a caller hears.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Heard {
    /// The coordinator refuses the connection, in TLS, by the alert of this name.
    Alert(String),
    /// The coordinator has shown its certificate and then closes the connection.
    Closed,
    /// The coordinator refuses the call, for this reason.
    Refused(Reason),
    /// The call is let through; what is in it is another matter.
    Admitted,
    /// Nobody answers, the line breaks, or this end fails. Nobody is to hear that.
    Failed(String),
}

/// Somebody who calls.
struct Caller {
    /// In words.
    who: String,
    /// The way in, or what is heard instead of every answer.
    way: Result<Channel, Heard>,
    /// What it is to hear of a rule.
    expected: Box<dyn Fn(&Rule) -> Heard>,
}

/// What all passes over the table came to.
#[derive(Default)]
struct Tally {
    callers: usize,
    calls: u64,
    made: u64,
    refused: u64,
    wrong: u64,
    codes: BTreeSet<String>,
}

/// Runs the mode: so many passes over the table, each by everybody anew at a coordinator of its own.
///
/// # Errors
/// If a program does not start, or somebody who is to be let in is not.
pub(crate) async fn access(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    let passes = args.count.unwrap_or(1);
    ensure!(passes > 0, "--count 0: there is nothing to try");
    let (mut tally, mut outcome) = (Tally::default(), Outcome::default());
    for pass in 1..=passes {
        over_the_table(&work.join(format!("pass-{pass}")), &mut tally, &mut outcome).await?;
    }
    outcome.set("passes", passes);
    outcome.set("methods", TABLE.len());
    outcome.set("callers", tally.callers);
    outcome.set("calls", tally.calls);
    outcome.set("calls_made", tally.made);
    outcome.set("connections_refused", tally.refused);
    outcome.set("as_expected", tally.calls - tally.wrong);
    outcome.set("kinds_of_answers", tally.codes.len());
    Ok(outcome)
}

/// One pass: everybody makes every call.
async fn over_the_table(
    work: &Path,
    tally: &mut Tally,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let options = LabOptions { leaf_s: Some(3_600), ..LabOptions::default() };
    let mut lab = Lab::prepare(work, options)?;
    lab.start_coordinator()?;
    let callers = callers(&lab, work).await?;
    tally.callers += callers.len();
    for caller in &callers {
        tally.refused += u64::from(matches!(&caller.way, Err(Heard::Alert(_) | Heard::Closed)));
        for rule in TABLE {
            let heard = match &caller.way {
                Err(heard) => heard.clone(),
                Ok(channel) => {
                    tally.made += 1;
                    call(channel, rule.path).await?
                }
            };
            let expected = (caller.expected)(rule);
            tally.calls += 1;
            tally.wrong += u64::from(heard != expected);
            tally.codes.insert(format!("{heard:?}"));
            outcome.require(heard == expected, || {
                let (who, path) = (&caller.who, rule.path);
                format!("{who} calls {path} and hears {heard:?}, not {expected:?}")
            });
        }
    }
    let log = lab.log();
    for words in LOGGED {
        outcome.require(log.contains(words), || format!("the coordinator never logs: {words}"));
    }
    Ok(())
}

/// Everybody who calls, and what each is to hear.
async fn callers(lab: &Lab, work: &Path) -> anyhow::Result<Vec<Caller>> {
    let mut callers = strangers(lab, work).await?;
    let forge = Forge::of(&work.join("ca"), work.join("forged"))?;
    // A site that joined may use no other certificate than its own, however good it is.
    let mut admin = lab.operator().await?;
    for site in ["in", "out"] {
        admin.enroll_site(v1::EnrollSiteRequest { name: site.into(), revoked_at: None }).await?;
    }
    let roles = [
        ("viewer", Some(OperatorRole::Viewer), v1::OperatorRole::Viewer),
        ("runner", Some(OperatorRole::Runner), v1::OperatorRole::Runner),
        ("approver", Some(OperatorRole::Approver), v1::OperatorRole::Approver),
        ("auditor", Some(OperatorRole::Auditor), v1::OperatorRole::Auditor),
        ("admin", Some(OperatorRole::Admin), v1::OperatorRole::Admin),
    ];
    // The operator of the lab first, so that an admin is left.
    let mut listed = vec![("ada", v1::OperatorRole::Admin)];
    listed.extend(roles.iter().map(|(name, _, role)| (*name, *role)));
    for (name, role) in listed {
        let roles = vec![role.into()];
        let request = v1::SetOperatorRequest { name: name.into(), roles, seen: None };
        admin.set_operator(request).await.with_context(|| format!("listing {name}"))?;
    }
    let uri = |name: &str| format!("spiffe://{FEDERATION}/{name}");
    let good = |name: &str| Leaf::client(&uri(name));
    for (name, role, _) in roles {
        let connected = connect(lab, &forge.issue(name, &good(&format!("operator/{name}")))?).await;
        callers.push(Caller {
            who: format!("an operator who is {name}"),
            way: Ok(connected?),
            expected: Box::new(move |rule| match role {
                _ if rule.operators.is_empty() => Heard::Refused(Reason::WrongRole),
                Some(role) if rule.operators.contains(&role) => Heard::Admitted,
                _ => Heard::Refused(Reason::NotPermitted),
            }),
        });
    }
    let unlisted = forge.issue("unlisted", &good("operator/unlisted"))?;
    callers.push(Caller {
        who: "an operator who is not listed".into(),
        way: Ok(connect(lab, &unlisted).await?),
        expected: Box::new(|rule| match rule.operators.is_empty() {
            true => Heard::Refused(Reason::WrongRole),
            false => Heard::Refused(Reason::NotPermitted),
        }),
    });
    for (who, name, reason) in [
        ("an enrolled site", "site/in", None),
        ("a site that is not enrolled", "site/nobody", Some(Reason::NotEnrolled)),
    ] {
        callers.push(Caller {
            who: who.into(),
            way: Ok(connect(lab, &forge.issue(who, &good(name))?).await?),
            expected: Box::new(move |rule| match (rule.sites, reason) {
                (false, _) => Heard::Refused(Reason::WrongRole),
                (true, Some(reason)) => Heard::Refused(reason),
                (true, None) => Heard::Admitted,
            }),
        });
    }
    let coordinator = forge.issue("coordinator", &good("coordinator/main"))?;
    callers.push(Caller {
        who: "a coordinator".into(),
        way: Ok(connect(lab, &coordinator).await?),
        expected: Box::new(|_| Heard::Refused(Reason::WrongRole)),
    });
    // Revoked with an open connection, and with one that is tried anew.
    let out = forge.issue("out", &good("site/out"))?;
    let open = connect(lab, &out).await?;
    admin.revoke_site(v1::RevokeSiteRequest { name: "out".into(), seen: None }).await?;
    let gone = forge.issue("gone", &good("operator/gone"))?;
    let request = |roles| v1::SetOperatorRequest { name: "gone".into(), roles, seen: None };
    admin.set_operator(request(vec![v1::OperatorRole::Admin.into()])).await?;
    let desk = connect(lab, &gone).await?;
    admin.set_operator(request(vec![])).await?;
    for channel in [&open, &desk] {
        cut(channel).await?;
    }
    for (who, way) in [
        ("a revoked site on its open connection", Ok(open)),
        ("a revoked site that comes back", attempt(lab, out.client()?).await?),
        ("an operator without roles on its open connection", Ok(desk)),
        ("an operator without roles who comes back", attempt(lab, gone.client()?).await?),
    ] {
        let expected = Box::new(|_: &Rule| Heard::Alert("CertificateRevoked".into()));
        callers.push(Caller { who: who.into(), way, expected });
    }
    Ok(callers)
}

/// Who has no good certificate.
async fn strangers(lab: &Lab, work: &Path) -> anyhow::Result<Vec<Caller>> {
    let mut callers = Vec::new();
    let site = format!("spiffe://{FEDERATION}/site/in");
    let good = Leaf::client(&site);
    let forge = Forge::of(&work.join("ca"), work.join("forged-bad"))?;
    let foreign = Forge::new(work.join("foreign"), &work.join("ca"))?;
    let elsewhere = site.replace(FEDERATION, "elsewhere");
    let operator = format!("spiffe://{FEDERATION}/operator/ada");
    let alert = |name: &str| Heard::Alert(name.to_owned());
    let two = vec![site.clone(), operator];
    // TLS has one alert for both ends of a validity.
    let untimely = alert("CertificateExpired");
    for (who, authority, leaf, heard) in [
        ("expired", &forge, Leaf { hours: -1, ..good.clone() }, untimely.clone()),
        ("not valid yet", &forge, Leaf { from_hours: 2, ..good.clone() }, untimely),
        ("of another CA", &foreign, good.clone(), alert("UnknownCA")),
        ("of another trust domain", &forge, Leaf::client(&elsewhere), Heard::Closed),
        ("with no URI", &forge, Leaf { uris: vec![], ..good.clone() }, Heard::Closed),
        ("with two URIs", &forge, Leaf { uris: two, ..good.clone() }, Heard::Closed),
        (
            "for servers",
            &forge,
            Leaf { usage: Some(ServerAuth), ..good.clone() },
            alert("UnsupportedCertificate"),
        ),
        (
            "of no role",
            &forge,
            Leaf::client(&format!("spiffe://{FEDERATION}/admin/ada")),
            Heard::Closed,
        ),
    ] {
        callers.push(Caller {
            who: format!("a certificate {who}"),
            way: attempt(lab, authority.issue(who, &leaf)?.client()?).await?,
            expected: Box::new(move |_| heard.clone()),
        });
    }
    // The same steps with a good one do get in, or nothing above would prove anything.
    let leaf = Leaf { usage: Some(ClientAuth), ..good };
    connect(lab, &forge.issue("good", &leaf)?).await.context("a good certificate")?;
    let token: Token = lab.fedctl_json(&["site", "invite", "guest"])?["token"]
        .as_str()
        .context("a token")?
        .parse()?;
    let address: Address = lab.address().parse()?;
    callers.push(Caller {
        who: "who has no certificate and asks to join".into(),
        way: Ok(channel::join_by(&Route::default(), &address, token.root).await?),
        expected: Box::new(|rule| match rule.strangers {
            true => Heard::Admitted,
            false => Heard::Refused(Reason::NoIdentity),
        }),
    });
    callers.push(Caller {
        who: "who has no certificate".into(),
        way: attempt(lab, without_certificate(lab)?).await?,
        expected: Box::new(|_| Heard::Alert("CertificateRequired".into())),
    });
    Ok(callers)
}

/// To connect as the protocol for members has it, without a certificate.
fn without_certificate(lab: &Lab) -> anyhow::Result<Arc<ClientConfig>> {
    let roots = lab.tls("ada").roots()?;
    let mut store = rustls::RootCertStore::empty();
    for root in roots {
        store.add(root)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Connects whoever is to be let in.
async fn connect(lab: &Lab, files: &TlsFiles) -> anyhow::Result<Channel> {
    let way = attempt(lab, files.client()?).await?;
    way.map_err(|heard| anyhow::anyhow!("no connection, but {heard:?}"))
}

/// Connects, or hears why not.
async fn attempt(lab: &Lab, tls: Arc<ClientConfig>) -> anyhow::Result<Result<Channel, Heard>> {
    let (address, federation) = (lab.address().parse()?, FEDERATION.parse()?);
    let connected = channel::connect(&address, &federation, tls).await;
    Ok(connected.map_err(|error| match &error {
        channel::Error::Untrusted { reason, .. } => of_distrust(reason),
        channel::Error::Connect { reason, .. } if reason.contains(CLOSED) => Heard::Closed,
        _ => Heard::Failed(chain(&error)),
    }))
}

/// Calls until the connection that was open is found to be cut, and another one is refused.
async fn cut(channel: &Channel) -> anyhow::Result<()> {
    let mut heard = Heard::Closed;
    for _ in 0..BROKEN_MAX {
        heard = call(channel, TABLE[0].path).await?;
        ensure!(heard != Heard::Admitted, "who is shut out is let in on an open connection");
        if matches!(heard, Heard::Alert(_)) {
            return Ok(());
        }
    }
    bail!("who is shut out never hears so on an open connection, but at last {heard:?}")
}

/// Calls a method with an empty message, and hears the first word of the answer.
async fn call(channel: &Channel, path: &'static str) -> anyhow::Result<Heard> {
    let mut client = Grpc::new(channel.clone());
    if let Err(error) = client.ready().await {
        return Ok(of_broken(&error));
    }
    let codec = ProstCodec::<(), ()>::default();
    let path = PathAndQuery::from_static(path);
    let answer = client.server_streaming(Request::new(()), path, codec).await;
    let status = match answer {
        Ok(answer) => answer.into_inner().message().await.err(),
        Err(status) => Some(status),
    };
    status.map_or(Ok(Heard::Admitted), |status| of_status(&status))
}

fn of_status(status: &Status) -> anyhow::Result<Heard> {
    let refusals = [
        Reason::NoIdentity,
        Reason::WrongRole,
        Reason::NotPermitted,
        Reason::NotEnrolled,
        Reason::Revoked,
    ];
    match (Reason::of(status), status.code()) {
        (Some(reason), _) if refusals.contains(&reason) => Ok(Heard::Refused(reason)),
        (Some(_), _) => Ok(Heard::Admitted),
        (None, Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal) => {
            Ok(of_broken(status))
        }
        (None, code) => bail!("an answer without a reason: {code:?}, {}", status.message()),
    }
}

/// What is heard where a connection broke, or none came about.
fn of_broken(error: &(dyn std::error::Error + 'static)) -> Heard {
    match channel::distrust(error) {
        Some(reason) => of_distrust(&reason),
        None => Heard::Failed(chain(error)),
    }
}

/// An alert, unless it is this end that does not trust the other.
fn of_distrust(reason: &str) -> Heard {
    match reason.strip_prefix(ALERT) {
        Some(name) => Heard::Alert(name.to_owned()),
        None => Heard::Failed(reason.to_owned()),
    }
}

/// An error and all that caused it, in words.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes: Vec<String> = anyhow::Chain::new(error).map(|cause| cause.to_string()).collect();
    causes.join(": ")
}
