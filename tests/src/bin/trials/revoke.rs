//! Revocation in the middle of a transfer: how soon it is cut, and whether any way leads back.
//!
//! Every site of a round is revoked while it uploads its update or downloads its base model, in turns,
//! with an idle connection open beside the transfer.

use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fedpaint_proto::channel;
use fedpaint_proto::limits::PIECE_BYTES;
use fedpaint_proto::names::Blob;
use fedpaint_proto::v1::blob_service_client::BlobServiceClient;
use fedpaint_proto::v1::heartbeat_request::Activity;
use fedpaint_proto::v1::upload_request::Part;
use fedpaint_proto::v1::{self, upload_purpose};
use fedpaint_proto::weights::{Dtype, TensorSpec};
use fedpaint_tests::fake_site::FakeSite;
use fedpaint_tests::lab::Lab;
use fedpaint_tests::models;
use fedpaint_tests::outcome::{Outcome, quantile, rounded};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::Args;

/// How many revocations, if nobody says otherwise.
const COUNT: usize = 100;

/// Elements of the model that is moved: 64 MiB, so that no transfer is over before it is cut.
const ELEMENTS: usize = 16 << 20;

/// How long a transfer rests between two pieces.
const PACE: Duration = Duration::from_millis(3);

/// After how many pieces at most a site is revoked.
const PIECES_MAX: u32 = 60;

/// How soon a transfer must be cut, in milliseconds: 99 of 100.
const CUT_MS_MAX: f64 = 1_000.0;

/// How long a transfer may go on after the revocation until the trial gives up.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn revoke(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    let count = args.count.unwrap_or(COUNT);
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    let lab = Lab::start(work)?;
    let (sites, base) = members(&lab, work, count).await?;
    let mut admin = lab.operator().await?;
    let mut outcome = Outcome::default();
    let (mut cut_ms, mut reconnected, mut resumed, mut idle) = (Vec::new(), 0, 0, 0);
    for (n, (mut site, round)) in sites.into_iter().enumerate() {
        let name = site.name().to_owned();
        let before = Resumer::start(&lab, &name).await?;
        let after = rng.random_range(1..PIECES_MAX);
        let hurry = Arc::new(AtomicBool::new(false));
        let transfer = match n % 2 {
            0 => upload(&lab, &name, &round, base, after).await?,
            _ => download(&lab, &name, base, after, Arc::clone(&hurry)).await?,
        };
        // What has come by now is read as fast as it can be: only what is sent late counts as late.
        hurry.store(true, Ordering::Relaxed);
        let began = Instant::now();
        admin.revoke_site(v1::RevokeSiteRequest { name: name.clone(), seen: None }).await?;
        let ended = tokio::time::timeout(PATIENCE, transfer).await;
        let (status, at) = ended.with_context(|| format!("{name} was never cut"))??;
        cut_ms.push(at.duration_since(began).as_secs_f64() * 1e3);
        ensure!(status.is_some(), "the transfer of {name} was over before it was revoked");
        idle += usize::from(site.beat(Activity::Idle(v1::Idle {})).await.is_err());
        reconnected += usize::from(!refused(lab.channel(&name).await));
        resumed += usize::from(!before.is_refused().await?);
    }
    let p99 = quantile(&cut_ms, 0.99);
    outcome.set("revocations", count);
    outcome.set("cut_ms_p50", rounded(quantile(&cut_ms, 0.5), 2));
    outcome.set("cut_ms_p99", rounded(p99, 2));
    outcome.set("cut_ms_max", rounded(quantile(&cut_ms, 1.0), 2));
    outcome.set("idle_connections_cut", idle);
    outcome.set("reconnections_refused", count - reconnected);
    outcome.set("resumptions_refused", count - resumed);
    outcome.require(p99 <= CUT_MS_MAX, || format!("transfers were cut after {p99} ms (p99)"));
    outcome.require(idle == count, || format!("{} idle connections stayed", count - idle));
    outcome.require(reconnected == 0, || format!("{reconnected} sites came back"));
    outcome.require(resumed == 0, || format!("{resumed} sites came back by resumption"));
    Ok(outcome)
}

/// Sites that are to train one round, each with that round, and the model that they train from.
async fn members(
    lab: &Lab,
    work: &Path,
    count: usize,
) -> anyhow::Result<(Vec<(FakeSite, v1::RoundRef)>, Blob)> {
    let spec = TensorSpec { name: "w".into(), dtype: Dtype::F32, shape: vec![ELEMENTS] };
    let path = work.join("base.safetensors");
    let base = models::write(&path, vec![spec], |_, i| (i % 97) as f32)?;
    let mut sites = Vec::new();
    for n in 0..count {
        sites.push(FakeSite::enroll(lab, &format!("site-{n}")).await?);
    }
    let plan = format!(
        "version = 1\nrounds = 1\n[round]\nsites_min = 1\nsites_goal = {count}\n\
         selection_s = 600\nreporting_s = 3600\n"
    );
    lab.create_run("trial", &plan, &path, base).await?;
    for site in &mut sites {
        site.join().await?;
    }
    let mut members = Vec::new();
    for mut site in sites {
        let round = site.task().await?.round.context("a round to train")?;
        members.push((site, round));
    }
    Ok((members, base))
}

