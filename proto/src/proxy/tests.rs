//! Proxies as they are written, as environments name them, and as they answer.

use std::collections::HashMap;

use super::*;

fn address() -> Address {
    "https://fed.example.org:8443".parse().unwrap()
}

#[test]
fn a_proxy_is_parsed_and_its_password_never_shown() {
    let proxy: Proxy = "http://ada:s%40cret@proxy.example.org:3128/".parse().unwrap();
    assert_eq!((proxy.host.as_str(), proxy.port), ("proxy.example.org", 3128));
    assert_eq!(proxy.credentials.as_deref(), Some("YWRhOnNAY3JldA=="));
    assert_eq!(proxy.to_string(), "http://proxy.example.org:3128");
    assert!(!format!("{proxy:?}").contains("YWRh"));
    assert_eq!("proxy:80".parse::<Proxy>().unwrap().credentials, None);
    assert_eq!("http://[::1]:80".parse::<Proxy>().unwrap().to_string(), "http://[::1]:80");
    for bad in ["", "proxy", "https://p:1", "socks5://p:1", "http://:80", "p:0", "p:x", "a b:1"] {
        assert!(bad.parse::<Proxy>().is_err(), "{bad:?}");
    }
    assert!("http://u%4:x@p:1".parse::<Proxy>().is_err());
}

fn found(variables: &[(&str, &str)]) -> Result<Option<String>, BadVariable> {
    let variables: HashMap<&str, &str> = variables.iter().copied().collect();
    let look_up = |name: &str| variables.get(name).map(|value| (*value).to_owned());
    Ok(of_environment(&address(), look_up)?.map(|proxy| proxy.to_string()))
}

#[test]
fn the_environment_names_a_proxy_and_its_exceptions() {
    let some = Ok(Some("http://p:1".to_owned()));
    assert_eq!(found(&[]), Ok(None));
    assert_eq!(found(&[("HTTP_PROXY", "http://p:1")]), Ok(None));
    for name in ["HTTPS_PROXY", "https_proxy"] {
        assert_eq!(found(&[(name, "http://p:1")]), some);
        assert_eq!(found(&[(name, "p:1")]), some);
    }
    assert_eq!(found(&[("HTTPS_PROXY", "")]), Ok(None));
    for (exceptions, excepted) in [
        ("localhost, 127.0.0.1", false),
        ("example.org", true),
        (".example.org", true),
        ("FED.example.org", true),
        ("fed.example.org:8443", true),
        ("fed.example.org:1", false),
        ("ample.org", false),
        ("*", true),
        (",", false),
    ] {
        for name in ["NO_PROXY", "no_proxy"] {
            let answer = found(&[("HTTPS_PROXY", "http://p:1"), (name, exceptions)]);
            assert_eq!(answer, if excepted { Ok(None) } else { some.clone() }, "{exceptions}");
        }
    }
    let bad = found(&[("HTTPS_PROXY", "socks5://p:1")]).unwrap_err().to_string();
    assert!(bad.contains("HTTPS_PROXY") && !bad.contains("socks5"), "{bad}");
}

/// What is asked of a proxy that answers so, and how it ends.
async fn asked(answer: &str) -> (String, io::Result<()>) {
    let proxy = "http://ada:secret@proxy:3128".parse().unwrap();
    let (mut ours, mut theirs) = tokio::io::duplex(1 << 16);
    let answer = answer.to_owned();
    let other_end = tokio::spawn(async move {
        let mut request = vec![0; 4096];
        let bytes = theirs.read(&mut request).await.unwrap();
        theirs.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(request[..bytes].to_vec()).unwrap()
    });
    let done = ask(&mut ours, &proxy, &address()).await;
    (other_end.await.unwrap(), done)
}

#[tokio::test]
async fn a_tunnel_is_asked_for_by_the_coordinators_name_with_the_password() {
    let (request, done) = asked("HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n").await;
    done.unwrap();
    assert!(request.starts_with("CONNECT fed.example.org:8443 HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nHost: fed.example.org:8443\r\n"), "{request}");
    assert!(request.contains("\r\nProxy-Authorization: Basic YWRhOnNlY3JldA==\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\n"), "{request}");
}

#[tokio::test]
async fn a_refusal_is_told_in_the_proxys_own_words() {
    let (_, done) = asked("HTTP/1.1 403 Forbidden by policy\r\n\r\n").await;
    let text = done.unwrap_err().to_string();
    assert!(
        text.contains("403 Forbidden by policy") && text.contains("http://proxy:3128"),
        "{text}"
    );
    let (_, done) = asked("HTTP/1.0 407 Proxy Authentication Required\r\n\r\n").await;
    let text = done.unwrap_err().to_string();
    assert!(text.contains("407") && text.contains("user:password"), "{text}");
    assert!(!text.contains("secret"), "{text}");
    for strange in ["SSH-2.0-x\r\n\r\n", "\r\n\r\n"] {
        let text = asked(strange).await.1.unwrap_err().to_string();
        assert!(text.contains("does not answer as an HTTP proxy"), "{text}");
    }
    assert!(asked("HTTP/1.1 200 OK\r\n").await.1.is_err(), "the head does not end");
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(ANSWER_BYTES_MAX));
    assert!(asked(&endless).await.1.is_err());
}
