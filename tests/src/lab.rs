//! A federation on loopback: a CA, a coordinator process, agent processes, an operator.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use fedpaint_proto::budget::Budget;
use fedpaint_proto::channel::{self, Address};
use fedpaint_proto::names::{Blob, FederationName};
use fedpaint_proto::plan::PlanSignature;
use fedpaint_proto::signing::SigningFiles;
use fedpaint_proto::tls::TlsFiles;
use fedpaint_proto::transfer;
use fedpaint_proto::v1::admin_service_client::AdminServiceClient;
use fedpaint_proto::v1::{self, upload_purpose};
use tonic::transport::Channel;

use crate::process::{Process, know_policies, program_in, run};
use crate::{syncs, syscalls};

/// The federation's name in every lab.
pub const FEDERATION: &str = "lab";

/// The coordinator's name, by which its certificates are called.
pub const COORDINATOR: &str = "main";

/// Where a coordinator is reached from this machine alone.
const LOOPBACK: &str = "127.0.0.1";

/// How often sites are told to ask again; short, so that nobody waits for a test.
pub const HEARTBEAT_MS: u64 = 100;

/// How the coordinator of a lab is started.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// Where the coordinator is reached.
    pub host: String,
    /// How often sites are told to ask again.
    pub heartbeat_ms: u64,
    /// The folder of the coordinator's program; by default this workspace's own.
    pub programs: Option<PathBuf>,
    /// Variables in the coordinator's environment, such as where its failpoints' rules are.
    pub environment: Vec<(String, PathBuf)>,
    /// How long certificates last that the coordinator issues, in seconds; without it, it issues none.
    pub leaf_s: Option<u32>,
    /// Whether updates count that their sites have not signed, for agents of before.
    pub unsigned: bool,
    /// Where strace is to write what the coordinator brings to the disk, if it is to run under it: then the
    /// coordinator's process is the tracer's.
    pub trace: Option<PathBuf>,
    /// More tables of its configuration, such as `[retention]`.
    pub more: String,
}

impl Default for LabOptions {
    fn default() -> LabOptions {
        LabOptions {
            host: LOOPBACK.into(),
            heartbeat_ms: HEARTBEAT_MS,
            programs: None,
            environment: Vec::new(),
            leaf_s: None,
            unsigned: false,
            trace: None,
            more: String::new(),
        }
    }
}

/// How an agent of a lab is configured and started.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Lines of `[data]` beside the path. By default that labels are those of phantoms.
    pub data: String,
    /// Lines of `[trainer]`.
    pub trainer: String,
    /// More tables, such as `[rehearsal]`.
    pub more: String,
    /// The site's policy; by default one that lets everything out.
    pub policy: String,
    /// Where it reaches the coordinator, if not directly.
    pub coordinator: Option<String>,
    /// The folder of the agent's program; by default this workspace's own.
    pub programs: Option<PathBuf>,
    /// Variables in its environment.
    pub environment: Vec<(String, PathBuf)>,
    /// More words of its command line, such as `--dry-run FOLDER`.
    pub arguments: Vec<String>,
    /// Words before the program's own path, such as `ip netns exec NAME`.
    pub launcher: Vec<String>,
    /// Where strace is to write what the agent and its trainer do with the network, if it is to run under it.
    pub trace: Option<PathBuf>,
}

impl Default for AgentOptions {
    fn default() -> AgentOptions {
        AgentOptions {
            data: "label_scheme = \"brats2023\"\n".into(),
            trainer: String::new(),
            more: String::new(),
            policy: OPEN_POLICY.into(),
            coordinator: None,
            programs: None,
            environment: Vec::new(),
            arguments: Vec::new(),
            launcher: Vec::new(),
            trace: None,
        }
    }
}

/// A policy that forbids nothing that the program can do.
pub const OPEN_POLICY: &str = "[plan]\napproval = \"none\"\nrounds_max = 100_000\n\
    steps_max = 1_000_000\nbatch_max = 1_024\nlearning_rate_max = 1.0\n\n[round]\nsites_min = 1\n\n\
    [egress]\nbytes_per_round_max = 1_000_000_000_000\ntensors = [\"*\"]\n\
    metrics = [\"examples\", \"progress\", \"loss\", \"steps\", \"loss_mean\", \"loss_first\", \
    \"loss_last\", \"gradient_norm_p50\", \"gradient_norm_p99\"]\n\n[run]\nhours = \"always\"\n";

/// A federation's files, and the coordinator while it runs.
#[derive(Debug)]
pub struct Lab {
    folder: PathBuf,
    options: LabOptions,
    /// Whether the coordinator has a key to sign with; one of an older version knows none.
    signs: bool,
    address: Option<String>,
    status_address: String,
    coordinator: Option<Process>,
}

