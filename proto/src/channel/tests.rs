//! Addresses, distrust, what libraries say of limits, and connections on which nothing comes any more.

use http::StatusCode;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::codec::Streaming;
use tonic::transport::Server;
use tonic_prost::ProstDecoder;

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

/// What is told of an answer with this number of HTTP and this body.
async fn told_of(code: StatusCode, body: &str) -> String {
    let (decoder, body) = (ProstDecoder::<v1::DownloadResponse>::default(), body.to_owned());
    let longest = Some(limits::MESSAGE_BYTES_MAX);
    let mut answer = Streaming::new_response(decoder, body, code, None, longest);
    told(&answer.message().await.unwrap_err())
}

#[tokio::test]
async fn a_limit_that_http2_or_grpc_tells_by_a_number_is_told_by_its_name() {
    let unread = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    let said = told_of(unread, "").await;
    assert!(said.contains("65536 bytes or more (HTTP2_HEADER_LIST_BYTES_HARD_MAX)"), "{said}");
    // A message of one byte more than 4 MiB begins, whose length stands before it.
    let said = told_of(StatusCode::OK, "\0\0@\0\u{1}").await;
    assert!(said.contains("found 4194305 bytes"), "{said}");
    assert!(said.contains("the limit is: 4194304 bytes (MESSAGE_BYTES_MAX)"), "{said}");
    // Any other number, and a limit of somebody else's, stay what they are.
    let said = told_of(StatusCode::BAD_GATEWAY, "").await;
    assert!(said.contains("502"), "{said}");
    let other = "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes";
    assert_eq!(told(&Status::out_of_range(other)), other);
}

#[tokio::test]
async fn a_handshake_that_ends_without_a_word_is_told_with_every_limit_that_may_be_the_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream);
        }
    });
    let address = Address { host: "127.0.0.1".into(), port };
    let refused = join_by(&Route::default(), &address, Pin([7; 32])).await.unwrap_err().to_string();
    for limit in ["HANDSHAKES_MAX", "CONNECTIONS_MAX", "HANDSHAKE_TIMEOUT"] {
        assert!(refused.contains(limit), "{limit}: {refused}");
    }
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
