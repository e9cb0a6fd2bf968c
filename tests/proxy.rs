//! The way to the coordinator through a proxy, and what is told where it does not work.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fedpaint_proto::channel::{self, Route};
use fedpaint_proto::tls::TlsFiles;
use fedpaint_proto::v1;
use fedpaint_proto::v1::admin_service_client::AdminServiceClient;
use fedpaint_tests::lab::{FEDERATION, Lab};
use fedpaint_tests::process::run;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A small HTTP proxy that wants ada's password; counts the tunnels that it opened.
async fn proxy() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = listener.local_addr().unwrap().to_string();
    let tunnels = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tunnels);
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(serve(near, Arc::clone(&count)));
        }
    });
    (place, tunnels)
}

async fn serve(near: TcpStream, tunnels: Arc<AtomicUsize>) {
    let mut near = BufReader::new(near);
    let (mut head, mut line) = (String::new(), String::new());
    while line != "\r\n" {
        line.clear();
        near.read_line(&mut line).await.unwrap();
        head += &line;
    }
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap();
    // ada:secret
    if !head.contains("Proxy-Authorization: Basic YWRhOnNlY3JldA==\r\n") {
        let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
        return near.write_all(refusal.as_bytes()).await.unwrap();
    }
    // The name is the proxy's to resolve: it alone knows where this one is.
    let far = target.replace("localhost", "127.0.0.1");
    let Ok(mut far) = TcpStream::connect(far).await else {
        return near.write_all(b"HTTP/1.1 502 No such host\r\n\r\n").await.unwrap();
    };
    tunnels.fetch_add(1, Ordering::Relaxed);
    near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
}

async fn connect(
    lab: &Lab,
    tls: &TlsFiles,
    proxy: &str,
    host: &str,
) -> Result<tonic::transport::Channel, channel::Error> {
    let route = Route { proxy: Some(proxy.parse().unwrap()), ..Route::default() };
    let address = lab.address().replace("127.0.0.1", host).parse().unwrap();
    let federation = FEDERATION.parse().unwrap();
    channel::connect_by(&route, &address, &federation, tls.client().unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_coordinator_is_reached_through_a_proxy_that_wants_a_password() {
    let folder = tempfile::tempdir().unwrap();
    let lab = Lab::start(folder.path()).unwrap();
    let (place, tunnels) = proxy().await;
    let tls = lab.tls("ada");
    let good = format!("http://ada:secret@{place}");
    let connected = connect(&lab, &tls, &good, "localhost").await.unwrap();
    let answer = AdminServiceClient::new(connected).list_runs(v1::ListRunsRequest::default()).await;
    assert!(answer.unwrap().into_inner().runs.is_empty());
    assert_eq!(tunnels.load(Ordering::Relaxed), 1);

    lab.fedctl(&["--proxy", &good, "run", "list"]).unwrap();
    assert_eq!(tunnels.load(Ordering::Relaxed), 2);
    let refused = lab.fedctl(&["--proxy", &place, "run", "list"]).unwrap_err().to_string();
    assert!(refused.contains("407 Proxy Authentication Required"), "{refused}");

    let refused = connect(&lab, &tls, &good, "nowhere.invalid").await.unwrap_err().to_string();
    assert!(refused.contains("502 No such host"), "{refused}");
    assert!(!refused.contains("secret") && refused.contains(&place), "{refused}");
}

/// The files of somebody under another root, to whom the coordinator is a stranger.
fn strangers(folder: &Path, lab: &Lab) -> TlsFiles {
    let [ca, out] = ["other-ca", "other"].map(|name| folder.join(name).display().to_string());
    run("fedctl", &["ca", "init", "--federation", "other", "--out", &ca]).unwrap();
    run("fedctl", &["ca", "issue", "operator", "eve", "--ca", &ca, "--out", &out]).unwrap();
    TlsFiles { ca: folder.join("other/ca.pem"), ..lab.tls("ada") }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_opens_tls_on_the_way_is_told_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let lab = Lab::start(&folder.path().join("lab")).unwrap();
    let (place, _) = proxy().await;
    let tls = strangers(folder.path(), &lab);
    let proxy = format!("http://ada:secret@{place}");
    let refused = connect(&lab, &tls, &proxy, "127.0.0.1").await.unwrap_err();
    assert!(matches!(refused, channel::Error::Untrusted { .. }), "{refused}");
    let refused = refused.to_string();
    assert!(refused.contains("issued by") && refused.contains(FEDERATION), "{refused}");
}
