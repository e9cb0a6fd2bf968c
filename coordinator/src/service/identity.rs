//! A member's next certificate.

use fedpaint_proto::v1::identity_service_server::IdentityService;
use fedpaint_proto::v1::{RenewRequest, RenewResponse};
use fedpaint_proto::wire::timestamp;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use crate::ca::PublicKey;
use crate::driver::Renewal;
use crate::service::access::Caller;
use crate::service::enrolment::no_issuer;
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
        let RenewRequest { csr, signing_certificate } = request.get_ref();
        let key = PublicKey::of_request(csr).map_err(parse::invalid)?;
        let now = self.parts.clock.now();
        let holder = caller.role();
        let life = issuer.life(&holder, now);
        let renewal = Renewal { holder: holder.clone(), held: caller.key, next: key.id(), life };
        let until = self.parts.driver.renew(renewal).await.map_err(status::of_driver)?;
        let certified = issuer.certify(&holder, &key, (now, until));
        let certificate_pem = certified.map_err(|error| status::of_issuer(&error))?;
        let mut signing_certificate_pem = String::new();
        if !signing_certificate.is_empty() {
            match self.parts.driver.signs_with(&holder, signing_certificate) {
                Ok(key) => {
                    let certified = issuer.certify_signing(&holder, &key, now);
                    signing_certificate_pem =
                        certified.map_err(|error| status::of_issuer(&error))?;
                }
                // The one for TLS is good without it.
                Err(error) => warn!(%caller, %error, "no signing certificate is renewed"),
            }
        }
        info!(%caller, %until, "a certificate is renewed");
        let not_after = Some(timestamp(until));
        Ok(Response::new(RenewResponse { certificate_pem, not_after, signing_certificate_pem }))
    }
}
