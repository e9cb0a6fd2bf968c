//! A model over a hospital's line: 30 Mbit/s, 100 ms there and back, one packet in a hundred lost. A real agent
//! moves it both ways. How much of the line it uses is seen in the packets that arrive, with their headers, while the
//! files grow; and how much of that is model, in the files. Then a site of our own does the same and asks as an agent
//! does meanwhile, on the same connection and on another, and how long the answers take is measured.
//!
//! The line is `tests/link`: the kernel's TCP at both ends, packets that really are late and lost. It takes
//! root and Linux, so the test command leaves it out, as it does `floods`, which takes minutes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fedpaint_proto::budget::Budget;
use fedpaint_proto::names::{Blob, Digest};
use fedpaint_proto::transfer;
use fedpaint_proto::v1::federation_service_client::FederationServiceClient;
use fedpaint_proto::v1::heartbeat_request::Activity;
use fedpaint_proto::v1::{self, upload_purpose};
use fedpaint_proto::weights::{Dtype, TensorSpec};
use fedpaint_proto::{channel, wire};
use fedpaint_tests::fake_site::FakeSite;
use fedpaint_tests::lab::{AgentOptions, FEDERATION, Lab, LabOptions};
use fedpaint_tests::models;
use fedpaint_tests::outcome::{Outcome, quantile, rounded};
use fedpaint_tests::process::Process;
use serde::{Deserialize, Serialize};
use tonic::transport::Channel;

use crate::{Args, say};

/// The line, if nobody says otherwise.
const MBIT_S: f64 = 30.0;
const LOSS: f64 = 0.01;

/// How long a way takes, in ms.
const DELAY_MS: f64 = 50.0;

/// The namespace of its far end, where the sites are.
const NAMESPACE: &str = "fedpaint-link";

/// Where packets arrive that go to the sites, and that come from them.
const SITES_END: &[&str] = &["-n", NAMESPACE, "-j", "-s", "link", "show", "fplink1"];
const COORDINATORS_END: &[&str] = &["-j", "-s", "link", "show", "fplink0"];

/// The least part of the line that a transfer must use.
const SHARE_MIN: f64 = 0.9;

/// The longest that an answer may take meanwhile, in ms.
const BEAT_MS_MAX: f64 = 1_000.0;

/// The size of the model, in MB, if nobody says otherwise: 40 s each way.
const MODEL_MB: usize = 150;

/// How often a file's length is looked at, and a heartbeat sent.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const BEAT_EVERY: Duration = Duration::from_millis(200);

/// From how many bytes on a file counts as growing.
const BEGUN_BYTES: u64 = 64 << 10;

/// How long a transfer may take.
const PATIENCE: Duration = Duration::from_secs(1_200);

/// Runs the trial.
///
/// # Errors
/// If the line cannot be made, or a program fails.
pub(crate) async fn link(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    let elements = args.count.unwrap_or(MODEL_MB) * 1_000_000 / 4;
    let line = start_line(args, work)?;
    let ready = line.line()?;
    let host = ready.split(' ').nth(1).context("the near end's address")?.to_owned();
    let mut outcome = Outcome::default();
    let measured = measure(args, work, host, elements, &mut outcome).await;
    drop(line);
    run_ip(&["netns", "del", NAMESPACE])?;
    measured.map(|()| outcome)
}

fn start_line(args: &Args, work: &Path) -> anyhow::Result<Process> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("link/target/release/fedpaint-link");
    ensure!(
        program.is_file(),
        "{} is not built: run `cargo build --release --manifest-path tests/link/Cargo.toml`",
        program.display()
    );
    let (mbit_s, loss) = (mbit_s(args).to_string(), args.loss.unwrap_or(LOSS).to_string());
    let delay_ms = DELAY_MS.to_string();
    let seed = args.seed.to_string();
    let mut words = vec!["--mbit-s", &mbit_s, "--delay-ms", &delay_ms, "--loss", &loss];
    words.extend(["--namespace", NAMESPACE, "--seed", &seed]);
    if let Some(congestion) = &args.congestion {
        words.extend(["--congestion", congestion]);
    }
    std::fs::create_dir_all(work)?;
    Process::start_with(&program, &words, &work.join("line.log"), &[])
}

