//! Debian's Exim.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::{Server, Setup, tool};

/// The account `mail` of every Debian (base-passwd).
const MAIL: u32 = 8;

/// With more in its configuration.
pub(crate) async fn exim(more: &str) -> Server {
    let more = more.to_owned();
    super::start("Exim", move |setup| configure(setup, &more)).await
}

/// Debian's binary insists on an account of its own name. We do not make one: nss_wrapper shows it
/// lists of accounts that have it.
fn show_account(setup: &Setup<'_>) -> [(&'static str, String); 2] {
    let entry = "Debian-exim:x:8:8::/nonexistent:/usr/sbin/nologin\n";
    let users = fs::read_to_string("/etc/passwd").unwrap() + entry;
    let groups = fs::read_to_string("/etc/group").unwrap() + "Debian-exim:x:8:\n";
    let users = setup.folder.write("passwd", &users);
    let groups = setup.folder.write("group", &groups);
    [
        ("NSS_WRAPPER_PASSWD", users.display().to_string()),
        ("NSS_WRAPPER_GROUP", groups.display().to_string()),
    ]
}

fn configure(setup: &Setup<'_>, more: &str) -> Command {
    let Setup {
        folder,
        port,
        relay_port,
    } = setup;
    // It starts itself anew as the user it has changed to, who may not look into this repository.
    let exim = setup.folder.copy(&tool("exim/usr/sbin/exim4"), "exim");
    let libraries = setup.folder.path().join("lib");
    setup.folder.make("lib", 0, 0, 0o755);
    for library in fs::read_dir(tool("exim/usr/lib").join(super::libraries())).unwrap() {
        let library = library.unwrap();
        let name = format!("lib/{}", library.file_name().display());
        if library.file_type().is_ok_and(|it| !it.is_dir()) {
            setup.folder.copy(&library.path(), &name);
        }
    }
    folder.make("spool", MAIL, MAIL, 0o750);
    let log = folder.write("exim.log", "");
    std::os::unix::fs::chown(&log, Some(MAIL), Some(MAIL)).unwrap();
    std::os::unix::fs::chown(folder.path(), Some(MAIL), Some(MAIL)).unwrap();
    let config = folder.write(
        "exim.conf",
        &format!(
            "exim_path = {exim}
keep_environment = LD_PRELOAD : LD_LIBRARY_PATH : NSS_WRAPPER_PASSWD : NSS_WRAPPER_GROUP
spool_directory = {dir}/spool
log_file_path = {dir}/%s.log
primary_hostname = exim.example
tls_advertise_hosts = *
tls_certificate = {dir}/cert.pem
tls_privatekey = {dir}/key.pem
tls_resumption_hosts = *
host_lookup =
rfc1413_query_timeout = 0s
smtp_accept_max = 100
smtp_accept_queue_per_connection = 0
acl_smtp_rcpt = check_recipient
{more}
begin acl
check_recipient:
  deny recipients = refused@dest.example
    message = 550 5.1.1 No such user
  defer recipients = full@dest.example
    message = 452 4.2.2 Mailbox full
  defer recipients = busy@dest.example
    message = 421 4.7.0 Come back later
  accept
begin routers
sink:
  driver = manualroute
  route_list = * 127.0.0.1::{relay_port} byname
  transport = sink
  self = send
begin transports
sink:
  driver = smtp
  allow_localhost
  hosts_avoid_tls = *
",
            exim = exim.display(),
            dir = folder.show(),
        ),
    );
    let mut command = Command::new(exim);
    command
        .uid(MAIL)
        .gid(MAIL)
        .arg("-C")
        .arg(config)
        .args(["-bdf", "-oX", &format!("127.0.0.1:{port}"), "-oP"])
        .arg(folder.path().join("spool/exim.pid"))
        .env("LD_PRELOAD", libraries.join("libnss_wrapper.so"))
        .env("LD_LIBRARY_PATH", &libraries)
        .envs(show_account(setup));
    command
}
