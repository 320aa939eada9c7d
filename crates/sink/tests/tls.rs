//! The sink's encryption, seen by a client that verifies it.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use sink::{Sink, TlsMode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

fn connector(sink: &Sink) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let authority = sink.identity().unwrap().authority().clone();
    roots.add(authority).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// Writes `flight` and reads until `end` has come.
async fn say(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    flight: &str,
    end: &str,
) -> String {
    stream.write_all(flight.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0, "{read:?}");
    }
    String::from_utf8(read).unwrap()
}

const MAIL: &str = "MAIL FROM:<>\r\nRCPT TO:<b@b.example>\r\nBDAT 6 LAST\r\nA: b\r\n";

#[tokio::test]
async fn starttls_encrypts_and_starts_anew() {
    let sink = Sink::builder()
        .tls(TlsMode::StartTls)
        .user("u", "p")
        .keep_records()
        .start()
        .await
        .unwrap();
    let mut socket = TcpStream::connect(sink.addr()).await.unwrap();
    let ehlo = say(&mut socket, "EHLO me\r\n", "LIMITS RCPTMAX=1000\r\n").await;
    assert!(
        ehlo.contains("STARTTLS") && !ehlo.contains("AUTH"),
        "{ehlo}"
    );
    say(
        &mut socket,
        "STARTTLS\r\n",
        "220 2.0.0 Ready to start TLS\r\n",
    )
    .await;

    let name = "localhost".try_into().unwrap();
    let mut tls = connector(&sink).connect(name, socket).await.unwrap();
    let ehlo = say(&mut tls, "EHLO me\r\n", "LIMITS RCPTMAX=1000\r\n").await;
    assert!(
        !ehlo.contains("STARTTLS") && ehlo.contains("AUTH PLAIN LOGIN"),
        "{ehlo}"
    );
    say(
        &mut tls,
        "AUTH PLAIN AHUAcA==\r\n",
        "235 2.7.0 Authentication successful\r\n",
    )
    .await;
    say(&mut tls, MAIL, "250 2.0.0 Ok\r\n").await;
    let records = sink.records();
    assert!(records[0].tls);
    assert_eq!(records[0].user.as_deref(), Some("u"));
}

#[tokio::test]
async fn implicit_tls_serves_over_a_link_and_resumes() {
    let sink = Sink::builder()
        .tls(TlsMode::Implicit)
        .rtt(std::time::Duration::from_millis(1))
        .start()
        .await
        .unwrap();
    let connector = connector(&sink);
    for kind in [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed] {
        let socket = TcpStream::connect(sink.addr()).await.unwrap();
        let name = "127.0.0.1".try_into().unwrap();
        let mut tls = connector.connect(name, socket).await.unwrap();
        say(&mut tls, "EHLO me\r\n", "LIMITS RCPTMAX=1000\r\n").await;
        say(&mut tls, MAIL, "250 2.0.0 Ok\r\n").await;
        assert_eq!(tls.get_ref().1.handshake_kind(), Some(kind));
    }
    assert_eq!(sink.shutdown().await.messages, 2);
}