/// How much goes through the line.
fn mbit_s(args: &Args) -> f64 {
    args.mbit_s.unwrap_or(MBIT_S)
}

fn run_ip(args: &[&str]) -> anyhow::Result<()> {
    let status = std::process::Command::new("ip").args(args).status()?;
    ensure!(status.success(), "ip {} failed", args.join(" "));
    Ok(())
}

async fn measure(
    args: &Args,
    work: &Path,
    host: String,
    elements: usize,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let folder = work.join("lab");
    let mut lab = Lab::prepare(&folder, LabOptions { host, ..LabOptions::default() })?;
    lab.start_coordinator()?;
    let spec = || TensorSpec { name: "w".into(), dtype: Dtype::F32, shape: vec![elements] };
    let file = work.join("initial.safetensors");
    let model = models::write(&file, vec![spec()], |_, i| ((i * 7_919) % 10_007) as f32)?;
    outcome.set("model_mb", rounded(model.size as f64 / 1e6, 1));
    outcome.set("congestion", args.congestion.as_deref().unwrap_or("what the programs ask for"));

    say("a real agent");
    let plan = "version = 1\nrounds = 1\n[round]\nsites_min = 1\nsites_goal = 1\n\
                selection_s = 600\nreporting_s = 3600\n[training]\nsteps = 1\nbatch = 1\n";
    lab.enroll("mayo")?;
    lab.create_run("agent", plan, &file, model).await?;
    let options = AgentOptions {
        more: "[rehearsal]\nsteps_ms = 0\n".into(),
        launcher: ["ip", "netns", "exec", NAMESPACE].map(str::to_owned).to_vec(),
        ..AgentOptions::default()
    };
    std::fs::create_dir_all(work.join("no-scans"))?;
    let (site, own) = (folder.join("workspace-mayo"), folder.join("coordinator"));
    let at_coordinator = bytes_in(&own);
    let mut agent = lab.start_agent("mayo", &work.join("no-scans"), &options)?;
    let down = growth(&site, 0, model.size, SITES_END).await;
    let down = down.with_context(|| agent.log().unwrap_or_default())?;
    share(outcome, mbit_s(args), "agent_download", down);
    let up = growth(&own, at_coordinator, model.size, COORDINATORS_END).await;
    let up = up.with_context(|| agent.log().unwrap_or_default())?;
    share(outcome, mbit_s(args), "agent_upload", up);
    lab.watch("agent", |run, _| run.state() == v1::RunState::Finished).await?;
    ensure!(agent.stop()?.success(), "the agent does not end well: {}", agent.log()?);

    say("heartbeats meanwhile");
    let mut fake = FakeSite::enroll(&lab, "probe").await?;
    lab.create_run("probe", plan, &file, model).await?;
    fake.join().await?;
    let round = fake.task().await?.round.context("a round to train")?;
    for (n, layout) in [Layout::Same, Layout::Another].into_iter().enumerate() {
        let update = work.join(format!("update-{n}.safetensors"));
        let shift = n + 1;
        let blob = models::write(&update, vec![spec()], |_, i| ((i * 31 + shift) % 997) as f32)?;
        let part = Part {
            address: lab.address().to_owned(),
            layout,
            ca: lab.tls("probe").ca,
            certificate: lab.tls("probe").certificate,
            key: lab.tls("probe").key,
            round: (round.run.clone(), round.number, round.attempt),
            base: model.into(),
            update: blob.into(),
            file: update,
        };
        let told = inside(work, &part)?;
        let Told { idle_ms, download_s, download_ms, upload_s, upload_ms } = told;
        let name = layout.name();
        if layout == Layout::Same {
            outcome.set("beat_ms_idle_p50", rounded(quantile(&idle_ms, 0.5), 1));
        }
        for (way, seconds, beats) in
            [("download", download_s, download_ms), ("upload", upload_s, upload_ms)]
        {
            let used = model.size as f64 * 8.0 / 1e6 / seconds / mbit_s(args);
            outcome.set(&format!("{way}_model_share_{name}"), rounded(used, 3));
            outcome.set(&format!("beats_{way}_{name}"), beats.len());
            let (p99, max) = (quantile(&beats, 0.99), quantile(&beats, 1.0));
            for (p, value) in [("p50", quantile(&beats, 0.5)), ("p99", p99), ("max", max)] {
                outcome.set(&format!("beat_ms_{way}_{name}_{p}"), rounded(value, 1));
            }
            // What agents do is what must hold.
            if layout == Layout::AGENTS {
                outcome.require(max < BEAT_MS_MAX, || {
                    format!("a heartbeat took {max:.0} ms beside the {way}")
                });
                outcome.require(beats.len() > 10, || {
                    format!("only {} heartbeats beside the {way}", beats.len())
                });
            }
        }
    }
    Ok(())
}