impl Lab {
    /// Makes a CA, the coordinator's and an operator's certificate, and starts the coordinator.
    ///
    /// # Errors
    /// If a program is missing or fails.
    pub fn start(folder: &Path) -> anyhow::Result<Lab> {
        let mut lab = Lab::prepare(folder, LabOptions::default())?;
        lab.start_coordinator()?;
        Ok(lab)
    }

    /// Makes a CA, the coordinator's and an operator's certificate, and starts nothing.
    ///
    /// # Errors
    /// If a program is missing or fails.
    pub fn prepare(folder: &Path, options: LabOptions) -> anyhow::Result<Lab> {
        fs::create_dir_all(folder)?;
        let (heartbeat_ms, host) = (options.heartbeat_ms, options.host.clone());
        let issuing = options.leaf_s.map(|leaf_s| {
            format!(
                "[issuing]\ncertificate = \"ca/issuing.pem\"\nkey = \"ca/issuing.key\"\n\
                 leaf_s = {leaf_s}\n"
            )
        });
        let (issuing, more) = (issuing.unwrap_or_default(), options.more.clone());
        let unsigned = match options.unsigned {
            true => "unsigned_updates = \"accept\"\n",
            false => "",
        };
        let signs = know_policies(options.programs.as_deref())?;
        let (folder, status_address) = (folder.to_owned(), String::new());
        let (address, coordinator) = (None, None);
        let lab = Lab { folder, options, signs, address, status_address, coordinator };
        let ca = lab.path("ca");
        run("fedctl", &["ca", "init", "--federation", FEDERATION, "--out", &ca])?;
        let hosts = ["--host", LOOPBACK, "--host", "localhost", "--host", &host];
        lab.issue("coordinator", COORDINATOR, &hosts[..if host == LOOPBACK { 4 } else { 6 }])?;
        lab.issue("operator", "ada", &[])?;
        let signing = match signs {
            true => {
                "\n[signing]\ncertificate = \"certificates/main.signing.pem\"\n\
                 key = \"certificates/main.signing.key\"\n"
            }
            false => "",
        };
        let config = format!(
            "federation = \"{FEDERATION}\"\nlisten = \"{host}:0\"\n\
             status_listen = \"127.0.0.1:0\"\ndata = \"coordinator\"\n\
             heartbeat_ms = {heartbeat_ms}\n{unsigned}\n[tls]\nca = \"certificates/ca.pem\"\n\
             certificate = \"certificates/main.pem\"\nkey = \"certificates/main.key\"\n{signing}{issuing}\n{more}"
        );
        fs::write(lab.folder.join("coordinator.toml"), config)?;
        Ok(lab)
    }

    /// Has the coordinator be started another way from the next start on.
    pub fn set_options(&mut self, options: LabOptions) {
        self.options = options;
    }

