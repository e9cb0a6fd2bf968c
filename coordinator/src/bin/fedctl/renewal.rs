//! The operator's own certificate, renewed with a fresh key: by any command once a third of its life is over,
//! and by `fedctl renew --now` at any time.
//!
//! A renewal that fails is told on stderr and keeps no command from its work: the old certificate is good
//! until it ends.

use fedpaint_proto::identity::Validity;
use fedpaint_proto::renewal::{self, Error, TlsKey};
use fedpaint_proto::text;
use jiff::Timestamp;

use crate::cli::Connection;
use crate::connect::{Line, open};
use crate::output::Output;
use crate::problem::of_status;
use crate::view::Certificate;

/// Whether the certificate is to be renewed: a third of its life is over. A site's agent, which runs all the
/// time, waits for another third; people are away for days, and have the other two thirds for that.
fn is_due(validity: &Validity, now: Timestamp) -> bool {
    let life = validity.not_after.duration_since(validity.not_before);
    validity.not_before.duration_until(now) >= life / 3
}

/// Renews the certificate if that is due, and says in one line what came of it.
pub(crate) async fn when_due(line: &Line, now: Timestamp) {
    if !is_due(&line.validity, now) {
        return;
    }
    let path = line.tls.certificate.display();
    let told = match renew(line).await {
        Ok(Validity { not_after, .. }) => {
            format!("renewed {path} with a fresh key; it holds until {not_after}")
        }
        Err(error) => format!(
            "warning: {path} ends on {} and cannot be renewed: {error:#}; ask for another one in time \
             (`fedctl ca issue operator`)",
            line.validity.not_after
        ),
    };
    eprintln!("{}", text::line(&told, usize::MAX));
}

/// `fedctl renew`: if it is due, or in any case where it is to be done `now`.
pub(crate) async fn run(now: bool, settings: &Connection, output: &Output) -> anyhow::Result<()> {
    let line = open(settings, output.now()).await?;
    let Validity { not_before, not_after } = match now || is_due(&line.validity, output.now()) {
        true => renew(&line).await?,
        false => line.validity,
    };
    let shown = |path: &std::path::Path| path.display().to_string();
    output.show(&Certificate {
        identity: line.identity.to_string(),
        certificate: shown(&line.tls.certificate),
        key: shown(&line.tls.key),
        signing_certificate: None,
        signing_key: None,
        ca: shown(&line.tls.ca),
        not_before,
        not_after,
    })
}

async fn renew(line: &Line) -> anyhow::Result<Validity> {
    let key = TlsKey::fresh()?;
    let renewed = renewal::renew(line.channel.clone(), &line.tls, &key, None).await;
    renewed.map(|renewed| renewed.validity).map_err(|error| match error {
        Error::Refused(status) => of_status(&status),
        error => error.into(),
    })
}
