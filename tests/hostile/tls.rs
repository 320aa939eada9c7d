//! TLS: plaintext slipped in behind STARTTLS's 220, and streams cut in mid-content.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use mailrail::client::{
    Cause, Kind, Pool, PoolBuilder, Relay, Scope, Stage, Timeouts, TlsMode, Wire,
};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::peer::{Conn, Heard, peer, raw_peer};
use crate::{LONG, OFFERS, WIRES, big_content, check, envelope, failure_of, send};

fn required(addr: SocketAddr) -> PoolBuilder {
    let relay = Relay {
        tls: TlsMode::Required,
        ..Relay::plaintext(addr)
    };
    Pool::builder(relay).timeouts(Timeouts::all(LONG))
}

#[tokio::test]
async fn octets_behind_the_220_to_starttls_end_the_connection() {
    for mode in [TlsMode::Required, TlsMode::Opportunistic] {
        let (addr, heard) = peer(|mut conn| {
            conn.serve("250-STARTTLS\r\n", |conn, line| {
                (line == "STARTTLS").then(|| conn.say("220 go\r\n250 injected\r\n"))
            });
        });
        let relay = Relay {
            tls: mode,
            ..Relay::plaintext(addr)
        };
        let failure = failure_of(Pool::builder(relay)).await;
        check(&failure, Stage::StartTls, Scope::Endpoint, Kind::Transient);
        assert!(matches!(failure.cause, Cause::Protocol(_)), "{failure}");
        assert_eq!(heard.count("MAIL"), 0);
    }
}

#[tokio::test]
async fn a_server_that_withholds_starttls_gets_no_mail_where_tls_is_required() {
    let (addr, heard) = peer(|mut conn| {
        conn.serve(OFFERS, |_, _| None);
    });
    let failure = failure_of(required(addr)).await;
    check(&failure, Stage::StartTls, Scope::Endpoint, Kind::Permanent);
    assert_eq!(heard.count("MAIL"), 0);
}

type Encrypted = Conn<StreamOwned<ServerConnection, TcpStream>>;

/// A server that encrypts and then serves by `serve`; and who vouches for it.
fn encrypted_peer(
    serve: impl Fn(&mut Encrypted, &TcpStream) + Send + Sync + 'static,
) -> (SocketAddr, Heard, CertificateDer<'static>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let ip = std::net::Ipv4Addr::LOCALHOST.into();
    params.subject_alt_names.push(rcgen::SanType::IpAddress(ip));
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        );
    let config = Arc::new(config.unwrap());
    let (addr, heard) = raw_peer(move |mut stream, heard| {
        stream.write_all(b"220 hostile.example\r\n").unwrap();
        let mut plain = Conn::new(stream.try_clone().unwrap(), heard.clone());
        plain.hear();
        plain.say("250-hostile.example\r\n250 STARTTLS\r\n");
        plain.hear();
        plain.say("220 go\r\n");
        let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        let socket = stream.try_clone().unwrap();
        serve(
            &mut Conn::new(StreamOwned::new(connection, stream), heard),
            &socket,
        );
    });
    (addr, heard, certificate)
}

/// Everything after the greeting, which TLS has taken the place of.
fn serve_cutting_at(conn: &mut Encrypted, socket: &TcpStream, cut: impl Fn(&mut Encrypted)) {
    while let Some(line) = conn.hear() {
        match line.split(' ').next().unwrap_or_default() {
            "EHLO" => conn.say(format!("250-hostile.example\r\n{OFFERS}250 HELP\r\n")),
            "DATA" => {
                conn.say("354 go\r\n");
                cut(conn);
                let _ = socket.shutdown(Shutdown::Both);
                return;
            }
            "BDAT" => {
                cut(conn);
                let _ = socket.shutdown(Shutdown::Both);
                return;
            }
            _ => conn.say("250 ok\r\n"),
        };
    }
}

#[tokio::test]
async fn tls_cut_in_mid_content_means_not_delivered() {
    for wire in WIRES {
        let (addr, _, certificate) = encrypted_peer(|conn, socket| {
            serve_cutting_at(conn, socket, |conn| {
                conn.take_octets(100_000);
            });
        });
        let pool = required(addr)
            .roots(vec![certificate])
            .wire(wire)
            .build()
            .unwrap();
        let report = pool.send(envelope(), big_content()).await;
        let failure = report.first_failure().expect("a failure");
        check(failure, Stage::Content, Scope::Connection, Kind::Transient);
        assert!(
            matches!(failure.cause, Cause::Closed | Cause::Io(_)),
            "{failure}"
        );
    }
}

#[tokio::test]
async fn tls_cut_before_the_final_reply_means_unknown_and_is_not_sent_again() {
    for wire in [Wire::Lockstep, Wire::Overlapped] {
        let (addr, heard, certificate) = encrypted_peer(|conn, socket| {
            serve_cutting_at(conn, socket, |conn| {
                conn.hear_content();
            });
        });
        let pool = required(addr)
            .roots(vec![certificate])
            .wire(wire)
            .build()
            .unwrap();
        let report = send(&pool).await;
        let failure = report.first_failure().expect("a failure");
        check(failure, Stage::Final, Scope::Connection, Kind::Unknown);
        assert_eq!(heard.count("DATA"), 1);
    }
}
