//! The pool against Exim.

mod real;

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use real::suite::{self, Quirks};
use real::{Server, Setup, tool};

/// The account `mail` of every Debian (base-passwd).
const MAIL: u32 = 8;

const QUIRKS: Quirks = Quirks {
    resumes_tls: true,
    takes_smtputf8: false,
};

async fn exim(more: &str) -> Server {
    let more = more.to_owned();
    real::start("Exim", move |setup| configure(setup, &more)).await
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
    for library in fs::read_dir(tool("exim/usr/lib").join(real::libraries())).unwrap() {
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

#[tokio::test]
async fn every_mode_delivers_each_message_once_with_its_envelope_and_octets() {
    suite::every_mode_delivers(&exim("").await, &QUIRKS, 15).await;
}

#[tokio::test]
async fn a_refused_recipient_harms_neither_the_others_nor_the_connection() {
    suite::refused_recipients_fail_alone(&exim("").await).await;
}

#[tokio::test]
async fn after_a_message_that_all_refuse_the_next_leaves_under_its_own_reverse_path() {
    suite::all_refused_leaves_no_trace(&exim("").await).await;
}

#[tokio::test]
async fn a_421_fails_its_own_message_and_the_others_leave_on_another_connection() {
    suite::a_421_hits_one_message(&exim("").await).await;
}

#[tokio::test]
async fn after_too_many_messages_the_421_costs_no_message() {
    suite::a_server_that_has_enough_of_a_connection(
        &exim("smtp_accept_max_per_connection = 3").await,
    )
    .await;
}

#[tokio::test]
async fn tls_is_verified_and_resumed() {
    suite::tls_is_verified(&exim("").await, &QUIRKS).await;
}

#[tokio::test]
async fn a_message_over_the_size_is_refused_before_its_content_is_sent() {
    suite::too_large(&exim("message_size_limit = 100000").await).await;
}

#[tokio::test]
async fn the_program_sends_a_mailing_of_which_one_recipient_is_refused() {
    suite::the_program_sends_a_mailing(&exim("").await).await;
}