/// Notes which part of the line a transfer has used.
fn share(outcome: &mut Outcome, mbit_s: f64, what: &str, grown: Growth) {
    let of_line = |bytes: u64| bytes as f64 * 8.0 / 1e6 / grown.seconds / mbit_s;
    let used = of_line(grown.arrived);
    outcome.set(&format!("{what}_s"), rounded(grown.seconds, 2));
    outcome.set(&format!("{what}_share"), rounded(used, 3));
    outcome.set(&format!("{what}_model_share"), rounded(of_line(grown.bytes), 3));
    outcome.require(used >= SHARE_MIN, || format!("{what} used {used:.3} of the line"));
}

/// Bytes that came, those of the packets that brought them, and how long that took.
struct Growth {
    bytes: u64,
    arrived: u64,
    seconds: f64,
}

/// Waits until the files in a folder have grown by so many bytes from `before` on, whose packets arrive at `end`.
async fn growth(folder: &Path, before: u64, bytes: u64, end: &[&str]) -> anyhow::Result<Growth> {
    let (start, mut begun) = (Instant::now(), None);
    while start.elapsed() < PATIENCE {
        let grown = bytes_in(folder).saturating_sub(before);
        if begun.is_none() && grown >= BEGUN_BYTES {
            begun = Some((Instant::now(), grown, arrived(end)?));
        }
        if let Some((at, had, had_arrived)) = begun
            && grown >= bytes
        {
            let arrived = arrived(end)?.saturating_sub(had_arrived);
            let seconds = at.elapsed().as_secs_f64();
            return Ok(Growth { bytes: bytes - had, arrived, seconds });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    anyhow::bail!("a transfer was not over after {} s", PATIENCE.as_secs())
}

/// Bytes of all packets that have arrived at an end of the line.
fn arrived(end: &[&str]) -> anyhow::Result<u64> {
    let output = std::process::Command::new("ip").args(end).output()?;
    let (said, words) = (String::from_utf8_lossy(&output.stderr), end.join(" "));
    ensure!(output.status.success(), "ip {words}: {}", said.trim_end());
    let told: serde_json::Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("ip {words}: not JSON, it takes a newer iproute2"))?;
    told[0]["stats64"]["rx"]["bytes"].as_u64().context("`ip -s link` counts no bytes")
}

/// The length of all files in a folder; those that vanish meanwhile are left out.
fn bytes_in(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_in(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

/// On which connection heartbeats go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Layout {
    /// That of the transfer.
    Same,
    /// One of their own.
    Another,
}

impl Layout {
    /// How an agent has it.
    const AGENTS: Layout = Layout::Another;

    fn name(self) -> &'static str {
        match self {
            Layout::Same => "same",
            Layout::Another => "another",
        }
    }
}

/// A blob, as text.
#[derive(Debug, Serialize, Deserialize)]
struct Named {
    digest: String,
    size: u64,
}

impl From<Blob> for Named {
    fn from(blob: Blob) -> Named {
        Named { digest: blob.digest.to_string(), size: blob.size }
    }
}

impl Named {
    fn blob(&self) -> anyhow::Result<Blob> {
        Ok(Blob { digest: self.digest.parse::<Digest>()?, size: self.size })
    }
}

/// What is done at the far end of the line, in a process of its own.
#[derive(Debug, Serialize, Deserialize)]
struct Part {
    address: String,
    layout: Layout,
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    round: (String, u32, u32),
    base: Named,
    update: Named,
    file: PathBuf,
}

/// What came of it: seconds of the transfers, and how long each heartbeat took, in ms.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Told {
    idle_ms: Vec<f64>,
    download_s: f64,
    download_ms: Vec<f64>,
    upload_s: f64,
    upload_ms: Vec<f64>,
}

