//! Resolution against a DNS of a few lines, and hickory against one over UDP.

use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::zone::Zone;
use super::*;

const HOUR: Duration = Duration::from_secs(3600);

const ZONE: &str = "
    two.example MX 20 mx2.example.net
    two.example MX 10 mx1.example.net
    also.example MX 5 mx2.example.net
    also.example MX 5 mx1.example.net
    null.example MX 0 .
    half.example MX 0 .
    half.example MX 10 mx1.example.net
    implicit.example A 192.0.2.9
    bare.example TXT nothing
    broken.example MX FAIL
    brokena.example MX 10 failing.example.net
    partly.example MX 10 failing.example.net
    partly.example MX 20 mx2.example.net
    nohost.example MX 10 nowhere.example.net
    nohost.example A 192.0.2.9
    junk.example MX JUNK
    junk.example A 192.0.2.9
    backup.example MX 10 mx1.example.net
    backup.example MX 20 us.example.org
    backup.example MX 30 mx2.example.net
    ours.example MX 10 us.example.org
    oursip.example MX 10 alias.example.net
    oursip.example MX 20 mx1.example.net
    loop.example MX 10 loop.example.net
    loopv6.example MX 10 loopv6.example.net
    mixed.example MX 10 mixed.example.net
    twice.example MX 10 mx1.example.net
    twice.example MX 20 mx1.example.net
    mx1.example.net A 192.0.2.1
    mx2.example.net A 192.0.2.2
    mx2.example.net AAAA 2001:db8::2
    mx2.example.net AAAA 2001:db8::3
    failing.example.net A FAIL
    us.example.org A 192.0.2.25
    alias.example.net A 192.0.2.25
    loop.example.net A 127.0.0.1
    loop.example.net A 0.0.0.0
    loop.example.net A 169.254.169.254
    loopv6.example.net AAAA ::1
    loopv6.example.net AAAA ::ffff:127.0.0.1
    mixed.example.net A 127.0.0.1
    mixed.example.net A 192.0.2.3
";

fn host() -> Domain {
    "us.example.org".parse().unwrap()
}

fn resolver(zone: Arc<Zone>, routes: Vec<Route>) -> Resolver {
    let own = Own {
        names: vec![host()],
        listening: vec!["192.0.2.25:25".parse().unwrap()],
    };
    let options = ResolverOptions {
        ttl_min: Duration::from_secs(1),
        ..ResolverOptions::default()
    };
    Resolver::new(Routes::new(routes).unwrap(), zone, own, options)
}

fn mx_route() -> Route {
    Route::new("mx", Via::Mx, host())
}

#[test]
fn a_message_keeps_its_source_and_all_together_follow_the_weights() {
    let source = |name: &str| Source {
        name: name.into(),
        ..Source::any("mx.example.org".parse::<Domain>().unwrap())
    };
    let mut route = Route::new("r", Via::Mx, "mx.example.org".parse().unwrap());
    route.sources = vec![(Arc::new(source("a")), 1), (Arc::new(source("b")), 3)];
    let of_a = (0..4000u64).filter(|&count| {
        let id =
            store::MessageId::assemble(1_700_000_000_000 + count / 3, (count % 4096) as u16, 77);
        let first = route.source(id.bits());
        assert!(Arc::ptr_eq(first, route.source(id.bits())));
        &*first.name == "a"
    });
    let share = of_a.count();
    assert!((800..1200).contains(&share), "{share}");
}

/// Site and hosts in one line, or the enhanced status code of the failure.
fn shown(answer: Result<Arc<Resolved>, ResolveError>) -> String {
    match answer {
        Ok(resolved) => {
            let hosts = resolved.hosts.iter();
            let hosts: Vec<_> = hosts
                .map(|host| format!("{} {} {:?}", host.preference, host.name, host.addresses))
                .collect();
            // Which digits stand for a set of hosts is `site`'s to say.
            let site = match resolved.site.split_once('~') {
                Some((suffix, _)) => format!("{suffix}~"),
                None => resolved.site.to_string(),
            };
            format!("{site}: {}", hosts.join(", "))
        }
        Err(error) => {
            let said = error.said();
            assert_eq!(said.code < 500, !error.is_permanent(), "{error}");
            format!("{} {}", said.code, said.enhanced.unwrap())
        }
    }
}

