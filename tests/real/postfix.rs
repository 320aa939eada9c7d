//! Debian's Postfix.

use std::process::Command;

use super::{Folder, Server, Setup, tool};

/// Accounts that every Debian has (base-passwd), for `mail_owner` and `setgid_group`.
const MAIL: u32 = 8;
const UUCP: u32 = 10;

/// What a Postfix needs that runs from a folder of its own; the benchmarks' has the same.
const MAIN: &str = include_str!("postfix/main.cf");
const MASTER: &str = include_str!("postfix/master.cf");

/// With more in its main.cf.
pub(crate) async fn postfix(more: &str) -> Server {
    let more = more.to_owned();
    super::start("Postfix", move |setup| configure(setup, &more)).await
}

fn configure(setup: &Setup<'_>, more: &str) -> Command {
    let master = tool("postfix/usr/lib/postfix/sbin/master");
    let daemons = master.parent().unwrap();
    let libraries = daemons.parent().unwrap();
    let search = format!(
        "{}:{}",
        libraries.display(),
        tool("postfix/usr/lib").join(super::libraries()).display()
    );
    let Setup { folder, port, .. } = setup;
    make_folders(folder);
    let programs = format!(
        "daemon_directory = {}\ncommand_directory = {}\nshlib_directory = {}\n\
         import_environment = MAIL_CONFIG TZ LANG=C LD_LIBRARY_PATH={search}\n",
        daemons.display(),
        tool("postfix/usr/sbin").display(),
        libraries.display(),
    );
    let main = format!("{MAIN}{programs}{}{more}\n", ways(setup.relay_port));
    folder.write("main.cf", &main);
    let services = format!(
        "127.0.0.1:{port} inet n - n - - smtpd\nsmtp unix - - n - - smtp\n\
         tlsmgr unix - - n 1000? 1 tlsmgr\n{MASTER}"
    );
    folder.write("master.cf", &services);
    let mut command = Command::new(master);
    command
        .args(["-d", "-c"])
        .arg(folder.path())
        .env("MAIL_CONFIG", folder.path())
        .env("LD_LIBRARY_PATH", search);
    command
}

fn make_folders(folder: &Folder) {
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
}

/// Whose processes are whose, where mail goes, and what is said of some recipients.
fn ways(relay_port: u16) -> String {
    format!(
        "mail_owner = mail
setgid_group = uucp
default_privs = nobody
default_transport = smtp:[127.0.0.1]:{relay_port}
smtpd_tls_security_level = may
smtpd_tls_cert_file = $config_directory/cert.pem
smtpd_tls_key_file = $config_directory/key.pem
smtpd_error_sleep_time = 0
smtpd_recipient_restrictions = check_recipient_access inline:{{
    {{ refused@dest.example = 550 5.1.1 No such user }}
    {{ full@dest.example = 452 4.2.2 Mailbox full }}
    {{ busy@dest.example = 421 4.7.0 Come back later }}
    }}, permit_mynetworks, reject
"
    )
}
