//! What a connection reads and writes: a socket, with or without TLS around it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The octets as SMTP has them.
#[derive(Debug)]
pub(crate) enum Stream {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// A handshake is under way or has failed.
    Gone,
}

/// Does what is asked of whatever there is to do it.
macro_rules! either {
    ($stream:expr, $inner:ident => $work:expr, $gone:expr) => {
        match $stream.get_mut() {
            Self::Clear($inner) => $work,
            Self::Tls($inner) => $work,
            Self::Gone => $gone,
        }
    };
}

impl Stream {
    /// Does the server's side of a handshake. The future is boxed: it is large, and few
    /// connections at once are in one.
    pub(crate) async fn encrypt(&mut self, config: Arc<ServerConfig>) -> io::Result<()> {
        if let Self::Clear(socket) = std::mem::replace(self, Self::Gone) {
            let accepting = Box::pin(TlsAcceptor::from(config).accept(socket));
            *self = Self::Tls(Box::new(accepting.await?));
        }
        Ok(())
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, it => Pin::new(it).poll_read(context, buffer), Poll::Ready(Ok(())))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, it => Pin::new(it).poll_write(context, bytes), Poll::Ready(Ok(bytes.len())))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, it => Pin::new(it).poll_flush(context), Poll::Ready(Ok(())))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, it => Pin::new(it).poll_shutdown(context), Poll::Ready(Ok(())))
    }
}
