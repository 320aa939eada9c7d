//! STARTTLS and TLS from the start, and certificates that change.

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;

/// A certificate of its own making, and the same as a root.
fn identity() -> (Identity, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem = made.cert.pem();
    let key = made.signing_key.serialize_pem();
    let identity = Identity::from_pem(pem.as_bytes(), key.as_bytes()).unwrap();
    (identity, made.cert.der().clone())
}

async fn encrypt(
    socket: TcpStream,
    root: &CertificateDer<'static>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await
}

fn open_tls(identity: &Identity, rules: Rules, auth_in_clear: bool) -> (Edge<Fake>, Fake) {
    let fake = Fake::default();
    let mut settings = settings();
    settings.auth_in_clear = auth_in_clear;
    let address = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listen = [false, true].map(|implicit_tls| Listen {
        address,
        implicit_tls,
    });
    let access = Access::new(rules);
    let edge = Edge::open(&listen, settings, Some(identity), access, fake.clone());
    (edge.unwrap(), fake)
}

#[tokio::test]
async fn starttls_begins_anew_and_is_told_in_the_trace() {
    let (identity, root) = identity();
    let (edge, fake) = open_tls(&identity, Rules::loopback_only(), false);
    let mut client = Client::ready(&edge).await;
    assert_eq!(client.say("STARTTLS\r\n", 1).await, [220]);
    let stream = encrypt(client.stream, &root).await.unwrap();
    let mut client = Client {
        stream,
        read: Vec::new(),
    };
    assert_eq!(client.say("MAIL FROM:<>\r\n", 1).await, [503]);
    assert_eq!(client.say("EHLO x\r\n", 1).await, [250]);
    assert_eq!(client.say(MESSAGE, 4).await, [250, 250, 354, 250]);
    assert!(fake.content(0).contains(" with ESMTPS id "));
    assert_eq!(edge.watcher().snapshot().handshakes, 1);
}

#[tokio::test]
async fn what_stands_behind_starttls_is_never_obeyed() {
    let (identity, _) = identity();
    let (edge, fake) = open_tls(&identity, Rules::loopback_only(), false);
    let mut client = Client::ready(&edge).await;
    client
        .write(&format!("STARTTLS\r\nEHLO x\r\n{MESSAGE}"))
        .await;
    assert_eq!(client.codes(9).await, [554]);
    assert_eq!(fake.begun(), 0);
}

#[tokio::test]
async fn tls_from_the_start_works_and_a_failed_handshake_is_counted() {
    let (identity, root) = identity();
    let (edge, fake) = open_tls(&identity, Rules::loopback_only(), false);
    let socket = TcpStream::connect(edge.addresses()[1]).await.unwrap();
    let stream = encrypt(socket, &root).await.unwrap();
    let mut client = Client {
        stream,
        read: Vec::new(),
    };
    assert_eq!(client.codes(1).await, [220]);
    assert_eq!(client.say("EHLO x\r\n", 1).await, [250]);
    assert_eq!(client.say(MESSAGE, 4).await, [250, 250, 354, 250]);
    assert_eq!(fake.begun(), 1);
    let mut socket = TcpStream::connect(edge.addresses()[1]).await.unwrap();
    socket.write_all(b"EHLO in clear\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest).await;
    assert!(!rest.starts_with(b"220"));
    assert_eq!(edge.watcher().snapshot().handshakes_failed, 1);
    let silent = TcpStream::connect(edge.addresses()[1]).await.unwrap();
    while edge.watcher().snapshot().connections < 3 {
        tokio::task::yield_now().await;
    }
    edge.pass(Duration::from_secs(31));
    while edge.watcher().snapshot().handshakes_failed < 2 {
        tokio::task::yield_now().await;
    }
    drop(silent);
}

#[tokio::test]
async fn a_new_certificate_leaves_open_connections_alone() {
    let ((first, first_root), (second, second_root)) = (identity(), identity());
    let (edge, _) = open_tls(&first, Rules::loopback_only(), false);
    let socket = TcpStream::connect(edge.addresses()[1]).await.unwrap();
    let stream = encrypt(socket, &first_root).await.unwrap();
    let mut client = Client {
        stream,
        read: Vec::new(),
    };
    edge.reload(settings(), Some(&second));
    assert_eq!(client.codes(1).await, [220]);
    assert_eq!(client.say("NOOP\r\n", 1).await, [250]);
    let socket = TcpStream::connect(edge.addresses()[1]).await.unwrap();
    assert!(encrypt(socket, &first_root).await.is_err());
    let socket = TcpStream::connect(edge.addresses()[1]).await.unwrap();
    assert!(encrypt(socket, &second_root).await.is_ok());
}

#[test]
fn what_is_no_identity_is_refused() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (pem, key) = (made.cert.pem(), other.signing_key.serialize_pem());
    let refused =
        |chain: &str, key: &str| Identity::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err();
    assert!(matches!(refused("", &key), IdentityError::Empty));
    assert!(matches!(refused(&pem, ""), IdentityError::Pem(_)));
    assert!(matches!(refused(&pem, &key), IdentityError::Use(_)));
}
