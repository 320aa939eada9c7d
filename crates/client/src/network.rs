//! Who opens connections: TCP, unless a pool is given another network, as a simulation does.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// Opens connections in place of TCP. There is no TLS over them: where it is required, dialing fails.
pub trait Network: fmt::Debug + Send + Sync + 'static {
    /// Connects once. Dropping what it gives gives up.
    ///
    /// * `from`: the local address, if one was asked for.
    ///
    /// # Errors
    /// As a socket's: refused, unreachable, reset.
    fn connect(
        &self,
        to: SocketAddr,
        from: Option<IpAddr>,
    ) -> BoxFuture<'static, io::Result<Box<dyn Link>>>;
}

/// An open connection of a [`Network`]; dropping it closes it.
pub trait Link: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin + 'static> Link for T {}
