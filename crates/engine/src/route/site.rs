//! The name of a site: which MX hosts act as one remote.

use smtp::Domain;

/// One name for a set of hosts, the same in whatever order they come: a single host's own name, or
/// else what the names end in alike and eight digits that stand for the whole set, as in
/// `mail.example.net~1b2f9c04`.
pub(super) fn site_name<'a>(hosts: impl Iterator<Item = &'a Domain>) -> String {
    let mut names: Vec<&str> = hosts.map(Domain::as_str).collect();
    names.sort_unstable();
    names.dedup();
    let [first, rest @ ..] = &*names else {
        return String::new();
    };
    if rest.is_empty() {
        return (*first).to_owned();
    }
    let suffix = rest
        .iter()
        .fold(*first, |suffix, name| common_suffix(suffix, name));
    let suffix = if suffix.is_empty() { first } else { suffix };
    format!("{suffix}~{:08x}", fingerprint(&names))
}

/// The labels that both end in.
fn common_suffix<'a>(a: &'a str, b: &str) -> &'a str {
    let pairs = a.rsplit('.').zip(b.rsplit('.'));
    let alike = pairs.take_while(|(a, b)| a == b);
    let len: usize = alike.map(|(label, _)| label.len() + 1).sum();
    &a[a.len() - len.saturating_sub(1).min(a.len())..]
}

/// FNV-1a, folded. It need not withstand anybody: who wants to share a site names its hosts.
fn fingerprint(names: &[&str]) -> u32 {
    let bytes = names.iter().flat_map(|name| name.bytes().chain([0]));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, b| {
        (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ (hash >> 32)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(hosts: &[&str]) -> String {
        let hosts: Vec<Domain> = hosts.iter().map(|host| host.parse().unwrap()).collect();
        site_name(hosts.iter())
    }

    #[test]
    fn a_set_of_hosts_has_one_name_and_another_set_another() {
        assert_eq!(name(&["mx.example.net"]), "mx.example.net");
        let two = name(&["mx1.example.net", "mx2.example.net"]);
        assert!(two.starts_with("example.net~"), "{two}");
        assert_eq!(
            two,
            name(&["mx2.example.net", "mx1.example.net", "mx2.example.net"])
        );
        assert_ne!(two, name(&["mx1.example.net", "mx3.example.net"]));
        assert!(name(&["a.x.example", "b.x.example", "x.example"]).starts_with("x.example~"));
        assert!(name(&["ax.example", "bx.example"]).starts_with("example~"));
        assert!(name(&["b.test", "a.example"]).starts_with("a.example~"));
    }
}
