//! `mailrail config` as a program, and the configurations that the guides show.

mod support;

use support::{command, mailrail, path_str};

/// Every block of a guide that begins with this fence.
fn blocks(guide: &str, fence: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = guide.lines();
    while let Some(line) = lines.next() {
        if line.trim_start() == fence {
            let indent = line.len() - line.trim_start().len();
            let block = lines.by_ref().take_while(|line| line.trim_start() != "```");
            let block = block.map(|line| line.get(indent..).unwrap_or_default());
            blocks.push(block.collect::<Vec<_>>().join("\n"));
        }
    }
    blocks
}

#[test]
fn every_mistake_is_named_at_once_and_a_right_file_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.toml");
    std::fs::write(&path, "[listen]\nsmpt = []\n[limits]\nidle_max = 5\n").unwrap();
    let run = mailrail(["config", "check", path_str(&path)]);
    let place = path.display();
    run.expect(78, "2 mistakes in the configuration")
        .expect(
            78,
            &format!("{place}:2: listen.smpt: unknown setting; did you mean `smtp`?"),
        )
        .expect(78, &format!("{place}:4: limits.idle_max: "));
    mailrail(["config", "show", path_str(&path)]).expect(78, "did you mean");
    mailrail(["serve", "--config", path_str(&path)]).expect(78, "did you mean");

    std::fs::write(&path, "host = \"m.example\"\n").unwrap();
    mailrail(["config", "check", path_str(&path)]).expect(0, "no mistakes");
    let run = mailrail(["config", "show", path_str(&path)]);
    run.expect(0, "# line 1")
        .expect(0, "# default")
        .expect(0, "# not set");
    mailrail(["config", "check", "no-such.toml"]).expect(78, "no-such.toml: ");
}

#[test]
fn the_smallest_useful_file_needs_no_more_than_a_password_in_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.toml");
    let file = "[listen]\nsmtp = [\"127.0.0.1:2525\"]\nhttp = \"127.0.0.1:8025\"\n\
        [[route]]\ndomain = \"*\"\nvia = \"smtp://user@relay.example:587?tls=required\"\n";
    std::fs::write(&path, file).unwrap();
    let check = |password: &str| -> support::Run {
        let mut command = command(["config", "check", path_str(&path)]);
        command.env("MAILRAIL_PASSWORD", password);
        command.output().unwrap().into()
    };
    check("secret").expect(0, "no mistakes");
    check("").expect(78, "m.toml:6: route[0].via: where is the password of user?");
}

#[test]
fn the_file_of_the_working_folder_is_taken_and_without_one_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| -> support::Run {
        let mut command = command(args);
        command
            .current_dir(dir.path())
            .env_remove("STATE_DIRECTORY");
        command.output().unwrap().into()
    };
    run(&["config", "check"]).expect(0, "defaults: no mistakes");
    std::fs::write(dir.path().join("mailrail.toml"), "x = 1\n").unwrap();
    run(&["config", "check"]).expect(78, "mailrail.toml:1: x: unknown setting");
}

#[test]
fn the_configurations_that_the_guides_show_are_right() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let key = rcgen::generate_simple_self_signed(["mail.example".to_owned()]).unwrap();
    write("fullchain.pem", &key.cert.pem());
    write("privkey.pem", &key.signing_key.serialize_pem());
    write("relay.password", "secret\n");
    let guides = [
        include_str!("../docs/guide/serve.md"),
        include_str!("../docs/guide/config.md"),
        include_str!("../docs/guide/operate.md"),
    ];
    let blocks: Vec<String> = guides
        .iter()
        .flat_map(|guide| blocks(guide, "```toml"))
        .collect();
    assert!(blocks.len() >= 3, "{blocks:?}");
    for block in blocks {
        let path = write("mailrail.toml", &block);
        mailrail(["config", "check", path_str(&path)]).expect(0, "no mistakes");
    }
}

#[test]
fn the_commands_that_the_guides_show_have_flags_that_there_are() {
    let guides = [
        include_str!("../docs/guide/serve.md"),
        include_str!("../docs/guide/config.md"),
        include_str!("../docs/guide/operate.md"),
    ];
    let dir = tempfile::tempdir().unwrap();
    let mut commands = 0;
    for block in guides.iter().flat_map(|guide| blocks(guide, "```sh")) {
        let ours = block
            .lines()
            .filter_map(|line| line.strip_prefix("mailrail "));
        for line in ours.filter(|line| !line.starts_with("serve")) {
            let line = line.split(" #").next().unwrap_or_default().trim_end();
            let args = line.replace("\"asked for it\"", "asked");
            // Nothing runs here, so the right end is that no server, file or folder is found.
            let run: support::Run = command(args.split(' '))
                .current_dir(dir.path())
                .output()
                .unwrap()
                .into();
            assert!(
                matches!(run.code, Some(0 | 65 | 69 | 78)),
                "{line}: {run:#?}"
            );
            commands += 1;
        }
    }
    assert!(commands > 15, "{commands}");
}
