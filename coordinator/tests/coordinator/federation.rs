//! A coordinator in this process, or as the program, with its own certificate authority, and clients of it
//! over real TLS.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use fedpaint_coordinator::clock::{Clock, SystemClock};
use fedpaint_coordinator::config::Config;
use fedpaint_coordinator::limits::Limits;
use fedpaint_coordinator::server::Server;
use fedpaint_proto::channel::{self, Address};
use fedpaint_proto::credential;
use fedpaint_proto::limits::MESSAGE_BYTES_MAX;
use fedpaint_proto::tls::TlsFiles;
use fedpaint_proto::v1::admin_service_client::AdminServiceClient;
use fedpaint_proto::v1::blob_service_client::BlobServiceClient;
use fedpaint_proto::v1::federation_service_client::FederationServiceClient;
use fedpaint_proto::v1::heartbeat_request::Activity;
use fedpaint_proto::v1::{EnrollSiteRequest, HeartbeatRequest, HeartbeatResponse, Idle};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

use crate::pki::{Authority, Leaf};

/// A coordinator that serves the federation `brain`.
pub(crate) struct Federation {
    pub(crate) folder: TempDir,
    pub(crate) authority: Authority,
    pub(crate) address: SocketAddr,
    pub(crate) status_address: SocketAddr,
    serving: Serving,
}

/// What serves.
enum Serving {
    Here(CancellationToken, JoinHandle<()>),
    Program(Program),
}

/// The program, which does not outlive a test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended already, or is killed now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The coordinator's configuration in every federation.
pub(crate) const CONFIG: &str = "federation = \"brain\"\nlisten = \"127.0.0.1:0\"\n\
                      status_listen = \"127.0.0.1:0\"\ndata = \"data\"\nheartbeat_ms = 50\n\
                      [tls]\nca = \"ca.pem\"\ncertificate = \"own.pem\"\nkey = \"own.key\"\n";

/// By which it signs.
const SIGNING: &str = "[signing]\ncertificate = \"signing.pem\"\nkey = \"signing.key\"\n";

/// By which it issues certificates, and so lets strangers ask to join.
const ISSUING: &str = "[issuing]\ncertificate = \"issuing.pem\"\nkey = \"issuing.key\"\n";

/// A client with one certificate.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) channel: Channel,
    pub(crate) federation: FederationServiceClient<Channel>,
    pub(crate) blobs: BlobServiceClient<Channel>,
    pub(crate) admin: AdminServiceClient<Channel>,
}

impl Federation {
    pub(crate) async fn start() -> Federation {
        Federation::start_at(Arc::new(SystemClock)).await
    }

    /// A new coordinator that lives by `clock`.
    pub(crate) async fn start_at(clock: Arc<dyn Clock>) -> Federation {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new();
        authority.issue(folder.path(), "own", &Leaf::server("spiffe://brain/coordinator/main"));
        Federation::start_in(folder, authority, clock).await
    }

    /// A new coordinator with other limits on its connections, which strangers may ask to join.
    pub(crate) async fn start_within(limits: Limits, clock: Arc<dyn Clock>) -> Federation {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new();
        authority.issue(folder.path(), "own", &Leaf::server("spiffe://brain/coordinator/main"));
        authority.hand_out(folder.path());
        let config = format!("{CONFIG}{ISSUING}");
        Federation::launch(folder, authority, clock, (&config, limits)).await
    }

    /// A new coordinator with `more` in its configuration.
    pub(crate) async fn start_with(more: &str) -> Federation {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new();
        authority.issue(folder.path(), "own", &Leaf::server("spiffe://brain/coordinator/main"));
        let (config, clock) = (format!("{CONFIG}{more}"), Arc::new(SystemClock));
        Federation::launch(folder, authority, clock, (&config, Limits::default())).await
    }

    /// The same, which strangers may ask to join.
    pub(crate) async fn start_open_with(more: &str) -> Federation {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new();
        authority.issue(folder.path(), "own", &Leaf::server("spiffe://brain/coordinator/main"));
        authority.hand_out(folder.path());
        let (config, clock) = (format!("{CONFIG}{ISSUING}{more}"), Arc::new(SystemClock));
        Federation::launch(folder, authority, clock, (&config, Limits::default())).await
    }

    /// A new coordinator that signs what it says of its log.
    pub(crate) async fn start_signing() -> Federation {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new();
        let own = "spiffe://brain/coordinator/main";
        authority.issue(folder.path(), "own", &Leaf::server(own));
        let signing = authority.issue_signing(own);
        std::fs::write(folder.path().join("signing.pem"), signing.certificate_pem).unwrap();
        credential::write_key(&folder.path().join("signing.key"), &signing.key_pem).unwrap();
        let (config, clock) = (format!("{CONFIG}{SIGNING}"), Arc::new(SystemClock));
        Federation::launch(folder, authority, clock, (&config, Limits::default())).await
    }

