//! What a file may say, and what is said of its mistakes.
//!
//! Over 500 lines, most of them files and what is said of them.

use super::*;

use std::fmt::Write;
use std::time::Duration;

use client::{TlsMode, Wire};
use engine::route::Pattern;
use flow::backoff::Backoff;
use flow::retry::ErrorClass;
use message::dkim::{Algorithm, SigningKey};
use route::Hops;

/// Beside files that the tests make.
fn parse_in(folder: &Path, text: &str) -> Result<Config, Vec<Mistake>> {
    parse(text, folder, Given::new())
}

/// Of `secret`.
const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$VbpMxy7kB3c/KFdfuy37QA$DwZ+OxbTLrtYPlpOzyqBrTFXBjVywuh1foLWDBQUCIo";

/// `HASH` in the text becomes one.
fn right(text: &str) -> Config {
    let text = &text.replace("HASH", HASH);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("password"), "s3cret\n").unwrap();
    if text.contains("key.pem") {
        let key = SigningKey::generate(Algorithm::Ed25519).unwrap();
        std::fs::write(folder.path().join("key.pem"), key.to_pem().unwrap()).unwrap();
    }
    parse_in(folder.path(), text).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"))
}

/// `line path: text`, one a line.
fn wrong(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("empty"), "\n").unwrap();
    let parsed = parse_in(folder.path(), text);
    let Err(mistakes) = parsed else {
        panic!("no mistake in\n{text}")
    };
    let mut lines = String::new();
    for mistake in mistakes {
        let line = mistake.line.map_or("-".to_owned(), |line| line.to_string());
        writeln!(lines, "{line} {}: {}", mistake.path, mistake.text).unwrap();
    }
    lines
}

#[test]
fn an_empty_file_is_right_and_means_loopback_only() {
    let config = right("");
    assert_eq!(config.listen.smtp, ["127.0.0.1:2525".parse().unwrap()]);
    assert_eq!(config.listen.http, "127.0.0.1:8025".parse().unwrap());
    assert!(config.listen.smtps.is_empty() && config.listen.trust_loopback);
    assert!(config.tls.identity.is_none() && config.routes.is_empty());
    assert_eq!(config.limits.message_max.0, 50 << 20);
    assert_eq!(config.retry.max_age.as_secs(), 5 * 86_400);
}

#[test]
fn a_small_useful_file() {
    let config = right(
        r#"
        [listen]
        smtp = ["127.0.0.1:2525"]
        http = "127.0.0.1:8025"
        [[route]]
        domain = "*"
        via = "smtp://user@relay.example:587?tls=required"
        password_file = "password"
        "#,
    );
    let route = &config.routes[0];
    assert_eq!(route.domains, [Pattern::All]);
    let Hops::Relays(relays) = &route.hops else {
        panic!("{route:?}")
    };
    let relay = &relays[0];
    assert_eq!((relay.port, relay.tls), (587, TlsMode::Required));
    assert_eq!(relay.password.as_ref().unwrap().expose(), "s3cret");
}

#[test]
fn a_file_that_says_all_it_can() {
    let config = right(
        r#"
        data_dir = "/var/lib/mailrail"
        host = "mail.example.org"
        [[source]]
        name = "a"
        ip = "192.0.2.1"
        ehlo_name = "a.example.org"
        weight = 3
        [[tenant]]
        name = "shop"
        networks = ["10.0.0.0/8", "2001:db8::/32"]
        rate = "100/s"
        daily_max = 100000
        weight = 2
        user = [{ name = "shop", password_hash = "HASH" }]
        [[route]]
        domain = ["example.org", "*.example.org"]
        tenant = "shop"
        mx = true
        tls = "required"
        sources = ["a"]
        rate = "600/min"
        wire = "pipelined"
        unknown = "hold"
        [[route]]
        domain = "*"
        wire = "windowed:4"
        via = [
            { relay = "smtp://one.example", weight = 3 },
            { relay = "smtps://u@two.example", password_file = "password", preference = 7 },
        ]
        [retry]
        max_age = "2d"
        greylisted = { first = "5m", longest = "30m" }
        "#,
    );
    assert_eq!(config.tenants[0].users[0].name, "shop");
    assert_eq!(config.routes[0].domains.len(), 2);
    let Hops::Mx(tls) = config.routes[0].hops else {
        panic!("no mx")
    };
    assert_eq!(tls, TlsMode::Required);
    let names = config.routes.iter().map(|route| route.name.as_str());
    assert_eq!(names.collect::<Vec<_>>(), ["mx", "one.example"]);
    let Hops::Relays(relays) = &config.routes[1].hops else {
        panic!("no relays")
    };
    assert_eq!((relays[0].weight, relays[1].preference), (3, 7));
    assert!(relays[1].password.is_some());
    assert_eq!(config.routes[1].wire, Wire::Windowed(4));
    let greylisted = config.retry.curves[3].1;
    assert_eq!(greylisted.first.as_secs(), 300);
}

