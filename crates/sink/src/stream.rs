//! What a connection reads and writes: a socket, with or without a link in front of it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::link::LinkedStream;

/// The octets as they are on the wire.
#[derive(Debug)]
pub(crate) enum Wire {
    Direct(TcpStream),
    Linked(LinkedStream),
}

impl Wire {
    #[expect(dead_code, reason = "rules that reset connections need it")]
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Direct(socket) => socket,
            Self::Linked(linked) => linked.socket(),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Direct(socket) => Pin::new(socket).poll_read(context, buffer),
            Self::Linked(linked) => Pin::new(linked).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Direct(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Linked(linked) => Pin::new(linked).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Direct(socket) => Pin::new(socket).poll_flush(context),
            Self::Linked(linked) => Pin::new(linked).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Direct(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Linked(linked) => Pin::new(linked).poll_shutdown(context),
        }
    }
}