/// How a transfer ended, and when; `None` if it came to its end.
type Transfer = JoinHandle<(Option<Status>, Instant)>;

/// Uploads at a slow pace, and returns once so many pieces were sent and some arrived.
async fn upload(
    lab: &Lab,
    name: &str,
    round: &v1::RoundRef,
    base: Blob,
    after: u32,
) -> anyhow::Result<Transfer> {
    let mut blobs = BlobServiceClient::new(lab.channel(name).await?);
    // The bytes are never complete, so they need not be those of the digest.
    let blob = Blob { digest: fedpaint_proto::names::Digest::of(name.as_bytes()), ..base };
    let purpose = upload_purpose::Purpose::Update(round.clone());
    let purpose = v1::UploadPurpose { purpose: Some(purpose) };
    let header =
        v1::UploadHeader { purpose: Some(purpose.clone()), blob: Some(blob.into()), offset: 0 };
    let (parts, received) = mpsc::channel(1);
    let call = {
        let mut blobs = blobs.clone();
        tokio::spawn(async move {
            let ended = blobs.upload(ReceiverStream::new(received)).await;
            (ended.err(), Instant::now())
        })
    };
    let part = |part| v1::UploadRequest { part: Some(part) };
    parts.send(part(Part::Header(header))).await?;
    let (told, sent) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut told = Some(told);
        for n in 0.. {
            if n == after {
                // Who waits for it has failed otherwise.
                let _ = told.take().map(|told| told.send(()));
            }
            if parts.send(part(Part::Data(vec![7; PIECE_BYTES].into()))).await.is_err() {
                return;
            }
            tokio::time::sleep(PACE).await;
        }
    });
    sent.await.context("the upload was over too soon")?;
    let status = v1::GetUploadStatusRequest { purpose: Some(purpose), blob: Some(blob.into()) };
    while blobs.get_upload_status(status.clone()).await?.into_inner().committed_size == 0 {
        tokio::time::sleep(PACE).await;
    }
    Ok(call)
}

/// Downloads at a slow pace, and returns once so many pieces have come.
async fn download(
    lab: &Lab,
    name: &str,
    base: Blob,
    after: u32,
    hurry: Arc<AtomicBool>,
) -> anyhow::Result<Transfer> {
    let mut blobs = BlobServiceClient::new(lab.channel(name).await?);
    let digest = base.digest.as_bytes().to_vec();
    let request = v1::DownloadRequest { digest, offset: 0 };
    let mut pieces = blobs.download(request).await?.into_inner();
    for _ in 0..after {
        pieces.message().await?.context("the download was over too soon")?;
        tokio::time::sleep(PACE).await;
    }
    Ok(tokio::spawn(async move {
        loop {
            match pieces.message().await {
                Ok(Some(_)) if hurry.load(Ordering::Relaxed) => {}
                Ok(Some(_)) => tokio::time::sleep(PACE).await,
                Ok(None) => return (None, Instant::now()),
                Err(status) => return (Some(status), Instant::now()),
            }
        }
    }))
}

/// Whether a connection was refused because the certificate was revoked.
fn refused<T>(connected: anyhow::Result<T>) -> bool {
    let Err(error) = connected else { return false };
    let error = error.downcast_ref::<channel::Error>();
    matches!(error, Some(channel::Error::Untrusted { reason, .. }) if is_revoked(reason))
}

fn is_revoked(text: &str) -> bool {
    text.contains("CertificateRevoked")
}

/// A client that keeps every ticket it is given, and comes back with them.
struct Resumer {
    config: Arc<ClientConfig>,
    address: String,
}

impl Resumer {
    /// Connects once, and hears all that a coordinator says to who has just come in.
    async fn start(lab: &Lab, name: &str) -> anyhow::Result<Resumer> {
        let mut config = ClientConfig::clone(&*lab.tls(name).client()?);
        config.resumption = Resumption::in_memory_sessions(8);
        let address = lab.address().trim_start_matches("https://").to_owned();
        let resumer = Resumer { config: Arc::new(config), address };
        let (heard, _) = resumer.connect().await?;
        ensure!(heard.is_ok(), "a site that is not revoked was refused: {heard:?}");
        Ok(resumer)
    }

    /// Whether coming back is refused, by a full handshake.
    async fn is_refused(&self) -> anyhow::Result<bool> {
        let (heard, kind) = self.connect().await?;
        let resumed = kind == Some(HandshakeKind::Resumed);
        Ok(!resumed && heard.is_err_and(|error| is_revoked(&error)))
    }

    /// The first bytes that are heard, or why there are none, and how the handshake went.
    async fn connect(&self) -> anyhow::Result<(Result<usize, String>, Option<HandshakeKind>)> {
        let (config, address) = (Arc::clone(&self.config), self.address.clone());
        let connecting = tokio::task::spawn_blocking(move || {
            let name = ServerName::try_from("127.0.0.1")?;
            let mut session = ClientConnection::new(config, name)?;
            let mut tcp = TcpStream::connect(address)?;
            tcp.set_read_timeout(Some(PATIENCE))?;
            let heard = rustls::Stream::new(&mut session, &mut tcp).read(&mut [0; 64]);
            Ok((heard.map_err(|error| error.to_string()), session.handshake_kind()))
        });
        connecting.await?
    }
}