#[test]
fn every_mistake_is_named_at_once_each_with_its_line() {
    let mistakes = wrong(
        "[listen]\n\
         smpt = [\"127.0.0.1:25\"]\n\
         http = \"localhost\"\n\
         [[route]]\n\
         domain = \"*\"\n\
         conections_max = 5\n\
         [limits]\n\
         message_max = 50\n\
         idle_max = \"5min\"\n\
         [colour]\n\
         x = 1\n",
    );
    let want = [
        "2 listen.smpt: unknown setting; did you mean `smtp`?",
        "3 listen.http: \"localhost\": write it as 127.0.0.1:2525",
        "4 route[0]: nothing says where it leads",
        "6 route[0].conections_max: unknown setting; did you mean `connections_max`?",
        "8 limits.message_max: is a plain number; a size such as \"20 MiB\" in quotes is meant",
        "9 limits.idle_max: \"5min\": unknown unit \"min\"; use ms, s, m, h, d",
        "10 colour: unknown setting; known: data_dir, host, listen",
    ];
    let lines: Vec<&str> = mistakes.lines().collect();
    assert_eq!(lines.len(), want.len(), "{mistakes}");
    for (line, want) in lines.iter().zip(want) {
        assert!(line.starts_with(want), "want {want:?}, not {line:?}");
    }
}