#[tokio::test(start_paused = true)]
async fn mail_goes_where_rfc5321_5_1_says() {
    let mx1 = "10 mx1.example.net [192.0.2.1]";
    let mx2 = "20 mx2.example.net [2001:db8::2, 192.0.2.2, 2001:db8::3]";
    let resolver = resolver(Arc::new(Zone::new(HOUR, ZONE)), vec![mx_route()]);
    for (domain, want) in [
        ("two.example", format!("example.net~: {mx1}, {mx2}")),
        ("null.example", "556 5.1.10".into()),
        ("half.example", format!("mx1.example.net: {mx1}")),
        (
            "implicit.example",
            "implicit.example: 0 implicit.example [192.0.2.9]".into(),
        ),
        ("bare.example", "550 5.1.2".into()),
        ("none.example", "550 5.1.2".into()),
        ("broken.example", "451 4.4.3".into()),
        ("brokena.example", "451 4.4.3".into()),
        ("partly.example", format!("example.net~: {mx2}")),
        ("nohost.example", "550 5.4.4".into()),
        ("junk.example", "550 5.4.4".into()),
        ("backup.example", format!("mx1.example.net: {mx1}")),
        ("ours.example", "554 5.4.6".into()),
        ("oursip.example", "554 5.4.6".into()),
        ("loop.example", "550 5.4.4".into()),
        ("loopv6.example", "550 5.4.4".into()),
        (
            "mixed.example",
            "mixed.example.net: 10 mixed.example.net [192.0.2.3]".into(),
        ),
        ("twice.example", format!("mx1.example.net: {mx1}")),
        (
            "[192.0.2.7]",
            "[192.0.2.7]: 0 [192.0.2.7] [192.0.2.7]".into(),
        ),
        (
            "[IPv6:2001:db8::7]",
            "[IPv6:2001:db8::7]: 0 [IPv6:2001:db8::7] [2001:db8::7]".into(),
        ),
        ("[127.0.0.1]", "550 5.4.4".into()),
        ("[192.0.2.25]", "554 5.4.6".into()),
        ("[tag:x]", "550 5.1.2".into()),
    ] {
        assert_eq!(shown(resolver.resolve(domain, "t").await), want, "{domain}");
        let known = resolver.known(domain, "t").map(shown);
        assert_eq!(known, Some(want), "{domain} is known now");
    }
}

#[tokio::test(start_paused = true)]
async fn loopback_and_ourselves_are_hosts_like_others_where_the_route_allows_it() {
    let route = Route {
        allow_loopback: true,
        ..mx_route()
    };
    let resolver = resolver(Arc::new(Zone::new(HOUR, ZONE)), vec![route]);
    for (domain, want) in [
        (
            "ours.example",
            "us.example.org: 10 us.example.org [192.0.2.25]",
        ),
        ("[127.0.0.1]", "[127.0.0.1]: 0 [127.0.0.1] [127.0.0.1]"),
    ] {
        assert_eq!(shown(resolver.resolve(domain, "t").await), want);
    }
}