    /// A coordinator on the state in `folder`.
    pub(crate) async fn start_in(
        folder: TempDir,
        authority: Authority,
        clock: Arc<dyn Clock>,
    ) -> Federation {
        Federation::launch(folder, authority, clock, (CONFIG, Limits::default())).await
    }

    async fn launch(
        folder: TempDir,
        authority: Authority,
        clock: Arc<dyn Clock>,
        (config, limits): (&str, Limits),
    ) -> Federation {
        let config = Config::parse(config, &folder.path().join("c.toml")).unwrap();
        let server = Server::start(config, clock).await.unwrap().with_limits(limits);
        let (address, status_address) = (server.address(), server.status_address());
        let stop = CancellationToken::new();
        let serving = server.serve(stop.clone());
        let serving = tokio::spawn(async move { serving.await.unwrap() });
        let serving = Serving::Here(stop, serving);
        Federation { folder, authority, address, status_address, serving }
    }

    /// A new coordinator as the program, in a process of its own; its log is the file `log`.
    pub(crate) fn program() -> Federation {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new();
        authority.issue(folder.path(), "own", &Leaf::server("spiffe://brain/coordinator/main"));
        std::fs::write(folder.path().join("c.toml"), CONFIG).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_fedpaint-coordinator"))
            .args(["serve", "--config"])
            .arg(folder.path().join("c.toml"))
            .env_remove("RUST_LOG")
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let serving = Serving::Program(Program(child));
        let line = BufReader::new(stdout).lines().next().unwrap().unwrap();
        let places = line.strip_prefix("listening on https://").unwrap();
        let (address, status) = places.split_once(", status on http://").unwrap();
        let (address, status_address) = (address.parse().unwrap(), status.parse().unwrap());
        Federation { folder, authority, address, status_address, serving }
    }

    /// The memory that the program holds now, in bytes.
    pub(crate) fn rss_bytes(&self) -> u64 {
        let Serving::Program(Program(child)) = &self.serving else {
            panic!("no process of its own")
        };
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() * 1024
    }

    /// Stops the coordinator and gives back its state.
    pub(crate) async fn stop(self) -> (TempDir, Authority) {
        match self.serving {
            Serving::Here(stop, serving) => {
                stop.cancel();
                serving.await.unwrap();
            }
            Serving::Program(program) => drop(program),
        }
        (self.folder, self.authority)
    }

    /// A client that holds a good certificate of `uri`.
    pub(crate) async fn client(&self, uri: &str) -> Client {
        let files = self.certificate(&self.authority, &Leaf::client(uri));
        self.connect(&files).await.unwrap()
    }

    /// An operator.
    pub(crate) async fn operator(&self) -> Client {
        self.client("spiffe://brain/operator/ada").await
    }

    /// An enrolled site.
    pub(crate) async fn site(&self, name: &str) -> Client {
        let request = EnrollSiteRequest { name: name.to_owned(), revoked_at: None };
        self.operator().await.admin.enroll_site(request).await.unwrap();
        self.client(&format!("spiffe://brain/site/{name}")).await
    }

    /// A certificate of `authority`, with the root that the coordinator's own is under.
    pub(crate) fn certificate(&self, authority: &Authority, leaf: &Leaf<'_>) -> TlsFiles {
        // Clients do not share files, so that they can be made side by side.
        let folder = TempDir::new_in(self.folder.path()).unwrap().keep();
        let files = authority.issue(&folder, "client", leaf);
        std::fs::write(&files.ca, self.authority.pem()).unwrap();
        files
    }

    pub(crate) async fn connect(&self, files: &TlsFiles) -> Result<Client, channel::Error> {
        let address: Address = format!("https://{}", self.address).parse().unwrap();
        let tls = files.client().unwrap();
        channel::connect(&address, &"brain".parse().unwrap(), tls).await.map(Client::over)
    }
}

impl Client {
    /// A client over a connection that is there.
    pub(crate) fn over(channel: Channel) -> Client {
        Client {
            federation: FederationServiceClient::new(channel.clone()),
            blobs: BlobServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
            admin: AdminServiceClient::new(channel.clone()),
            channel,
        }
    }

    pub(crate) async fn beat(&mut self) -> Result<HeartbeatResponse, Status> {
        let activity = Some(Activity::Idle(Idle {}));
        // What an agent from before versions says.
        let old = HeartbeatRequest::default();
        let request = HeartbeatRequest { agent_version: "0.1.0".into(), activity, ..old };
        self.federation.heartbeat(request).await.map(tonic::Response::into_inner)
    }
}