/// What is written, and what is said of it.
#[rustfmt::skip]
const MISTAKES: &[(&str, &str)] = &[
    ("[listen", "1 : "),
    ("listen = 5", "1 listen: is no table"),
    ("[route]\ndomain = \"*\"", "1 route: there may be several: write [[route]]"),
    ("route = [1]", "1 route[0]: is no table"),
    ("host = \"a b\"", "1 host: \"a b\": "),
    ("[listen]\nsmtp = [\"1.2.3.4:25\"]\nhttp = \"1.2.3.4:25\"", "1 listen: 1.2.3.4:25 is given twice"),
    ("[listen]\nsmtps = [\"1.2.3.4:465\"]", "`smtps` needs a certificate"),
    ("[tls]\nkey = \"no-such\"", "2 tls.key: without its `certificate`"),
    ("[tls]\nkey = \"a\"\ncertificate = \"no-such\"", "3 tls.certificate: "),
    ("[tls]\nauthorities = \"empty\"", "2 tls.authorities: "),
    ("[[route]]\nmx = true", "1 route[0]: `domain` is missing"),
    ("[[route]]\ndomain = []\nmx = true", "2 route[0].domain: is an empty list"),
    ("[[route]]\ndomain = \"a..b\"\nmx = true", "2 route[0].domain: \"a..b\": "),
    ("[[route]]\ndomain = \"*\"\nmx = true\nvia = \"smtp://a\"", "3 route[0].mx: a route has either"),
    ("[[route]]\ndomain = \"*\"\nmx = true\npassword_env = \"X\"", "a password is for `via`"),
    ("[[route]]\ndomain = \"*\"\nvia = \"smtp://a\"\ntls = \"none\"", "4 route[0].tls: is for `mx`"),
    ("[[route]]\ndomain = \"*\"\nvia = \"http://a\"", "3 route[0].via: a relay begins with smtp://"),
    ("[[route]]\ndomain = \"*\"\nvia = \"smtp://u@a\"", "3 route[0].via: where is the password of u?"),
    ("[[route]]\ndomain = \"*\"\nvia = \"smtp://u@a\"\npassword_file = \"empty\"", "4 route[0].password_file: "),
    ("[[route]]\ndomain = \"*\"\nvia = \"smtp://u@a\"\npassword_env = \"NO_SUCH\"", "the environment has no NO_SUCH"),
    ("[[route]]\ndomain = \"*\"\nvia = \"http://a\"\npassword_env = \"NO_SUCH\"", "the environment has no NO_SUCH"),
    ("[[route]]\ndomain = \"*\"\nvia = \"http://a\"\nsources = [\"s\"]", "4 route[0].sources: there is no [[source]] \"s\""),
    ("[[route]]\ndomain = \"*\"\nvia = \"http://a\"\ntenant = \"t\"", "4 route[0].tenant: there is no [[tenant]] \"t\""),
    ("[[route]]\ndomain = \"*\"\nvia = \"smtp://a\"\npassword_env = \"PATH\"", "3 route[0].via: there is a password and no user"),
    ("[[route]]\ndomain = \"*\"\nvia = [{ realy = \"smtp://a\" }]", "3 route[0].via[0].realy: unknown setting; did you mean `relay`?"),
    ("[[route]]\ndomain = \"*\"\nmx = true\nwire = \"windowed\"", "4 route[0].wire: windowed is for a relay"),
    ("[[route]]\ndomain = \"*\"\nmx = true\nwire = \"fast\"", "known: lockstep, pipelined, overlapped"),
    ("[[route]]\ndomain = \"*\"\nmx = true\nunknown = \"retyr\"", "did you mean \"retry\"?"),
    ("[[route]]\ndomain = \"*\"\nmx = true\nsources = [\"a\"]", "there is no [[source]] \"a\""),
    ("[[route]]\ndomain = \"*\"\nmx = true\ntenant = \"a\"", "there is no [[tenant]] \"a\""),
    ("[[route]]\ndomain = \"*\"\nmx = true\n[[route]]\ndomain = \"*\"\nmx = true", "5 route[1].domain: never used: route \"mx\" comes before it"),
    ("[[source]]\nname = \"a\"\nip = \"a\"", "3 source[0].ip: \"a\": is no IP address"),
    ("[[tenant]]\nname = \"a\"\n[[tenant]]\nname = \"a\"", "4 tenant[1].name: there are two tenants"),
    ("[[tenant]]\nname = \"a\"\nnetworks = [\"10.1.0.0/8\"]", "no bit set behind the prefix"),
    ("[[tenant]]\nname = \"a\"\nrate = \"5\"", "3 tenant[0].rate: \"5\": a rate needs a unit"),
    ("[limits]\nmessage_max = \"1 KiB\"", "2 limits.message_max: every server takes 64 KiB"),
    ("[retry]\nconnect = { first = \"5h\" }", "retry.connect.first: is 100ms or more"),
    ("[retry.connect]\nbase = \"2h\"", "2 retry.connect.base: unknown setting; known: first, longest"),
    ("[[dkim]]\ndomain = \"a.example\"\nselector = \"s\"\nkey = \"empty\"", "4 dkim[0].key: "),
    ("[history]\nage_max = \"23h\"", "2 history.age_max: an Idempotency-Key holds for 24h"),
    ("[log]\nlevel = \"verbose\"", "known: error, warn, info, debug, trace"),
];

#[test]
fn a_mistake_says_what_is_wrong_in_words() {
    for (text, want) in MISTAKES {
        let mistakes = wrong(text);
        let says = mistakes.lines().any(|line| line.contains(want));
        assert!(says, "{text}\nwant {want:?}, not\n{mistakes}");
    }
}

#[test]
fn a_route_is_hidden_only_by_one_that_takes_all_of_its_mail() {
    let route = |domain: &str, tenant: &str| {
        let tenant = match tenant {
            "" => String::new(),
            name => format!("tenant = \"{name}\"\n"),
        };
        format!("[[route]]\nmx = true\ndomain = {domain}\n{tenant}")
    };
    for (first, second, is_hidden) in [
        (("\"*\"", ""), ("\"a.example\"", ""), true),
        (("\"*\"", ""), ("\"*\"", "default"), true),
        (("\"*\"", "default"), ("\"*\"", ""), false),
        (("\"a.example\"", ""), ("\"*\"", ""), false),
        (
            ("\"a.example\"", ""),
            ("[\"a.example\", \"b.example\"]", ""),
            false,
        ),
        (("\"*.example\"", ""), ("\"*.example\"", ""), true),
    ] {
        let text = route(first.0, first.1) + &route(second.0, second.1);
        let parsed = parse_in(Path::new(""), &text);
        assert_eq!(parsed.is_err(), is_hidden, "{text}");
    }
}

