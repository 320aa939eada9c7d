//! `mailrail serve` as a program, in a folder of its own.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal};
use sink::Sink;
use tempfile::TempDir;

use super::{Run, command, path_str, signal};

/// A folder for a server: its configuration, its data, its log.
pub(crate) struct Home {
    dir: TempDir,
}

impl Home {
    pub(crate) fn new(config: &str) -> Self {
        let home = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        home.configure(config);
        home
    }

    /// With one route for everything, to this sink.
    pub(crate) fn in_front_of(sink: &Sink) -> Self {
        Self::new(&route_to(sink))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn configure(&self, config: &str) {
        std::fs::write(self.path("mailrail.toml"), config).unwrap();
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Starts the server and waits until it is ready.
    pub(crate) fn serve(&self) -> Serving<'_> {
        self.serve_with(&[])
    }

    /// The same with more in its environment.
    pub(crate) fn serve_with(&self, environment: &[(&str, &Path)]) -> Serving<'_> {
        let mut program = command::<&str>([]);
        program.envs(environment.iter().copied());
        self.serve_by(program)
    }

    /// The same by a command of the test's own, to which our arguments are added.
    pub(crate) fn serve_by(&self, mut program: Command) -> Serving<'_> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("log"));
        let mut child = program
            .args(["serve", "--config", path_str(&self.path("mailrail.toml"))])
            .args(["--data-dir", path_str(&self.data_dir())])
            .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .stderr(log.unwrap())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        while !said.ends_with("\nready\n") {
            let read = lines.read_line(&mut said).unwrap();
            assert!(read > 0, "the server ended: {said}\n{}", self.log());
        }
        Serving {
            home: self,
            child,
            said,
        }
    }
}

/// A route for everything, to this sink.
pub(crate) fn route_to(sink: &Sink) -> String {
    format!(
        "[[route]]\ndomain = \"*\"\nname = \"sink\"\nvia = \"smtp://{}?tls=none\"\n",
        sink.addr()
    )
}

/// A server that runs; killed when it goes.
pub(crate) struct Serving<'h> {
    pub(crate) home: &'h Home,
    child: Child,
    /// On standard output, up to `ready`.
    pub(crate) said: String,
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Serving<'_> {
    fn after(&self, words: &str) -> Option<&str> {
        self.said.lines().find_map(|line| line.strip_prefix(words))
    }

    /// `smtp://127.0.0.1:PORT`
    pub(crate) fn smtp(&self) -> String {
        format!("smtp://{}", self.after("listening on smtp://").unwrap())
    }

    pub(crate) fn smtp_address(&self) -> &str {
        self.after("listening on smtp://").unwrap()
    }

    /// `http://127.0.0.1:PORT`
    pub(crate) fn http(&self) -> String {
        format!("http://{}", self.after("listening on http://").unwrap())
    }

    /// The API key, if one was printed.
    pub(crate) fn key(&self) -> Option<&str> {
        self.after("API key, shown this once: ")
    }

    /// A command of ours for this server, run to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Run {
        let data_dir = self.home.data_dir();
        let mut command = command(args);
        command.args(["--data-dir", path_str(&data_dir)]);
        command.env_remove("MAILRAIL_KEY").output().unwrap().into()
    }

    /// A command that succeeds and answers in JSON.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        let run = self.run(&[args, &["--json"]].concat());
        assert_eq!(run.code, Some(0), "{args:?}: {run:#?}");
        run.json()
    }

    /// Gives a message to `mailrail sendmail`.
    pub(crate) fn sendmail(&self, args: &[&str], message: &str) -> Run {
        use std::io::Write;
        let mut child = command([&["sendmail"], args].concat())
            .env("MAILRAIL_SMTP", format!("{}?tls=none", self.smtp()))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        // It may have ended for a mistake in its flags.
        let _ = input.write_all(message.as_bytes());
        drop(input);
        child.wait_with_output().unwrap().into()
    }

    /// Sends a message to one recipient.
    #[track_caller]
    pub(crate) fn send_to(&self, recipient: &str) {
        let text = format!("From: a@x.example\nTo: {recipient}\nSubject: hi\n\nHello.\n");
        self.sendmail(&["-t", "-i"], &text).expect(0, "");
    }

    /// Most memory that it has had resident, in octets.
    pub(crate) fn memory_peak_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:"));
        let kib = line.and_then(|it| it.trim().strip_suffix(" kB")).unwrap();
        kib.parse::<u64>().unwrap() * 1024
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, how: Signal) {
        signal(&self.child, how);
    }

    /// Signals it and waits for its end.
    pub(crate) fn end(mut self, how: Signal) -> Option<i32> {
        self.signal(how);
        self.child.wait().unwrap().code()
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

/// Reads replies of SMTP over a connection that stays open.
pub(crate) struct Dialogue {
    socket: std::net::TcpStream,
}

impl Dialogue {
    pub(crate) fn open(address: &str) -> Self {
        let mut dialogue = Self {
            socket: std::net::TcpStream::connect(address).unwrap(),
        };
        assert!(dialogue.reply().starts_with("220"));
        dialogue
    }

    /// Says a line; gives the last line of the reply.
    pub(crate) fn say(&mut self, line: &str) -> String {
        use std::io::Write;
        self.socket
            .write_all(format!("{line}\r\n").as_bytes())
            .unwrap();
        self.reply()
    }

    fn reply(&mut self) -> String {
        let mut line = String::new();
        loop {
            let mut octet = [0];
            self.socket.read_exact(&mut octet).unwrap();
            line.push(octet[0].into());
            if line.ends_with("\r\n") {
                match line.as_bytes().get(3) {
                    Some(b'-') => line.clear(),
                    _ => return line.trim_end().to_owned(),
                }
            }
        }
    }
}

/// Asks over HTTP; an answer that says no is an answer.
pub(crate) fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false);
    config.build().new_agent()
}