    /// Starts the coordinator and waits until it serves; again on the same port if it ran before.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start_coordinator(&mut self) -> anyhow::Result<()> {
        self.launch_coordinator()?;
        let line = self.coordinator()?.line()?;
        self.serves_at(&line)
    }

    /// Starts the coordinator and does not wait; see [`Lab::coordinator_serves`].
    ///
    /// # Errors
    /// If it does not start.
    pub fn launch_coordinator(&mut self) -> anyhow::Result<()> {
        let config = self.path("coordinator.toml");
        if let Some(address) = &self.address {
            let host = &self.options.host;
            let port = format!("listen = \"{}\"", address.trim_start_matches("https://"));
            let text = fs::read_to_string(&config)?
                .replace(&format!("listen = \"{host}:0\"\nstatus"), &format!("{port}\nstatus"));
            fs::write(&config, text)?;
        }
        let log = self.folder.join("coordinator.log");
        let LabOptions { programs, environment, trace, .. } = &self.options;
        let program = program_in(programs.as_deref(), "fedpaint-coordinator")?;
        let mut words = trace.as_ref().map_or_else(Vec::new, |to| strace(&syncs::FLAGS, to));
        words.extend([program.display().to_string(), "serve".into(), "--config".into(), config]);
        let process = Process::start_with(Path::new(&words[0]), &words[1..], &log, environment)?;
        self.coordinator = Some(process);
        Ok(())
    }

    /// Whether the coordinator that was launched has said that it serves.
    ///
    /// # Errors
    /// If it is not running, or says something else.
    pub fn coordinator_serves(&mut self) -> anyhow::Result<bool> {
        match self.coordinator()?.try_line() {
            Some(line) => self.serves_at(&line).map(|()| true),
            None => Ok(false),
        }
    }

    fn serves_at(&mut self, line: &str) -> anyhow::Result<()> {
        let address = line.strip_prefix("listening on ").and_then(|l| l.split(',').next());
        self.address = Some(address.with_context(|| format!("unexpected: {line}"))?.to_owned());
        let status = line.split_once("status on http://").map(|(_, status)| status);
        self.status_address = status.unwrap_or_default().to_owned();
        Ok(())
    }

    /// The coordinator's process.
    ///
    /// # Errors
    /// If it is not running.
    pub fn coordinator(&mut self) -> anyhow::Result<&mut Process> {
        self.coordinator.as_mut().context("the coordinator is not running")
    }

    /// The coordinator's process id.
    ///
    /// # Errors
    /// If it is not running.
    pub fn coordinator_id(&self) -> anyhow::Result<u32> {
        Ok(self.coordinator.as_ref().context("the coordinator is not running")?.id())
    }

    /// The coordinator's address, `https://127.0.0.1:port`.
    pub fn address(&self) -> &str {
        self.address.as_deref().unwrap_or_default()
    }

    /// Where the coordinator's `/metrics` is, `127.0.0.1:port`.
    pub fn status_address(&self) -> &str {
        &self.status_address
    }

    /// A path in the lab's folder, as text for a command line.
    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// Issues a certificate into `certificates/`.
    ///
    /// # Errors
    /// If `fedctl ca issue` fails.
    pub fn issue(&self, role: &str, name: &str, more: &[&str]) -> anyhow::Result<()> {
        let (ca, out) = (self.path("ca"), self.path("certificates"));
        let mut args = vec!["ca", "issue", role, name, "--ca", &ca, "--out", &out];
        args.extend(more);
        run("fedctl", &args)?;
        Ok(())
    }

    /// The files of a certificate that was issued.
    pub fn tls(&self, name: &str) -> TlsFiles {
        let file = |name: String| self.folder.join("certificates").join(name);
        TlsFiles {
            ca: file("ca.pem".into()),
            certificate: file(format!("{name}.pem")),
            key: file(format!("{name}.key")),
        }
    }

    /// The files that the holder of a certificate signs with.
    pub fn signing(&self, name: &str) -> SigningFiles {
        let file =
            |end: &str| self.folder.join("certificates").join(format!("{name}.signing.{end}"));
        SigningFiles { certificate: file("pem"), key: file("key") }
    }

    /// A channel to the coordinator for the holder of a certificate.
    ///
    /// # Errors
    /// If the coordinator does not take it.
    pub async fn channel(&self, name: &str) -> anyhow::Result<Channel> {
        let address: Address = self.address().parse()?;
        let federation: FederationName = FEDERATION.parse()?;
        Ok(channel::connect(&address, &federation, self.tls(name).client()?).await?)
    }

    /// The operator's client.
    ///
    /// # Errors
    /// If the coordinator does not take it.
    pub async fn operator(&self) -> anyhow::Result<AdminServiceClient<Channel>> {
        Ok(AdminServiceClient::new(self.channel("ada").await?))
    }

    /// Runs `fedctl` as the operator.
    ///
    /// # Errors
    /// If it fails; the error holds what it wrote to stderr.
    pub fn fedctl(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut all = self.operator_flags();
        all.extend(args.iter().map(|a| (*a).to_owned()));
        run("fedctl", &all)
    }

    /// What `fedctl` answers the operator, as JSON.
    ///
    /// # Errors
    /// As [`Lab::fedctl`], or if the answer is not JSON.
    pub fn fedctl_json(&self, args: &[&str]) -> anyhow::Result<serde_json::Value> {
        let all: Vec<&str> = ["--output", "json"].iter().chain(args).copied().collect();
        Ok(serde_json::from_str(&self.fedctl(&all)?)?)
    }

    /// The flags by which `fedctl` reaches this coordinator.
    pub fn operator_flags(&self) -> Vec<String> {
        let TlsFiles { ca, certificate, key } = self.tls("ada");
        let flags = [
            ("--coordinator", self.address().to_owned()),
            ("--ca", ca.display().to_string()),
            ("--cert", certificate.display().to_string()),
            ("--key", key.display().to_string()),
        ];
        flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }

    /// Issues a site's certificate and enrols the site.
    ///
    /// # Errors
    /// If either is refused.
    pub fn enroll(&self, site: &str) -> anyhow::Result<()> {
        self.issue("site", site, &[])?;
        self.fedctl(&["site", "enroll", site])?;
        Ok(())
    }

    /// Uploads an initial model and creates a run.
    ///
    /// # Errors
    /// If the coordinator refuses either.
    pub async fn create_run(
        &self,
        name: &str,
        plan: &str,
        model: &Path,
        blob: Blob,
    ) -> anyhow::Result<v1::Run> {
        self.create_signed_run(name, (plan, None), model, blob).await
    }

    /// The same, with the signature of who stands behind the plan.
    ///
    /// # Errors
    /// As [`Lab::create_run`].
    pub async fn create_signed_run(
        &self,
        name: &str,
        (plan, signature): (&str, Option<PlanSignature>),
        model: &Path,
        blob: Blob,
    ) -> anyhow::Result<v1::Run> {
        let purpose = v1::UploadPurpose {
            purpose: Some(upload_purpose::Purpose::InitialModel(v1::InitialModel {})),
        };
        let channel = self.channel("ada").await?;
        transfer::upload(&channel, purpose, blob, model, &Budget::default(), &mut |_, _| ())
            .await?;
        let request = v1::CreateRunRequest {
            name: name.into(),
            plan_toml: plan.into(),
            initial_model: Some(blob.into()),
            plan_signature: signature.map(|signature| signature.to_wire()),
        };
        let reply = AdminServiceClient::new(channel).create_run(request).await?;
        reply.into_inner().run.context("a created run")
    }

    /// Follows a run and its newest round until `done` says so.
    ///
    /// # Errors
    /// If the stream ends before.
    pub async fn watch(
        &self,
        run: &str,
        mut done: impl FnMut(&v1::Run, &v1::Round) -> bool,
    ) -> anyhow::Result<(v1::Run, v1::Round)> {
        let request = v1::WatchRunRequest { name: run.into() };
        let mut changes = self.operator().await?.watch_run(request).await?.into_inner();
        while let Some(change) = changes.message().await? {
            let (run, round) = (change.run.unwrap_or_default(), change.round.unwrap_or_default());
            if done(&run, &round) {
                return Ok((run, round));
            }
        }
        anyhow::bail!("the run ended before what was waited for; {}", self.log())
    }

    /// Writes an agent's config for `site` and starts the agent on the patients in `data`; also again.
    ///
    /// # Errors
    /// If the agent does not start.
    pub fn start_agent(
        &self,
        site: &str,
        data: &Path,
        options: &AgentOptions,
    ) -> anyhow::Result<Process> {
        let AgentOptions { data: more_data, trainer, more, .. } = options;
        let coordinator = options.coordinator.as_deref().unwrap_or(self.address());
        let data = data.display();
        let (mut policy, knows) = (String::new(), know_policies(options.programs.as_deref())?);
        if knows {
            policy = format!("policy = \"{site}-policy.toml\"\n");
            fs::write(self.path(&format!("{site}-policy.toml")), &options.policy)?;
        }
        let signing = match self.signs && knows {
            true => format!(
                "[signing]\ncertificate = \"certificates/{site}.signing.pem\"\n\
                 key = \"certificates/{site}.signing.key\"\n\n"
            ),
            false => String::new(),
        };
        let config = format!(
            "coordinator = \"{coordinator}\"\nworkspace = \"workspace-{site}\"\n{policy}\n[tls]\n\
             ca = \"certificates/ca.pem\"\ncertificate = \"certificates/{site}.pem\"\n\
             key = \"certificates/{site}.key\"\n\n{signing}[data]\npath = \"{data}\"\n\
             {more_data}\n\
             [trainer]\ndevice = \"cpu\"\nthreads = 1\n{trainer}\n{more}"
        );
        let path = self.path(&format!("{site}.toml"));
        fs::write(&path, config)?;
        let log = self.folder.join(format!("{site}.log"));
        let program = program_in(options.programs.as_deref(), "fedpaint-site-agent")?;
        let own = ["run", "--config", &path];
        let mut words = options.launcher.clone();
        if let Some(trace) = &options.trace {
            words.extend(strace(&syscalls::FLAGS, trace));
        }
        words.push(program.display().to_string());
        words.extend(own.map(str::to_owned));
        words.extend(options.arguments.iter().cloned());
        Process::start_with(Path::new(&words[0]), &words[1..], &log, &options.environment)
    }

    /// What the coordinator has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("coordinator.log")).unwrap_or_default()
    }
}

/// The words before a program's own path that have strace write to `trace` what the program and its children do.
pub fn strace(flags: &[&str], trace: &Path) -> Vec<String> {
    let mut words = ["strace", "-f", "-qq", "--seccomp-bpf"].map(str::to_owned).to_vec();
    words.extend(flags.iter().map(|flag| (*flag).to_owned()));
    words.extend(["-o".to_owned(), trace.display().to_string()]);
    words
}
