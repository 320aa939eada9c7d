//! Servers that do what a closure says, on threads of their own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What the client said, of all connections.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn note(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    pub(crate) fn count(&self, verb: &str) -> usize {
        let lines = self.lines();
        lines.iter().filter(|line| line.starts_with(verb)).count()
    }
}

/// A server that serves each connection by `serve`; connections close when that returns.
pub(crate) fn peer(serve: impl Fn(Conn<TcpStream>) + Send + Sync + 'static) -> (SocketAddr, Heard) {
    raw_peer(move |stream, heard| serve(Conn::new(stream, heard)))
}

/// The same, before anything is wrapped around the stream.
pub(crate) fn raw_peer(
    serve: impl Fn(TcpStream, Heard) + Send + Sync + 'static,
) -> (SocketAddr, Heard) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let heard = Heard::default();
    let (serve, told) = (Arc::new(serve), heard.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_nodelay(true).unwrap();
            let (serve, heard) = (Arc::clone(&serve), told.clone());
            std::thread::spawn(move || serve(stream, heard));
        }
    });
    (addr, heard)
}

/// One connection, seen from the server.
pub(crate) struct Conn<S: Read + Write> {
    stream: BufReader<S>,
    heard: Heard,
    /// Each octet is written by itself.
    is_split: bool,
}

impl<S: Read + Write> Conn<S> {
    pub(crate) fn new(stream: S, heard: Heard) -> Self {
        Self {
            stream: BufReader::new(stream),
            heard,
            is_split: false,
        }
    }

    pub(crate) fn split(mut self) -> Self {
        self.is_split = true;
        self
    }

    /// Writes; says whether the client still listens.
    pub(crate) fn say(&mut self, text: impl AsRef<[u8]>) -> bool {
        let text = text.as_ref();
        let stream = self.stream.get_mut();
        if !self.is_split {
            return stream.write_all(text).and_then(|()| stream.flush()).is_ok();
        }
        text.iter().all(|&octet| {
            std::thread::yield_now();
            stream
                .write_all(&[octet])
                .and_then(|()| stream.flush())
                .is_ok()
        })
    }

    /// The next line, without its end; `None` when the client has gone.
    pub(crate) fn hear(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(1..) => {
                let line = line.trim_end().to_owned();
                self.heard.note(&line);
                Some(line)
            }
            _ => None,
        }
    }

    /// Reads content up to its lone dot.
    pub(crate) fn hear_content(&mut self) -> Option<()> {
        while self.hear()? != "." {}
        Some(())
    }

    pub(crate) fn take_octets(&mut self, octets: usize) -> Option<Vec<u8>> {
        let mut space = vec![0; octets];
        self.stream.read_exact(&mut space).ok()?;
        Some(space)
    }

    /// Waits, saying and hearing nothing, until the client goes.
    pub(crate) fn fall_silent(&mut self) {
        let _ = std::io::copy(&mut self.stream, &mut std::io::sink());
    }

    /// Keeps the connection and reads nothing more, until the test process ends.
    pub(crate) fn read_no_more(&mut self) {
        loop {
            std::thread::park();
        }
    }

    /// Serves as a sound server does; `twist` may take a command over, and says whether to go on
    /// as usual (`None`), to go on with what it said (`Some(true)`) or to end (`Some(false)`).
    pub(crate) fn serve(
        &mut self,
        offers: &str,
        mut twist: impl FnMut(&mut Self, &str) -> Option<bool>,
    ) -> Option<()> {
        let mut go_on = |conn: &mut Self, line: &str, usual: &str| match twist(conn, line) {
            None => conn.say(usual).then_some(()),
            Some(true) => Some(()),
            Some(false) => None,
        };
        go_on(self, "GREETING", "220 hostile.example\r\n")?;
        loop {
            let line = self.hear()?;
            match line.split(' ').next().unwrap_or_default() {
                "EHLO" => go_on(
                    self,
                    &line,
                    &format!("250-hostile.example\r\n{offers}250 HELP\r\n"),
                )?,
                "DATA" => {
                    go_on(self, &line, "354 go\r\n")?;
                    self.hear_content()?;
                    go_on(self, "FINAL", "250 taken\r\n")?;
                }
                "BDAT" => {
                    let size = line.split(' ').nth(1)?.parse().ok()?;
                    self.take_octets(size)?;
                    go_on(self, "FINAL", "250 taken\r\n")?;
                }
                "QUIT" => go_on(self, &line, "221 bye\r\n")?,
                _ => go_on(self, &line, "250 ok\r\n")?,
            }
        }
    }
}
