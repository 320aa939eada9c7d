//! Debian's Exim.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::{Server, Setup, tool};

const CONFIG: &str = include_str!("exim.conf");
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
    let config = format!(
        "exim_path = {exim}\nTEST_DIR = {dir}\nTEST_RELAY_PORT = {relay_port}\n{more}\n{CONFIG}",
        exim = exim.display(),
        dir = folder.show(),
    );
    let config = folder.write("exim.conf", &config);
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
