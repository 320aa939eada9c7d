//! The client's handshake against arbitrary replies: whole lines only, and no password in the clear.

use smtp::Mechanism;
use smtp::client::{Credentials, Handshake, HandshakeConfig, HandshakeError, Mode, StartTls, Step};

use crate::Target;
use crate::bytes::{find, is_one_line, pieces};

pub(crate) const TARGET: Target = Target {
    name: "handshake",
    check,
    examples: &[
        b"\x00\x00220 hello\r\n250-host\r\n250-PIPELINING\r\n250 SIZE 10\r\n",
        b"\x01\x03220 hello\r\n250-host\r\n250 STARTTLS\r\n220 go\r\n",
        b"\x05\x00220 hello\r\n250-host\r\n250 AUTH PLAIN LOGIN\r\n235 ok\r\n",
        b"\x16\x00220 hello\r\n250-host\r\n250 AUTH LOGIN\r\n334 VXNlcm5hbWU6\r\n334 UGFzc3dvcmQ6\r\n235 ok\r\n",
        b"\x1c\x00220 hello\r\n250-host\r\n250 AUTH SCRAM-SHA-256\r\n334 \r\n334 cj14LHM9eCxpPTQwOTY=\r\n235 ok\r\n",
        b"\x04\x00220 hello\r\n502 what\r\n250 host\r\n",
    ],
    words: &[
        "220 go\r\n", "250-", "250 ", "334 ", "235 ", "454 ", "\r\n", "STARTTLS", "AUTH ", "PLAIN", "LOGIN",
        "SCRAM-SHA-256", "XOAUTH2", "cj0=", "cj14LHM9eCxpPTQwOTY=", "LIMITS RCPTMAX=",
    ],
    rounds: 20_000,
};

const PASSWORD: &str = "pencil";

/// The first octet is the configuration, the second how the replies are split.
fn check(input: &[u8]) {
    let Some((&[config, piece_len], bytes)) = input.split_first_chunk::<2>() else {
        return;
    };
    let whole = played(config, [bytes].into_iter());
    let split = played(config, pieces(bytes, &[piece_len]));
    // Whether STARTTLS's 220 has company depends on how it comes.
    if config & 3 == 0 {
        assert_eq!(split, whole);
    }
}

type Outcome = (Vec<u8>, Result<Option<Mode>, HandshakeError>);

fn played<'a>(config: u8, pieces: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let has_credentials = config & 4 != 0;
    let allow_plaintext_auth = config & 16 != 0;
    let mut handshake = Handshake::new(HandshakeConfig {
        name: "client.example".parse().expect("a name"),
        starttls: [
            StartTls::Never,
            StartTls::IfOffered,
            StartTls::Required,
            StartTls::IfOffered,
        ][usize::from(config & 3)],
        is_encrypted: false,
        credentials: has_credentials
            .then(|| Credentials::new("user", PASSWORD).expect("no controls")),
        mechanism: (config & 8 != 0).then(|| Mechanism::ALL[usize::from(config >> 6)]),
        allow_plaintext_auth,
        nonce: [7; 18],
    });
    let (mut written, mut is_encrypted) = (Vec::new(), false);
    for piece in pieces {
        let heard = handshake.receive(piece);
        let output = handshake.output();
        check_output(
            &output,
            has_credentials && (is_encrypted || allow_plaintext_auth),
        );
        written.extend_from_slice(&output);
        if let Err(error) = heard {
            return (written, Err(error));
        }
        if handshake.step() == Step::StartTls {
            handshake.tls_done();
            is_encrypted = true;
        }
    }
    let session = handshake.into_session(Mode::Overlapped);
    if let Some(session) = &session {
        assert!(config & 3 != 2 || is_encrypted, "TLS was required");
        assert!(session.extensions().pipelining || session.mode() == Mode::Lockstep);
    }
    (written, Ok(session.map(|session| session.mode())))
}

fn check_output(output: &[u8], may_authenticate: bool) {
    assert!(output.split_inclusive(|&b| b == b'\n').all(is_one_line));
    assert!(
        may_authenticate || find(output, b"AUTH").is_none(),
        "{}",
        output.escape_ascii()
    );
    assert!(
        find(output, PASSWORD.as_bytes()).is_none(),
        "a password is always encoded"
    );
}