#[test]
fn no_mistake_repeats_a_secret() {
    for text in [
        "[[route]]\ndomain = \"*\"\nvia = \"smtp://u:hunter2@a.example\"",
        "[[route]]\ndomain = \"*\"\nvia = \"smtp://u:hunter2@a.example:x\"",
        "[[route]]\ndomain = \"*\"\nvia = \"smtpx://u:hunter2@a.example\"",
        "[[route]]\ndomain = \"*\"\nvia = [\"smtp://u:hunter2@\"]",
        "[[route]]\ndomain = \"*\"\nvia = [{ relay = \"smtp://u:hunter2@a.example\" }]",
        "[[tenant]]\nname = \"a\"\nuser = [{ name = \"u\", password_hash = \"hunter2\" }]",
    ] {
        let mistakes = wrong(text);
        assert!(!mistakes.contains("hunter2"), "{mistakes}");
    }
}

#[test]
fn what_is_shown_reads_back_and_says_where_it_is_from() {
    let text = "[listen]\nhttp = \"127.0.0.1:1\"\n\
        [[tenant]]\nname = \"a\"\n\
        user = [{ name = \"u\", password_hash = \"HASH\" }]\n\
        [[route]]\ndomain = \"*\"\nvia = [{ relay = \"smtp://a\" }]\n";
    let shown = show::show(&right(text).shown);
    for line in [
        "http = \"127.0.0.1:1\" # line 2",
        "smtp = [\"127.0.0.1:2525\"] # default",
        "# [tls]",
        "# certificate = # not set",
        "[[tenant.user]]",
        "password_hash = \"…\" # line 5",
        "[[route.via]]",
    ] {
        let lines = shown
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        assert!(lines.clone().any(|shown| shown == line), "{line}\n{shown}");
    }
    assert!(!shown.contains("$argon2"), "{shown}");
    let again = shown.replace("\"…\"", "\"HASH\"");
    assert_eq!(right(&again).shown.len(), right(text).shown.len());
}

#[test]
fn a_flag_counts_more_than_the_file() {
    let given = Given::from([("data_dir", ("\"x\"".to_owned(), "--data-dir"))]);
    let text = "data_dir = \"y\"";
    let config = parse(text, Path::new("/etc"), Given::new()).unwrap();
    assert_eq!(config.data_dir, Path::new("/etc/y"));
    let config = parse(text, Path::new("/etc"), given).unwrap();
    assert_eq!(config.data_dir, Path::new("x"));
    assert_eq!(config.shown[0].origin, Origin::Given("--data-dir"));
}

#[test]
fn mistakes_print_as_file_line_path_and_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.toml");
    std::fs::write(&path, "\nhots = \"a\"\n[limits]\nidle_max = 5\n").unwrap();
    let mistakes = load(Some(&path), Given::new()).unwrap_err().to_string();
    let path = path.display();
    let lines: Vec<&str> = mistakes.lines().collect();
    assert_eq!(lines.len(), 2, "{mistakes}");
    assert_eq!(
        lines[0],
        format!("{path}:2: hots: unknown setting; did you mean `host`?")
    );
    assert!(
        lines[1].starts_with(&format!("{path}:4: limits.idle_max: ")),
        "{mistakes}"
    );
}

/// `(table, setting, default)` of everything that can be set: what is read of one table of each kind.
fn settings() -> Vec<(String, String, String)> {
    let text = "[[route]]\ndomain = \"a.example\"\ntenant = \"default\"\nvia = \"smtp://a\"\n\
        [[route]]\ndomain = \"*\"\nvia = [{ relay = \"smtp://a\" }]\n\
        [[source]]\nname = \"a\"\nip = \"192.0.2.1\"\n\
        [[tenant]]\nname = \"a\"\nuser = [{ name = \"u\", password_hash = \"HASH\" }]\n\
        [[dkim]]\ndomain = \"a.example\"\nselector = \"s\"\nkey = \"key.pem\"\n";
    let mut settings = Vec::new();
    for shown in right(text)
        .shown
        .iter()
        .filter(|shown| !shown.key.is_empty())
    {
        let mut table = shown.table.clone();
        table.retain(|c| c != '[' && c != ']' && !c.is_ascii_digit());
        let default = match (shown.key, &shown.origin) {
            ("host", _) => "this machine's name".to_owned(),
            ("via" | "tenant", _) | (_, Origin::Unset) => "–".to_owned(),
            (_, Origin::Default) => format!("`{}`", shown.value),
            _ => "must".to_owned(),
        };
        let setting = (table, shown.key.to_owned(), default);
        if !settings.contains(&setting) {
            settings.push(setting);
        }
    }
    settings.sort();
    settings
}

