//! Who gets in: nobody without a good certificate, nobody into a call that is not theirs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration as StdDuration;

use fedpaint_coordinator::clock::{Clock, ManualClock, SystemClock};
use fedpaint_proto::channel;
use fedpaint_proto::reason::Reason;
use fedpaint_proto::tls::TlsFiles;
use fedpaint_proto::v1::{
    BlobRef, DownloadRequest, EnrollSiteRequest, GetStatusRequest, GetUploadStatusRequest,
    InitialModel, ListRunsRequest, RevokeSiteRequest, UploadPurpose, upload_purpose,
};
use rcgen::ExtendedKeyUsagePurpose;
use rustls::pki_types::ServerName;
use time::Duration;
use tonic::{Code, Status};

use crate::federation::{Client, Federation};
use crate::pki::{Authority, Leaf};

const SITE: &str = "spiffe://brain/site/mayo";

/// Asserts that nobody who holds `files` gets as far as an answer to a call of either role.
async fn gets_in_nowhere(federation: &Federation, files: &TlsFiles, who: &str) {
    // The client's handshake ends before the server has judged the certificate, so that the refusal
    // may come with the connection or with the first call.
    let Ok(mut client) = federation.connect(files).await else { return };
    let beat = client.beat().await.unwrap_err();
    let list = client.admin.list_runs(ListRunsRequest {}).await.unwrap_err();
    for status in [beat, list] {
        assert_eq!(Reason::of(&status), None, "{who} was answered: {status:?}");
        let broken = [Code::Unavailable, Code::Unknown, Code::Internal, Code::Cancelled];
        assert!(broken.contains(&status.code()), "{who}: {status:?}");
    }
}

fn reason<T: std::fmt::Debug>(answer: Result<T, Status>) -> Option<Reason> {
    Reason::of(&answer.unwrap_err())
}

#[tokio::test]
async fn a_certificate_that_is_foreign_expired_or_malformed_gets_in_nowhere() {
    let federation = Federation::start().await;
    federation.site("mayo").await;
    let own = &federation.authority;
    let foreign = Authority::new();
    let good = Leaf::client(SITE);
    let expired = Leaf { holds: Duration::hours(-1), ..good.clone() };
    let server = Leaf { usage: ExtendedKeyUsagePurpose::ServerAuth, ..good.clone() };
    let nameless = Leaf { uris: vec![], ..good.clone() };
    let double = Leaf { uris: vec![SITE, "spiffe://brain/operator/ada"], ..good.clone() };
    let twice = Leaf { uris: vec![SITE, SITE], ..good.clone() };
    for (who, authority, leaf) in [
        ("a foreign CA", &foreign, &good),
        ("an expired certificate", own, &expired),
        ("a certificate for servers", own, &server),
        ("a certificate without a URI", own, &nameless),
        ("a certificate with two URIs", own, &double),
        ("a certificate with one URI twice", own, &twice),
        ("a certificate of another federation", own, &Leaf::client("spiffe://heart/site/mayo")),
        ("a certificate of no role", own, &Leaf::client("spiffe://brain/admin/ada")),
        ("a certificate of no scheme of ours", own, &Leaf::client("https://brain/site/mayo")),
    ] {
        let files = federation.certificate(authority, leaf);
        gets_in_nowhere(&federation, &files, who).await;
    }
    // The same steps with a good certificate do get in.
    let files = federation.certificate(own, &good);
    federation.connect(&files).await.unwrap().beat().await.unwrap();
    federation.stop().await;
}

#[tokio::test]
async fn a_certificate_of_a_role_may_not_call_the_other_roles_methods() {
    let federation = Federation::start().await;
    let mut site = federation.site("mayo").await;
    let mut operator = federation.operator().await;
    let status = site.admin.get_status(GetStatusRequest {}).await;
    assert_eq!(reason(status), Some(Reason::WrongRole));
    assert_eq!(reason(operator.beat().await), Some(Reason::WrongRole));
    // Even with the right usage, a coordinator's name opens nothing.
    let mut coordinator = federation.client("spiffe://brain/coordinator/main").await;
    assert_eq!(reason(coordinator.beat().await), Some(Reason::WrongRole));
    let status = coordinator.admin.get_status(GetStatusRequest {}).await;
    assert_eq!(reason(status), Some(Reason::WrongRole));
    federation.stop().await;
}

