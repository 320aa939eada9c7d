//! Real mail servers, unpacked by `tests/tools.sh` and run from there: own configuration, own
//! port, loopback only, own folder. What they take they relay to a sink of ours, which says what
//! arrived: envelope, octets, and how often.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod exim;
pub(crate) mod postfix;
pub(crate) mod suite;

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, IsCa, Issuer,
    KeyPair, SanType,
};
use rustix::process::{Pid, Signal, kill_process_group};
use rustls_pki_types::CertificateDer;
use sink::Sink;
use tempfile::TempDir;

/// How long anything that a server does may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that runs, and the sink behind it.
#[derive(Debug)]
pub(crate) struct Server {
    // Dropped in this order: the process before its folder.
    process: Process,
    pub(crate) addr: SocketAddr,
    /// Who signed its certificate, for `localhost` and 127.0.0.1.
    pub(crate) authority: CertificateDer<'static>,
    pub(crate) sink: Sink,
    folder: Folder,
}

/// Where one run of a server lives.
#[derive(Debug)]
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn show(&self) -> std::path::Display<'_> {
        self.path().display()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// A copy that everybody may run, and nobody as somebody else.
    pub(crate) fn copy(&self, from: &Path, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::copy(from, &path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    pub(crate) fn make(&self, name: &str, owner: u32, group: u32, mode: u32) {
        let path = self.path().join(name);
        fs::create_dir_all(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(owner), Some(group)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// What a server is given to start with.
pub(crate) struct Setup<'a> {
    pub(crate) folder: &'a Folder,
    pub(crate) port: u16,
    /// The sink to relay to.
    pub(crate) relay_port: u16,
}

/// Starts a server by `command`, which writes its configuration.
pub(crate) async fn start(name: &str, command: impl Fn(&Setup<'_>) -> Command) -> Server {
    assert!(
        rustix::process::geteuid().is_root(),
        "{name} changes users as it works: run this test as root"
    );
    let sink = Sink::builder()
        .keep_content()
        .threads(1)
        .start()
        .await
        .unwrap();
    let folder = Folder(tempfile::tempdir().unwrap());
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let authority = write_certificate(&folder);
    // Somebody else may take the port before the server does; then it ends, and we try another.
    for _ in 0..5 {
        let port = free_port();
        let setup = Setup {
            folder: &folder,
            port,
            relay_port: sink.addr().port(),
        };
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if let Some(process) = Process::start(command(&setup), addr) {
            return Server {
                process,
                addr,
                authority,
                sink,
                folder,
            };
        }
    }
    panic!("{name} does not start; its logs: {}", logs(&folder));
}

/// A program in `.tools`.
pub(crate) fn tool(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(".tools")
        .join(path);
    assert!(
        path.exists(),
        "{} is missing: run `make setup` (it calls tests/tools.sh)",
        path.display()
    );
    path
}

/// Where Debian keeps libraries, below `usr/lib`.
pub(crate) fn libraries() -> String {
    format!("{}-linux-gnu", std::env::consts::ARCH)
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// An authority, and what it signs with.
fn authority() -> (Certificate, Issuer<'static, KeyPair>) {
    let mut authority = CertificateParams::new(Vec::<String>::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = authority.self_signed(&key).unwrap();
    (certificate, Issuer::new(authority, key))
}

/// An authority that has signed nothing.
fn stranger() -> CertificateDer<'static> {
    authority().0.der().clone()
}

/// Leaves `cert.pem` and `key.pem` in the folder; gives the authority.
fn write_certificate(folder: &Folder) -> CertificateDer<'static> {
    let (authority, issuer) = authority();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params
        .subject_alt_names
        .push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
    // OpenSSL takes a certificate for self-signed whose name is its authority's.
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "localhost");
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, &issuer).unwrap();
    folder.write("authority.pem", &authority.pem());
    folder.write("cert.pem", &cert.pem());
    let key = folder.write("key.pem", &key.serialize_pem());
    fs::set_permissions(key, fs::Permissions::from_mode(0o644)).unwrap();
    authority.der().clone()
}

/// All logs in the folder, for the message of a failed test.
fn logs(folder: &Folder) -> String {
    let files = fs::read_dir(folder.path()).unwrap().flatten();
    let logs = files.filter(|file| file.path().extension().is_some_and(|it| it == "log"));
    logs.map(|log| fs::read_to_string(log.path()).unwrap_or_default())
        .collect()
}

impl Server {
    pub(crate) fn logs(&self) -> String {
        logs(&self.folder)
    }

    /// Of `authority.pem`, and of `cert.pem` and `key.pem` that it signed.
    pub(crate) fn pem(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A process group, ended with all that is in it.
#[derive(Debug)]
struct Process(Child);

impl Process {
    /// `None` if it ends before it greets.
    fn start(mut command: Command, addr: SocketAddr) -> Option<Self> {
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        let mut process = Self(child.unwrap_or_else(|error| panic!("{command:?}: {error}")));
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if greets(addr) {
                return Some(process);
            }
            if process.0.try_wait().unwrap().is_some() {
                return None;
            }
            std::thread::sleep(POLL);
        }
        None
    }
}

/// Between two looks at what another process does.
const POLL: Duration = Duration::from_millis(5);

fn greets(addr: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(addr) else {
        return false;
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut code = [0; 4];
    stream.read_exact(&mut code).is_ok() && code == *b"220 "
}

impl Drop for Process {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.0);
        // It may have ended by itself; then there is nobody to signal.
        let _ = kill_process_group(group, Signal::TERM);
        let started = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) && started.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(POLL);
        }
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.0.wait();
    }
}
