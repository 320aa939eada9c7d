//! Signatures: keys, fields signed, body hashes.

use super::*;

const BODY: &str = "Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n";

/// RFC 8463 Appendix A.2, without its signatures.
const HEADER: &str = "From: Joe SixPack <joe@football.example.com>\r\n\
    To: Suzie Q <suzie@shopping.example.net>\r\n\
    Subject: Is dinner ready?\r\n\
    Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n\
    Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n";

/// The key of RFC 8463 Appendix A.2: its seed in PKCS#8.
fn rfc8463_key() -> SigningKey {
    let mut der = vec![
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04,
        0x20,
    ];
    let seed = STANDARD.decode("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=");
    der.extend(seed.unwrap());
    let pem = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        STANDARD.encode(der)
    );
    SigningKey::from_pem(pem.as_bytes()).unwrap()
}

fn signer() -> Signer {
    let domain = "football.example.com".parse().unwrap();
    Signer::new(domain, "Brisbane", rfc8463_key()).unwrap()
}

fn content(text: &str) -> Content {
    Content::new(text.to_owned()).unwrap()
}

fn sign(signer: &Signer, text: &str) -> String {
    let now = Timestamp::from_second(1_528_637_909).unwrap();
    let signed = signer.sign(&content(text), now).unwrap();
    assert!(signed == content(std::str::from_utf8(signed.as_bytes()).unwrap()));
    String::from_utf8(signed.as_bytes().to_vec()).unwrap()
}

/// The tags of the first signature, white space removed.
fn tag(signed: &str, name: &str) -> Option<String> {
    let end = signed.find("\r\nFrom:").unwrap();
    let field: String = signed[..end].split_whitespace().collect();
    let field = field.strip_prefix("DKIM-Signature:").unwrap();
    field
        .split(';')
        .find_map(|tag| tag.strip_prefix(&format!("{name}=")).map(str::to_owned))
}

#[test]
fn rfc8463_appendix_a_public_key() {
    assert_eq!(
        rfc8463_key().public_record().unwrap(),
        "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    );
}

#[test]
fn rfc8463_appendix_a_signature() {
    let field = "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n \
        d=football.example.com; i=@football.example.com;\r\n \
        q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n \
        subject : date : message-id : from : subject : date;\r\n \
        bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b=";
    assert_eq!(
        STANDARD.encode(body_hash(BODY.as_bytes())),
        "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8="
    );
    let (mut names, mut signed) = (String::new(), Vec::new());
    HeaderFields::of(HEADER.as_bytes()).select(
        &[],
        &["from", "to", "subject", "date", "message-id"],
        &mut names,
        &mut signed,
    );
    push_relaxed_field(field.as_bytes(), &mut signed);
    let digest = digest::digest(&digest::SHA256, &signed);
    assert_eq!(
        STANDARD.encode(rfc8463_key().sign(&digest).unwrap()),
        "/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw=="
    );
}

#[test]
fn the_field_says_who_signed_what_and_when() {
    let text = format!("{HEADER}\r\n{BODY}");
    let signed = sign(&signer().expires_after(Duration::from_secs(60)), &text);
    assert!(signed.ends_with(&text));
    for (name, want) in [
        ("v", "1"),
        ("a", "ed25519-sha256"),
        ("c", "relaxed/relaxed"),
        ("d", "football.example.com"),
        ("s", "brisbane"),
        ("t", "1528637909"),
        ("x", "1528637969"),
        ("bh", "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8="),
    ] {
        assert_eq!(tag(&signed, name).as_deref(), Some(want), "{name}");
    }
    assert_eq!(tag(&sign(&signer(), &text), "x"), None);
    assert!(signed.lines().all(|line| line.len() <= 78), "{signed}");
}

#[test]
fn rfc6376_8_15_fields_are_signed_once_more_than_they_occur() {
    let text = "From: a\r\nTo: b\r\nTo: c\r\nList-Unsubscribe: <https://x/>\r\n\
        List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nList-Id: <x>\r\n\r\nx\r\n";
    let names = tag(&sign(&signer(), text), "h").unwrap();
    let count = |name: &str| names.split(':').filter(|n| *n == name).count();
    for (name, times) in [
        ("from", 2),
        ("to", 3),
        ("cc", 1),
        ("subject", 1),
        ("reply-to", 1),
        ("list-unsubscribe", 2),
        ("list-unsubscribe-post", 2),
        ("list-id", 2),
        ("list-help", 0),
        ("sender", 0),
    ] {
        assert_eq!(count(name), times, "{name}");
    }
}

#[test]
fn without_exactly_one_from_nothing_is_signed() {
    for text in [
        "To: a\r\n\r\nx\r\n",
        "From: a\r\nFROM : b\r\n\r\n",
        "\r\nx\r\n",
    ] {
        let result = signer().sign(&content(text), Timestamp::UNIX_EPOCH);
        assert_eq!(result.unwrap_err(), SignError::From, "{text}");
    }
}

#[test]
fn the_body_hash_follows_the_body_and_not_the_last_one() {
    let signer = signer();
    let hash = |body: &str| tag(&sign(&signer, &format!("{HEADER}\r\n{body}")), "bh").unwrap();
    let (one, two) = (hash("one\r\n"), hash("two\r\n"));
    assert_ne!(one, two);
    assert_eq!((hash("one\r\n"), hash("one\r\n")), (one.clone(), one));
    assert_eq!(hash(BODY), "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=");
}

#[test]
fn a_selector_or_domain_that_cannot_be_one_is_refused() {
    let new = |domain: &str, selector: &str| {
        Signer::new(domain.parse().unwrap(), selector, rfc8463_key()).map(|_| ())
    };
    assert_eq!(new("[192.0.2.1]", "s"), Err(IdentityError::Domain));
    assert!(new("example.org", "s; d=evil.example").is_err());
    assert!(new("example.org", "2026._x.y-z").is_ok());
}
