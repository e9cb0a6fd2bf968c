//! Addresses, distrust, and connections on which nothing comes any more.

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::transport::Server;

use super::*;
use crate::v1;
use crate::v1::federation_service_client::FederationServiceClient;

#[test]
fn a_refused_certificate_is_told_from_a_broken_connection() {
    let refused = rustls::Error::AlertReceived(rustls::AlertDescription::UnknownCA);
    assert!(distrust(&std::io::Error::new(std::io::ErrorKind::InvalidData, refused)).is_some());
    let other = NotTheCoordinator(Some("brain".parse().unwrap()));
    assert!(distrust(&std::io::Error::other(other)).is_some());
    assert_eq!(distrust(&std::io::Error::from(std::io::ErrorKind::ConnectionRefused)), None);
    assert_eq!(distrust(&std::io::Error::other("no answer")), None);
}

#[test]
fn a_failed_call_says_the_coordinators_words_or_what_lies_beneath_a_failure_of_this_end() {
    assert_eq!(told(&Status::internal("no disk")), "no disk");
    let mut broke = Status::unknown("transport error");
    broke.set_source(Arc::new(std::io::Error::other("it closed the connection")));
    assert_eq!(told(&broke), "it closed the connection");
}

#[test]
fn an_address_is_https_with_host_and_port() {
    for good in ["https://fed.example.org:8443", "https://127.0.0.1:1"] {
        assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
    }
    assert_eq!("https://[::1]:7".parse::<Address>().unwrap().host, "::1");
    for bad in ["fed:1", "http://fed:1", "https://fed", "https://fed:1/x", "https://:1", ""] {
        assert!(bad.parse::<Address>().is_err(), "{bad:?}");
    }
}

/// Carries bytes both ways, until it is told to stall: then it keeps every connection and reads none.
async fn carry(listener: TcpListener, to: std::net::SocketAddr, stalled: watch::Receiver<bool>) {
    while let Ok((mut near, _)) = listener.accept().await {
        let mut stalled = stalled.clone();
        tokio::spawn(async move {
            let mut far = TcpStream::connect(to).await.unwrap();
            let stall = async { stalled.wait_for(|stalled| *stalled).await.map(drop) };
            let is_stalled = tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => false,
                _ = stall => true,
            };
            if is_stalled {
                std::future::pending::<()>().await;
            }
        });
    }
}

#[tokio::test]
async fn a_connection_on_which_nothing_comes_any_more_is_found_by_asking() {
    let listen = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (server, between) = (listen().await, listen().await);
    let (to, at) = (server.local_addr().unwrap(), between.local_addr().unwrap());
    let nothing = Server::builder().add_routes(tonic::service::Routes::default());
    tokio::spawn(nothing.serve_with_incoming(TcpListenerStream::new(server)));
    let (stall, stalled) = watch::channel(false);
    tokio::spawn(carry(between, to, stalled));

    let limit = Duration::from_millis(200);
    let route = Route { keepalive_interval: limit, keepalive_timeout: limit, ..Route::default() };
    let address = Address { host: "127.0.0.1".into(), port: at.port() };
    let channel = endpoint(&route, &address).unwrap().connect_lazy();
    let mut client = FederationServiceClient::new(channel);
    let said = client.heartbeat(v1::HeartbeatRequest::default()).await.unwrap_err();
    assert_eq!(said.code(), Code::Unimplemented, "it is there");
    stall.send_replace(true);
    // The call names no limit of its own: without being asked, the other end would be waited for.
    let call = client.heartbeat(v1::HeartbeatRequest::default());
    let said = tokio::time::timeout(Duration::from_secs(20), call).await.unwrap().unwrap_err();
    assert_ne!(said.code(), Code::Unimplemented);
}

#[test]
fn a_dead_connection_is_found_within_fifty_seconds() {
    let Route { keepalive_interval, keepalive_timeout, .. } = Route::default();
    assert!(keepalive_interval + keepalive_timeout <= Duration::from_secs(50));
}