#[tokio::test(start_paused = true)]
async fn domains_with_the_same_hosts_are_one_site_and_hosts_are_asked_for_once() {
    let zone = Arc::new(Zone::new(HOUR, ZONE));
    let resolver = resolver(Arc::clone(&zone), vec![mx_route()]);
    let many = (0..50).map(|n| resolver.resolve(["two.example", "also.example"][n % 2], "t"));
    let answers = futures_util::future::join_all(many).await;
    let sites: Vec<_> = answers.into_iter().map(|answer| answer.unwrap()).collect();
    assert!(sites.iter().all(|resolved| resolved.site == sites[0].site));
    // Another order of preference needs connections of its own.
    assert_ne!(sites[0].shape, sites[1].shape);
    assert!(Arc::ptr_eq(&sites[0], &sites[48]));
    // Two domains, two hosts, both families.
    assert_eq!(zone.asked.load(Ordering::Relaxed), 2 + 2 * 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_holds_as_long_as_it_says_and_a_failure_only_moments() {
    let zone = Arc::new(Zone::new(Duration::from_secs(100), ZONE));
    let resolver = resolver(Arc::clone(&zone), vec![mx_route()]);
    let first = resolver.resolve("two.example", "t").await.unwrap();
    assert!(resolver.resolve("broken.example", "t").await.is_err());
    zone.set("two.example A 192.0.2.77 \n broken.example A 192.0.2.78");
    tokio::time::advance(Duration::from_secs(20)).await;
    let again = resolver.resolve("two.example", "t").await.unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    let mended = resolver.resolve("broken.example", "t").await.unwrap();
    assert_eq!(
        mended.hosts[0].addresses,
        ["192.0.2.78".parse::<IpAddr>().unwrap()]
    );
    tokio::time::advance(Duration::from_secs(81)).await;
    assert!(resolver.known("two.example", "t").is_none());
    let other = resolver.resolve("two.example", "t").await.unwrap();
    assert_eq!(&*other.site, "two.example");
}

#[tokio::test(start_paused = true)]
async fn what_is_known_serves_while_the_dns_is_silent_and_not_for_ever() {
    let zone = Arc::new(Zone::new(Duration::from_secs(100), ZONE));
    let resolver = resolver(Arc::clone(&zone), vec![mx_route()]);
    let first = resolver.resolve("implicit.example", "t").await.unwrap();
    zone.set("implicit.example MX FAIL");
    for _ in 0..3 {
        tokio::time::advance(HOUR).await;
        let stale = resolver.resolve("implicit.example", "t").await.unwrap();
        assert!(Arc::ptr_eq(&first, &stale));
    }
    tokio::time::advance(24 * HOUR).await;
    let answer = resolver.resolve("implicit.example", "t").await;
    assert_eq!(shown(answer), "451 4.4.3");
    // That there is nothing is an answer.
    let other = resolver.resolve("mx1.example.net", "t").await;
    assert_eq!(shown(other), "550 5.1.2");
}

#[tokio::test(start_paused = true)]
async fn smarthosts_are_a_site_named_after_their_route_and_routes_can_be_replaced() {
    let relays = |port: u16| vec![format!("smtp://relay.example:{port}").parse().unwrap()];
    let smart = |port| Route {
        domains: vec!["two.example".parse().unwrap()],
        ..Route::new("smart", Via::Smarthosts(relays(port)), host())
    };
    let zone = Arc::new(Zone::new(HOUR, ZONE));
    let resolver = resolver(zone, vec![smart(25)]);
    let before = resolver.known("two.example", "t").unwrap().unwrap();
    assert_eq!(&*before.site, "smart");
    assert_eq!(
        shown(resolver.resolve("half.example", "t").await),
        "451 4.4.4"
    );
    resolver.set_routes(Routes::new(vec![smart(26), mx_route()]).unwrap());
    let after = resolver.resolve("two.example", "t").await.unwrap();
    assert_eq!(&*after.site, "smart");
    assert_ne!(
        before.shape, after.shape,
        "other settings, other connections"
    );
    assert!(resolver.resolve("half.example", "t").await.is_ok());
}

/// Answers queries on loopback: `a.test` is an alias of `b.test`, which has an MX; `s.test` fails.
mod server {
    use std::net::SocketAddr;

    use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
    use hickory_resolver::proto::rr::rdata::{A, CNAME, MX, SOA};
    use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
    use tokio::net::UdpSocket;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    pub(super) async fn start() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buf = [0; 4096];
            while let Ok((len, peer)) = socket.recv_from(&mut buf).await {
                let Ok(query) = Message::from_vec(&buf[..len]) else {
                    continue;
                };
                let bytes = answer(&query).to_vec().unwrap();
                let _ = socket.send_to(&bytes, peer).await;
            }
        });
        addr
    }

    fn answer(query: &Message) -> Message {
        let question = query.queries[0].clone();
        let mut reply = Message::response(query.metadata.id, OpCode::Query);
        reply.metadata.recursion_available = true;
        reply.metadata.recursion_desired = true;
        let mut add = |owner: &str, data| {
            reply.add_answer(Record::from_rdata(name(owner), 300, data));
        };
        let asked = question.name().to_ascii().to_ascii_lowercase();
        match (&*asked, question.query_type()) {
            ("a.test.", RecordType::MX) => {
                add("a.test.", RData::CNAME(CNAME(name("b.test."))));
                add("b.test.", RData::MX(MX::new(10, name("MX.test."))));
                add("b.test.", RData::MX(MX::new(5, name("not_a_host.test."))));
            }
            ("n.test.", RecordType::MX) => add("n.test.", RData::MX(MX::new(0, Name::root()))),
            ("mx.test.", RecordType::A) => add("mx.test.", RData::A(A::new(192, 0, 2, 1))),
            ("mx.test." | "i.test.", _) => {}
            ("s.test.", _) => reply.metadata.response_code = ResponseCode::ServFail,
            _ => reply.metadata.response_code = ResponseCode::NXDomain,
        }
        if reply.answers.is_empty() {
            let soa = SOA::new(name("ns.test."), name("h.test."), 1, 60, 60, 60, 60);
            reply.add_authority(Record::from_rdata(name("test."), 60, RData::SOA(soa)));
        }
        reply.add_query(question);
        reply
    }
}