#[test]
fn the_guide_has_every_setting_with_its_default_and_no_other() {
    let guide = include_str!("../../docs/guide/config.md");
    let (mut table, mut written) = (String::new(), Vec::new());
    for line in guide.lines() {
        if let Some(header) = line.strip_prefix("##") {
            table = header.trim_matches(['#', ' ', '`', '[', ']']).to_owned();
        }
        let mut cells = line.split(" | ");
        let first = cells.next().unwrap_or_default();
        let key = first
            .strip_prefix("| `")
            .and_then(|rest| rest.split('`').next());
        if let Some((key, default)) = key.zip(cells.next()) {
            let table = table.replace("At the top", "");
            written.push((table, key.to_owned(), default.to_owned()));
        }
    }
    written.sort();
    let settings = settings();
    for setting in &settings {
        assert!(written.contains(setting), "the guide lacks {setting:?}");
    }
    for setting in &written {
        assert!(settings.contains(setting), "the guide invents {setting:?}");
    }
}

/// Every setting that engine or edges are told, none at its default.
const EVERYTHING: &str = r#"
host = "m.example"
[listen]
smtp = ["127.0.0.1:2500"]
trust_loopback = false
[limits]
message_max = "60 MiB"
recipients_max = 200
connections_max = 7
connections_per_stranger_max = 3
connections_per_tenant_max = 5
errors_max = 4
idle_max = "9s"
in_flight_max = 11
rate = "12/s"
ahead_max = "13d"
cpu_max = "15 %"
memory_max = "14 MiB"
disk_free_min = "15 MiB"
[retry]
max_age = "1d"
connect = { first = "1s", longest = "2s" }
[history]
age_max = "16d"
size_max = "17 MiB"
[dsn]
bounces = false
delays = "0s"
[suppression]
hard_bounces = false
[[source]]
name = "a"
ip = "192.0.2.1"
weight = 3
[[source]]
name = "b"
ip = "192.0.2.2"
ehlo_name = "b.example"
[[tenant]]
name = "shop"
networks = ["10.0.0.0/8"]
rate = "20/s"
burst = 21
daily_max = 22
waiting_max = 23
weight = 24
sending_rate = "25/s"
in_flight_max = 26
user = [{ name = "u", password_hash = "HASH" }]
[[route]]
name = "out"
domain = "a.example"
tenant = "shop"
mx = true
tls = "required"
port = 2525
allow_loopback = true
sources = ["b", "a"]
connections_max = 30
messages_per_connection_max = 31
rate = "32/s"
wire = "lockstep"
unknown = "hold"
max_age = "33d"
[[route]]
domain = "*"
via = "smtp://relay.example?tls=none"
"#;

#[test]
fn what_a_file_says_of_engine_and_limits_reaches_the_engine() {
    let engine = right(EVERYTHING).engine().unwrap();
    assert_eq!(engine.host.as_str(), "m.example");
    assert_eq!(engine.listening, ["127.0.0.1:2500".parse().unwrap()]);
    assert_eq!(engine.history.age_max, Some(Duration::from_hours(16 * 24)));
    assert_eq!(engine.history.bytes_max, Some(17 << 20));
    let policy = &engine.policy;
    let limits = &policy.limits;
    assert_eq!(
        (limits.message_bytes_max, limits.recipients_max),
        ((60 << 20) + server::smtp::ADDED_BYTES_MAX, 200)
    );
    assert_eq!(limits.ahead_max, Duration::from_hours(13 * 24));
    assert_eq!(
        (
            limits.cpu_percent_max,
            limits.memory_bytes_max,
            limits.disk_free_bytes_min
        ),
        (15, Some(14 << 20), 15 << 20)
    );
    assert_eq!(policy.max_age, Duration::from_hours(24));
    assert_eq!((policy.suppress_bounced, policy.notices), (false, false));
    assert_eq!(policy.delay_notice, Duration::ZERO);
    assert_eq!(
        (policy.schedule.inflight_max, policy.schedule.rate),
        (11, Some(rate("12/s")))
    );
    let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(2)).with_jitter(0.25);
    let connect = schedule_retry().with_backoff(ErrorClass::Connect, backoff);
    assert_eq!(policy.schedule.retry, connect);
}