/// The reasons with which a site's calls of both services are refused.
async fn refusals(client: &mut Client) -> [Option<Reason>; 3] {
    let blob = BlobRef { digest: vec![1; 32], size: 10 };
    let model = upload_purpose::Purpose::InitialModel(InitialModel {});
    let purpose = Some(UploadPurpose { purpose: Some(model) });
    let upload = GetUploadStatusRequest { purpose, blob: Some(blob.clone()) };
    let download = DownloadRequest { digest: blob.digest, offset: 0 };
    [
        reason(client.beat().await),
        reason(client.blobs.get_upload_status(upload).await),
        reason(client.blobs.download(download).await),
    ]
}

#[tokio::test]
async fn a_site_that_is_not_enrolled_may_call_nothing() {
    let federation = Federation::start().await;
    let mut stranger = federation.client("spiffe://brain/site/stranger").await;
    assert_eq!(refusals(&mut stranger).await, [Some(Reason::NotEnrolled); 3]);
    federation.stop().await;
}

/// Who is told in the handshake that its certificate was revoked.
fn told_revoked(error: &(dyn std::error::Error + 'static)) -> bool {
    channel::distrust(error).is_some_and(|why| why.contains("CertificateRevoked"))
}

#[tokio::test]
async fn a_site_that_was_revoked_loses_its_connections_and_gets_none_until_it_is_let_in_again() {
    let federation = Federation::start().await;
    let files = federation.certificate(&federation.authority, &Leaf::client(SITE));
    let mut mayo = federation.site("mayo").await;
    mayo.beat().await.unwrap();
    let mut operator = federation.operator().await;
    let revoke = RevokeSiteRequest { name: "mayo".into(), seen: None };
    let revoked = operator.admin.revoke_site(revoke).await;
    let revoked_at = revoked.unwrap().into_inner().site.unwrap().revoked_at;
    // The connection that was open before is cut, and the channel finds no way back.
    let status = mayo.beat().await.unwrap_err();
    assert_eq!(Reason::of(&status), None, "{status:?}");
    let status = mayo.beat().await.unwrap_err();
    assert!(told_revoked(&status), "{status:?}");
    // Nor does another certificate of the same name.
    let refused = federation.connect(&files).await.unwrap_err();
    assert!(
        matches!(&refused, channel::Error::Untrusted { reason, .. } if reason.contains("Revoked")),
        "{refused}"
    );
    // A call from before the revocation, which comes only now.
    let late = EnrollSiteRequest { name: "mayo".into(), revoked_at: None };
    let status = operator.admin.enroll_site(late).await.unwrap_err();
    assert_eq!(Reason::of(&status), Some(Reason::Revoked));
    let again = EnrollSiteRequest { name: "mayo".into(), revoked_at };
    operator.admin.enroll_site(again).await.unwrap();
    federation.connect(&files).await.unwrap().beat().await.unwrap();
    federation.stop().await;
}

#[tokio::test]
async fn a_connection_ends_when_its_certificate_does() {
    let clock = ManualClock::new(SystemClock.now());
    let federation = Federation::start_at(Arc::new(clock.clone())).await;
    let mut site = federation.site("mayo").await;
    site.beat().await.unwrap();
    clock.advance(StdDuration::from_secs((4 * 24 + 23) * 3600));
    site.beat().await.unwrap();
    clock.advance(StdDuration::from_secs(2 * 3600));
    let status = site.beat().await.unwrap_err();
    assert_eq!(Reason::of(&status), None, "{status:?}");
    federation.stop().await;
}

#[tokio::test]
async fn a_client_without_a_certificate_gets_in_nowhere() {
    let federation = Federation::start().await;
    let files = federation.certificate(&federation.authority, &Leaf::client(SITE));
    let address = federation.address;
    let refused = tokio::task::spawn_blocking(move || {
        let mut roots = rustls::RootCertStore::empty();
        let pem = std::fs::read(&files.ca).unwrap();
        let root = rustls::pki_types::pem::PemObject::from_pem_slice(&pem).unwrap();
        roots.add(root).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::from(address.ip());
        let mut session = rustls::ClientConnection::new(config.into(), name).unwrap();
        let mut tcp = TcpStream::connect(address).unwrap();
        rustls::Stream::new(&mut session, &mut tcp).read(&mut [0; 64]).unwrap_err().to_string()
    });
    let refused = refused.await.unwrap();
    assert!(refused.contains("CertificateRequired"), "{refused}");
    federation.stop().await;
}

#[tokio::test]
async fn keys_are_exchanged_so_that_no_quantum_computer_of_later_reads_them() {
    let federation = Federation::start().await;
    let files = federation.certificate(&federation.authority, &Leaf::client(SITE));
    let address = federation.address;
    let group = tokio::task::spawn_blocking(move || {
        let (config, name) = (files.client().unwrap(), ServerName::from(address.ip()));
        let mut session = rustls::ClientConnection::new(config, name).unwrap();
        let mut tcp = TcpStream::connect(address).unwrap();
        session.complete_io(&mut tcp).unwrap();
        session.negotiated_key_exchange_group().unwrap().name()
    });
    assert_eq!(group.await.unwrap(), rustls::NamedGroup::X25519MLKEM768);
    federation.stop().await;
}

#[tokio::test]
async fn tls_1_2_is_refused_with_the_alert_for_it() {
    // A ClientHello of TLS 1.2: the version, a random and an empty session; one cipher suite; no
    // compression; and two extensions, the signatures and the groups that it knows.
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2f, 1, 0, 0, 16]);
    hello.extend([0, 13, 0, 4, 0, 2, 4, 3]);
    hello.extend([0, 10, 0, 4, 0, 2, 0, 29]);
    let length = u8::try_from(hello.len()).unwrap();
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    let federation = Federation::start().await;
    let address = federation.address;
    let answer = tokio::task::spawn_blocking(move || {
        let mut tcp = TcpStream::connect(address).unwrap();
        tcp.set_read_timeout(Some(StdDuration::from_secs(20))).unwrap();
        tcp.write_all(&record).unwrap();
        let mut answer = Vec::new();
        tcp.read_to_end(&mut answer).unwrap();
        answer
    });
    // A fatal alert: protocol_version.
    assert_eq!(answer.await.unwrap(), [21, 3, 3, 0, 2, 2, 70]);
    federation.stop().await;
}

/// The text of `/metrics`.
pub(crate) async fn metrics(federation: &Federation) -> String {
    get(federation, "/metrics").await
}

async fn get(federation: &Federation, path: &'static str) -> String {
    let address = federation.status_address;
    let answer = tokio::task::spawn_blocking(move || {
        let mut tcp = TcpStream::connect(address).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        tcp.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).unwrap();
        answer
    });
    answer.await.unwrap()
}

#[tokio::test]
async fn the_status_pages_say_that_the_coordinator_lives_and_what_it_counts() {
    let federation = Federation::start().await;
    federation.site("mayo").await.beat().await.unwrap();
    let health = get(&federation, "/healthz").await;
    assert!(health.starts_with("HTTP/1.1 200") && health.ends_with("ok\n"), "{health}");
    let metrics = metrics(&federation).await;
    for line in ["fedpaint_heartbeats_total 1", "fedpaint_sites_enrolled 1", "{site=\"mayo\"}"] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert!(get(&federation, "/").await.starts_with("HTTP/1.1 404"));
    federation.stop().await;
}