#[tokio::test]
async fn hickory_asks_a_name_server_and_its_answers_mean_what_they_should() {
    let dns = HickoryDns::new(&[server::start().await]).unwrap();
    let domain = |text: &str| text.parse::<Domain>().unwrap();
    let found = dns.mx(&domain("a.test")).await.unwrap();
    let mx = Mx {
        preference: 10,
        host: Some(domain("mx.test")),
    };
    assert_eq!(
        found.records,
        [mx],
        "aliases are followed, names that are none left out"
    );
    assert!(found.ttl > Duration::from_secs(250) && found.ttl <= Duration::from_secs(300));
    let null = dns.mx(&domain("n.test")).await.unwrap();
    assert_eq!(
        null.records,
        [Mx {
            preference: 0,
            host: None
        }]
    );
    let addresses = dns.addresses(&domain("mx.test"), false).await.unwrap();
    assert_eq!(addresses.records, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    let kind = |error| match error {
        DnsError::NoName { .. } => "no name",
        DnsError::NoRecord { .. } => "no record",
        DnsError::Failed(_) => "failed",
    };
    assert_eq!(
        kind(dns.addresses(&domain("mx.test"), true).await.unwrap_err()),
        "no record"
    );
    assert_eq!(
        kind(dns.mx(&domain("i.test")).await.unwrap_err()),
        "no record"
    );
    assert_eq!(
        kind(dns.mx(&domain("x.test")).await.unwrap_err()),
        "no name"
    );
    assert_eq!(kind(dns.mx(&domain("s.test")).await.unwrap_err()), "failed");
    let many = (0..300).map(|n| dns.mx(&domain(&format!("n{n}.test"))));
    for answer in futures_util::future::join_all(many).await {
        assert_eq!(kind(answer.unwrap_err()), "no name");
    }
}

fn record() -> impl Strategy<Value = Mx> {
    let host = "(us|mx[1-4])\\.test";
    (0..4u16, proptest::option::weighted(0.9, host)).prop_map(|(preference, host)| Mx {
        preference,
        host: host.map(|host| host.parse().unwrap()),
    })
}

fn addresses() -> impl Strategy<Value = mx::Addresses> {
    let texts = vec![
        "127.0.0.1",
        "0.0.0.0",
        "::1",
        "192.0.2.1",
        "192.0.2.25",
        "2001:db8::1",
    ];
    let ip = proptest::sample::select(texts).prop_map(|text| text.parse::<IpAddr>().unwrap());
    let ttl = HOUR;
    prop_oneof![
        4 => proptest::collection::vec(ip, 1..4).prop_map(move |records| Ok(Found { records, ttl })),
        1 => Just(Err(DnsError::NoName { ttl })),
        1 => Just(Err(DnsError::NoRecord { ttl })),
        1 => Just(Err(DnsError::Failed("SERVFAIL".into()))),
    ]
}

proptest! {
    /// Whatever the DNS says: hosts come by preference, each once and with somewhere to go, never
    /// ourselves, nor anybody after us; and where there are none, there is a reason.
    #[test]
    fn mail_never_goes_to_ourselves(
        records in proptest::collection::vec(record(), 0..6),
        found in proptest::collection::vec(addresses(), 6),
    ) {
        let domain: Domain = "d.test".parse().unwrap();
        let own = Own {
            names: vec!["us.test".parse().unwrap()],
            listening: vec!["192.0.2.25:25".parse().unwrap()],
        };
        let search = mx::Search { domain: &domain, own: &own, port: 25, allow_loopback: false };
        let ours = records.iter().filter(|mx| mx.host.as_ref() == Some(&own.names[0]));
        let cut = ours.map(|mx| mx.preference).min().unwrap_or(u16::MAX);
        match search.named(Ok(&records)).and_then(|named| search.located(named, &found)) {
            Err(error) => prop_assert!(!error.to_string().is_empty()),
            Ok(hosts) => {
                prop_assert!(!hosts.is_empty());
                prop_assert!(hosts.is_sorted_by_key(|host| host.preference));
                for (index, host) in hosts.iter().enumerate() {
                    prop_assert!(host.preference < cut);
                    prop_assert!(hosts[..index].iter().all(|other| other.name != host.name));
                    prop_assert!(!host.addresses.is_empty());
                    let is_odd = |ip: &IpAddr| {
                        ip.is_loopback() || ip.is_unspecified() || ip.to_string() == "192.0.2.25"
                    };
                    prop_assert!(!host.addresses.iter().any(is_odd));
                }
            }
        }
    }
}
