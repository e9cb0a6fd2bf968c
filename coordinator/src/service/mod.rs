//! The services: wire to driver and blobs, and back. Whatever is decided is decided elsewhere.

pub(crate) mod access;
mod admin;
mod blob;
pub(crate) mod bounds;
mod enrolment;
mod federation;
mod hold;
mod identity;
mod pace;
mod page;
mod parse;
mod reader;
mod status;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use fedpaint_proto::enrolment::JOIN_BYTES_MAX;
use fedpaint_proto::limits::MESSAGE_BYTES_MAX;
use fedpaint_proto::names::FederationName;
use fedpaint_proto::reason::Reason;
use fedpaint_proto::v1::admin_service_server::AdminServiceServer;
use fedpaint_proto::v1::blob_service_server::BlobServiceServer;
use fedpaint_proto::v1::enrolment_service_server::EnrolmentServiceServer;
use fedpaint_proto::v1::federation_service_server::FederationServiceServer;
use fedpaint_proto::v1::identity_service_server::IdentityServiceServer;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Routes;

use crate::blobs::Blobs;
use crate::clock::Clock;
use crate::credentials::Credentials;
use crate::driver::Handle;
use crate::metrics::Metrics;
use crate::roster::TwoPersons;
use crate::slots::Slots;

/// How long a reader may take to hear why its stream ends.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(2);

/// What the services are made from.
#[derive(Clone)]
pub(crate) struct Parts {
    /// The certificates and the authority as they are now.
    pub(crate) credentials: watch::Receiver<Arc<Credentials>>,
    /// What takes two persons.
    pub(crate) rules: TwoPersons,
    /// Tells the time.
    pub(crate) clock: Arc<dyn Clock>,
    /// Whose coordinator this is.
    pub(crate) federation: FederationName,
    /// Decides everything that changes a run.
    pub(crate) driver: Handle,
    /// Holds the models and updates.
    pub(crate) blobs: Blobs,
    /// Who may upload now.
    pub(crate) slots: Slots,
    /// Counts.
    pub(crate) metrics: Metrics,
    /// Cancelled when the server stops: streams end, transfers are broken off to be resumed.
    pub(crate) stop: CancellationToken,
}

/// Every service, behind its path.
pub(crate) fn routes(parts: &Parts) -> Routes {
    let federation = federation::Service { parts: parts.clone() };
    let blob = blob::Service { parts: parts.clone() };
    let admin = admin::Service { parts: parts.clone() };
    let identity = identity::Service { parts: parts.clone() };
    let join = enrolment::Service { parts: parts.clone(), pace: Arc::default() };
    let max = MESSAGE_BYTES_MAX;
    Routes::new(FederationServiceServer::new(federation).max_decoding_message_size(max))
        .add_service(BlobServiceServer::new(blob).max_decoding_message_size(max))
        .add_service(AdminServiceServer::new(admin).max_decoding_message_size(max))
        .add_service(IdentityServiceServer::new(identity).max_decoding_message_size(JOIN_BYTES_MAX))
        .add_service(EnrolmentServiceServer::new(join).max_decoding_message_size(JOIN_BYTES_MAX))
}

/// Ends a stream because the server stops: with an error, for a mere end would look as if all had
/// been said.
async fn end_draining<T>(stream: &mpsc::Sender<Result<T, Status>>) {
    let last = stream.send(Err(draining()));
    // The reader may be gone or too slow; either way the stream ends.
    let _ = tokio::time::timeout(LAST_WORD_TIMEOUT, last).await;
}

fn draining() -> Status {
    Reason::Draining.status("the coordinator is about to stop; go on when it is back")
}
