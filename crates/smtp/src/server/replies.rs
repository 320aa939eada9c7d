//! The replies that the machine gives most, as they stand on the wire.

pub(super) const BYE: &[u8] = b"221 2.0.0 Bye\r\n";
pub(super) const STARTTLS_READY: &[u8] = b"220 2.0.0 Ready to start TLS\r\n";
pub(super) const AUTHENTICATED: &[u8] = b"235 2.7.0 Authentication successful\r\n";
pub(super) const OK: &[u8] = b"250 2.0.0 Ok\r\n";
pub(super) const MAIL_OK: &[u8] = b"250 2.1.0 Ok\r\n";
pub(super) const RCPT_OK: &[u8] = b"250 2.1.5 Ok\r\n";
pub(super) const CHUNK_OK: &[u8] = b"250 2.0.0 Chunk received\r\n";
pub(super) const CANNOT_VERIFY: &[u8] = b"252 2.5.2 Send some mail, I will try my best\r\n";
pub(super) const HELP: &[u8] = b"214 2.0.0 See RFC 5321\r\n";
pub(super) const GO_AHEAD: &[u8] = b"354 End data with <CRLF>.<CRLF>\r\n";
pub(super) const NOT_ANSWERED: &[u8] = b"451 4.3.0 Local error, try again later\r\n";
pub(super) const TOO_MANY_RECIPIENTS: &[u8] = b"452 4.5.3 Too many recipients\r\n";
pub(super) const TOO_MANY_ERRORS: &[u8] = b"421 4.7.0 Too many errors\r\n";
pub(super) const TOO_MANY_TRANSACTIONS: &[u8] =
    b"421 4.7.0 Too many messages on this connection\r\n";
pub(super) const LINE_TOO_LONG: &[u8] = b"500 5.5.2 Line too long\r\n";
pub(super) const BARE_LF: &[u8] = b"500 5.5.2 A line ends with CRLF\r\n";
pub(super) const BAD_BASE64: &[u8] = b"501 5.5.2 That is not base64\r\n";
pub(super) const BAD_CREDENTIALS: &[u8] = b"501 5.5.2 Malformed credentials\r\n";
pub(super) const AUTH_CANCELLED: &[u8] = b"501 5.7.0 Authentication cancelled\r\n";
pub(super) const NOT_OFFERED: &[u8] = b"502 5.5.1 Command not implemented\r\n";
pub(super) const MECHANISM_UNKNOWN: &[u8] = b"504 5.5.4 Mechanism not offered\r\n";
pub(super) const HELLO_FIRST: &[u8] = b"503 5.5.1 EHLO first\r\n";
pub(super) const MAIL_FIRST: &[u8] = b"503 5.5.1 MAIL first\r\n";
pub(super) const NESTED_MAIL: &[u8] = b"503 5.5.1 A transaction is open\r\n";
pub(super) const CHUNKED: &[u8] = b"503 5.5.1 BDAT has begun this content\r\n";
pub(super) const FAILED: &[u8] = b"503 5.5.1 A chunk was refused, RSET first\r\n";
pub(super) const AUTHENTICATED_BEFORE: &[u8] = b"503 5.5.1 Authenticated already\r\n";
pub(super) const TLS_BEFORE: &[u8] = b"503 5.5.1 TLS is active already\r\n";
pub(super) const NO_SERVICE: &[u8] = b"503 5.5.1 No service, QUIT\r\n";
pub(super) const ENCRYPT_FIRST: &[u8] = b"538 5.7.11 Encryption required first\r\n";
pub(super) const TOO_BIG: &[u8] = b"552 5.3.4 Message too big\r\n";
pub(super) const NEEDS_SMTPUTF8: &[u8] = b"553 5.6.7 The address needs SMTPUTF8\r\n";
pub(super) const BARE_CR: &[u8] = b"554 5.6.0 Carriage return without line feed in the content\r\n";
pub(super) const BARE_LF_IN_CONTENT: &[u8] =
    b"554 5.6.0 Line feed without carriage return in the content\r\n";
pub(super) const NUL: &[u8] = b"554 5.6.0 NUL octet in the content\r\n";
pub(super) const TEXT_LINE_TOO_LONG: &[u8] = b"554 5.6.0 A line of the content is too long\r\n";
pub(super) const NO_RECIPIENTS: &[u8] = b"554 5.5.1 No valid recipients\r\n";
pub(super) const INJECTED: &[u8] = b"554 5.5.1 Commands after STARTTLS\r\n";

/// What AUTH LOGIN asks, base64 of `Username:` and `Password:`.
pub(super) const LOGIN_USER: &[u8] = b"334 VXNlcm5hbWU6\r\n";
pub(super) const LOGIN_PASSWORD: &[u8] = b"334 UGFzc3dvcmQ6\r\n";
/// Go on without a challenge.
pub(super) const AUTH_CONTINUE: &[u8] = b"334 \r\n";
