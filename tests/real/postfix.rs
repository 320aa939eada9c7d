//! Debian's Postfix.

use std::process::Command;

use super::{Server, Setup, tool};

/// Accounts that every Debian has (base-passwd), for `mail_owner` and `setgid_group`.
const MAIL: u32 = 8;
const UUCP: u32 = 10;

/// With more in its main.cf.
pub(crate) async fn postfix(more: &str) -> Server {
    let more = more.to_owned();
    super::start("Postfix", move |setup| configure(setup, &more)).await
}

fn configure(setup: &Setup<'_>, more: &str) -> Command {
    let Setup {
        folder,
        port,
        relay_port,
    } = setup;
    let master = tool("postfix/usr/lib/postfix/sbin/master");
    let daemons = master.parent().unwrap();
    let libraries = daemons.parent().unwrap();
    let search = format!(
        "{}:{}",
        libraries.display(),
        tool("postfix/usr/lib").join(super::libraries()).display()
    );
    for (name, owner, group, mode) in [
        ("data", MAIL, MAIL, 0o700),
        ("queue", 0, 0, 0o755),
        ("queue/pid", 0, 0, 0o755),
        ("queue/public", MAIL, UUCP, 0o710),
        ("queue/maildrop", MAIL, UUCP, 0o1730),
    ] {
        folder.make(name, owner, group, mode);
    }
    for name in [
        "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private",
        "saved", "trace",
    ] {
        folder.make(&format!("queue/{name}"), MAIL, MAIL, 0o700);
    }
    folder.write(
        "main.cf",
        &format!(
            "compatibility_level = 3.6
config_directory = {dir}
queue_directory = {dir}/queue
data_directory = {dir}/data
daemon_directory = {daemons}
command_directory = {commands}
shlib_directory = {libraries}
mail_owner = mail
setgid_group = uucp
default_privs = nobody
import_environment = MAIL_CONFIG TZ LANG=C LD_LIBRARY_PATH={search}
maillog_file = {dir}/mail.log
maillog_file_prefixes = {dir}
myhostname = postfix.example
mydestination =
alias_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
default_transport = smtp:[127.0.0.1]:{relay_port}
smtp_dns_support_level = disabled
smtp_tls_security_level = none
smtpd_peername_lookup = no
smtpd_tls_security_level = may
smtpd_tls_cert_file = {dir}/cert.pem
smtpd_tls_key_file = {dir}/key.pem
smtpd_error_sleep_time = 0
smtpd_client_connection_count_limit = 0
smtpd_recipient_restrictions = check_recipient_access inline:{{
    {{ refused@dest.example = 550 5.1.1 No such user }}
    {{ full@dest.example = 452 4.2.2 Mailbox full }}
    {{ busy@dest.example = 421 4.7.0 Come back later }}
    }}, permit_mynetworks, reject
{more}
",
            dir = folder.show(),
            daemons = daemons.display(),
            commands = tool("postfix/usr/sbin").display(),
            libraries = libraries.display(),
        ),
    );
    folder.write(
        "master.cf",
        &format!(
            "127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"
        ),
    );
    let mut command = Command::new(master);
    command
        .args(["-d", "-c"])
        .arg(folder.path())
        .env("MAIL_CONFIG", folder.path())
        .env("LD_LIBRARY_PATH", search);
    command
}