#[test]
fn what_a_file_says_of_a_tenant_reaches_the_engine() {
    let policy = right(EVERYTHING).policy();
    let tenant = &policy.tenants["shop"];
    assert_eq!(
        (tenant.quota.rate, tenant.quota.burst),
        (Some(rate("20/s")), 21)
    );
    assert_eq!(
        (tenant.quota.daily_max, tenant.quota.stock_max),
        (Some(22), Some(23))
    );
    let sending = &tenant.sending;
    assert_eq!(
        (sending.weight, sending.rate, sending.inflight_max),
        (24, Some(rate("25/s")), 26)
    );
}

#[test]
fn what_a_file_says_of_routes_reaches_the_engine() {
    let routes = right(EVERYTHING).engine_routes();
    let (out, rest) = (&routes[0], &routes[1]);
    assert_eq!((&*out.name, out.tenant.as_deref()), ("out", Some("shop")));
    assert_eq!(
        (out.tls, out.port, out.allow_loopback),
        (TlsMode::Required, 2525, true)
    );
    assert_eq!((out.connections_max, out.messages_per_connection), (30, 31));
    assert_eq!((out.rate, out.wire), (Some(rate("32/s")), Wire::Lockstep));
    assert_eq!(out.unknown, engine::route::UnknownPolicy::Hold);
    assert_eq!(out.max_age, Some(Duration::from_hours(33 * 24)));
    let sources = out.sources.iter().map(|(source, weight)| {
        let ip = source.ip.map(|ip| ip.to_string()).unwrap_or_default();
        format!("{} {ip} {} {weight}", source.name, source.ehlo_name)
    });
    let sources: Vec<String> = sources.collect();
    assert_eq!(
        sources,
        ["a 192.0.2.1 m.example 3", "b 192.0.2.2 b.example 1"]
    );
    assert_eq!((&*rest.name, rest.sources.len()), ("relay.example", 1));
    assert!(matches!(&rest.via, engine::route::Via::Smarthosts(relays) if relays.len() == 1));
}

#[test]
fn what_a_file_says_reaches_the_edges() {
    let config = right(EVERYTHING);
    let smtp = config.smtp_settings().limits;
    assert_eq!(
        (smtp.connections_max, smtp.stranger_connections_max),
        (7, 3)
    );
    assert_eq!((smtp.tenant_connections_max, smtp.errors_max), (Some(5), 4));
    assert_eq!(
        (smtp.recipients_max, smtp.message_bytes_max),
        (200, 60 << 20)
    );
    assert_eq!(smtp.idle, Duration::from_secs(9));
    assert!(config.http_config().body_bytes_max > (60 << 20) / 3 * 4);
    let rules = config.rules();
    assert_eq!(
        (rules.loopback, rules.networks.len(), rules.users.len()),
        (None, 1, 1)
    );
}

fn rate(text: &str) -> flow::rate::RateLimit {
    text.parse().unwrap()
}

/// As without any configuration, which is as the engine has it.
fn schedule_retry() -> flow::retry::RetryPolicy {
    let ours = right("").policy().schedule.retry;
    assert_eq!(ours, engine::Policy::default().schedule.retry);
    ours
}

proptest::proptest! {
    #[test]
    fn any_text_is_a_configuration_or_has_mistakes(
        words in proptest::collection::vec(
            proptest::sample::select(&[
                "[[route]]", "[route]", "[listen]", "[limits]", "[[tenant]]", "[tls]", "[retry.connect]",
                "domain", "via", "name", "smtp", "rate", "user", "mx", "message_max", "x", " = ",
                "\"*\"", "\"smtp://a\"", "\"5m\"", "\"\"", "{", "}", "[", "]", ",", "1", "true", "\n", "\u{e9}",
                "\"", "#",
            ][..]),
            0..24,
        ),
    ) {
        let text = words.concat();
        if let Err(mistakes) = parse_in(Path::new("no-such-folder"), &text) {
            assert!(!mistakes.is_empty(), "{text}");
            let lines = text.lines().count() + 1;
            assert!(mistakes.iter().all(|it| it.line.is_none_or(|line| line <= lines)), "{text}");
        }
    }
}
