//! A coordinator of a later version, as an older agent meets it: it passes on to the real one what the agent says and
//! back what it hears, but its plans say something more, which nobody here knows yet.

use std::io;
use std::sync::Arc;

use fedpaint_proto::v1::federation_service_client::FederationServiceClient;
use fedpaint_proto::v1::federation_service_server::{FederationService, FederationServiceServer};
use fedpaint_proto::v1::{
    GetRunPlanRequest, GetRunPlanResponse, HeartbeatRequest, HeartbeatResponse, PreviewWorkRequest,
    PreviewWorkResponse, SubmitUpdateRequest, SubmitUpdateResponse,
};
use fedpaint_tests::lab::Lab;
use rustls::ServerConfig;
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

/// What a plan says of which this version knows nothing.
const LATER: &str = "\n[of_a_later_version]\n";

/// The bytes that wait between TLS and the service.
const PIPE_BYTES: usize = 64 << 10;

/// Such a coordinator, until it is dropped.
pub(super) struct Newer {
    address: String,
    task: AbortHandle,
}

impl Drop for Newer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Newer {
    /// One for `site`, with the certificates of the lab's coordinator and, towards that, of the site.
    ///
    /// # Errors
    /// If no address is free or the coordinator does not take the site.
    pub(super) async fn start(lab: &Lab, site: &str) -> anyhow::Result<Newer> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("https://{}", listener.local_addr()?);
        let incoming = accept(listener, lab.tls("main").server(Arc::new(|_| true))?);
        let relay = Relay { real: FederationServiceClient::new(lab.channel(site).await?) };
        let router = Server::builder().add_service(FederationServiceServer::new(relay));
        let served = async move { drop(router.serve_with_incoming(incoming).await) };
        Ok(Newer { address, task: tokio::spawn(served).abort_handle() })
    }

    /// Where it is.
    pub(super) fn address(&self) -> String {
        self.address.clone()
    }
}

/// Takes connections, whose TLS is ended here.
fn accept(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
) -> ReceiverStream<io::Result<DuplexStream>> {
    let (sender, connections) = mpsc::channel(1);
    let acceptor = TlsAcceptor::from(tls);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            // Who does not get through the handshake tries again.
            let Ok(mut theirs) = acceptor.accept(tcp).await else { continue };
            let (mut ours, service) = tokio::io::duplex(PIPE_BYTES);
            // It ends with either side.
            tokio::spawn(
                async move { tokio::io::copy_bidirectional(&mut theirs, &mut ours).await },
            );
            if sender.send(Ok(service)).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(connections)
}

/// What passes everything on.
struct Relay {
    real: FederationServiceClient<Channel>,
}

#[tonic::async_trait]
impl FederationService for Relay {
    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let answer = self.real.clone().heartbeat(request.into_inner()).await?;
        Ok(Response::new(answer.into_inner()))
    }

    async fn preview_work(
        &self,
        request: Request<PreviewWorkRequest>,
    ) -> Result<Response<PreviewWorkResponse>, Status> {
        let answer = self.real.clone().preview_work(request.into_inner()).await?;
        Ok(Response::new(answer.into_inner()))
    }

    async fn get_run_plan(
        &self,
        request: Request<GetRunPlanRequest>,
    ) -> Result<Response<GetRunPlanResponse>, Status> {
        let answer = self.real.clone().get_run_plan(request.into_inner()).await?;
        let mut plan = answer.into_inner();
        plan.plan_toml.push_str(LATER);
        Ok(Response::new(plan))
    }

    async fn submit_update(
        &self,
        request: Request<SubmitUpdateRequest>,
    ) -> Result<Response<SubmitUpdateResponse>, Status> {
        let answer = self.real.clone().submit_update(request.into_inner()).await?;
        Ok(Response::new(answer.into_inner()))
    }
}
