//! A member's next certificate.

use fedpaint_proto::v1::identity_service_server::IdentityService;
use fedpaint_proto::v1::{RenewRequest, RenewResponse};
use tonic::{Request, Response, Status};
use tracing::info;

use crate::ca::PublicKey;
use crate::driver::Renewal;
use crate::service::access::Caller;
use crate::service::enrolment::no_issuer;
use crate::service::wire::timestamp;
use crate::service::{Parts, parse, status};

/// Certificates, as a member sees them.
pub(crate) struct Service {
    /// What the service is made from.
    pub(crate) parts: Parts,
}

#[tonic::async_trait]
impl IdentityService for Service {
    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let credentials = self.parts.credentials.borrow().clone();
        let issuer = credentials.issuer.as_ref().ok_or_else(no_issuer)?;
        let key = PublicKey::of_request(&request.get_ref().csr).map_err(parse::invalid)?;
        let now = self.parts.clock.now();
        let holder = caller.role();
        let life = issuer.life(&holder, now);
        let renewal = Renewal { holder: holder.clone(), held: caller.key, next: key.id(), life };
        let until = self.parts.driver.renew(renewal).await.map_err(status::of_driver)?;
        let certified = issuer.certify(&holder, &key, (now, until));
        let certificate_pem = certified.map_err(|error| status::of_issuer(&error))?;
        info!(%caller, %until, "a certificate is renewed");
        Ok(Response::new(RenewResponse { certificate_pem, not_after: Some(timestamp(until)) }))
    }
}