/// Has a part be done by this program at the far end.
fn inside(work: &Path, part: &Part) -> anyhow::Result<Told> {
    let path = work.join("part.json");
    std::fs::write(&path, serde_json::to_string(part)?)?;
    let own = std::env::current_exe()?.display().to_string();
    let path = path.display().to_string();
    let words = ["netns", "exec", NAMESPACE, &own, "link", "--part", &path];
    let mut process = Process::start_with(Path::new("ip"), &words, &work.join("part.log"), &[])?;
    let line = process.line_within(PATIENCE)?;
    ensure!(process.wait()?.success(), "{}", process.log()?);
    Ok(serde_json::from_str(&line)?)
}

/// Does a part, at the far end; what came of it, as JSON.
///
/// # Errors
/// If a transfer fails.
pub(crate) async fn part(path: &Path) -> anyhow::Result<String> {
    let part: Part = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let files = fedpaint_proto::tls::TlsFiles {
        ca: part.ca.clone(),
        certificate: part.certificate.clone(),
        key: part.key.clone(),
    };
    let (address, federation) = (part.address.parse()?, FEDERATION.parse()?);
    let bytes = channel::connect(&address, &federation, files.client()?).await?;
    let beats = match part.layout {
        Layout::Same => bytes.clone(),
        Layout::Another => channel::connect(&address, &federation, files.client()?).await?,
    };
    let (mut told, budget) = (Told::default(), Budget::default());
    let ((), idle_ms) = beside(&beats, async {
        tokio::time::sleep(20 * BEAT_EVERY).await;
        Ok(())
    })
    .await?;
    told.idle_ms = idle_ms;
    let copy = part.file.with_extension("copy");
    let base = part.base.blob()?;
    let begun = Instant::now();
    let download =
        async { Ok(transfer::download(&bytes, base, &copy, &budget, &mut |_, _| ()).await?) };
    ((), told.download_ms) = beside(&beats, download).await?;
    told.download_s = begun.elapsed().as_secs_f64();
    let (run, number, attempt) = part.round.clone();
    let round = v1::RoundRef { run, number, attempt };
    let purpose = v1::UploadPurpose { purpose: Some(upload_purpose::Purpose::Update(round)) };
    let update = part.update.blob()?;
    let begun = Instant::now();
    let file = &part.file;
    let upload = async {
        Ok(transfer::upload(&bytes, purpose, update, file, &budget, &mut |_, _| ()).await?)
    };
    ((), told.upload_ms) = beside(&beats, upload).await?;
    told.upload_s = begun.elapsed().as_secs_f64();
    Ok(serde_json::to_string(&told)?)
}

/// Does some work, and sends heartbeats beside it; how long each of those took, in ms.
async fn beside<T>(
    channel: &Channel,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(T, Vec<f64>)> {
    let mut took = Vec::new();
    let mut client = FederationServiceClient::new(channel.clone());
    let beating = async {
        loop {
            let request = v1::HeartbeatRequest {
                agent_version: "0.0.0-probe".into(),
                activity: Some(Activity::Idle(v1::Idle {})),
                wire_version: wire::WIRE_VERSION,
                ..v1::HeartbeatRequest::default()
            };
            let begun = Instant::now();
            if let Err(status) = client.heartbeat(request).await {
                return status;
            }
            took.push(begun.elapsed().as_secs_f64() * 1e3);
            tokio::time::sleep(BEAT_EVERY).await;
        }
    };
    let done = tokio::select! {
        done = work => done?,
        status = beating => anyhow::bail!("a heartbeat failed: {status}"),
    };
    Ok((done, took))
}
