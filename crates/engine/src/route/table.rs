//! All routes, and which is a domain's.
//!
//! The most specific pattern wins: the domain itself, then its nearest parent, then `*`. Of routes
//! with one pattern, a tenant's own comes before one for all tenants, and then the first. A thousand
//! routes for single domains cost no more than one.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{Pattern, Route, Via};

/// Why routes cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// Two routes of one name: their sites could not be told apart.
    #[error("there are two routes named {0:?}")]
    Twice(Arc<str>),
    /// No smarthost.
    #[error("route {0:?} has no smarthost and does not use mx")]
    NoSmarthost(Arc<str>),
    /// No egress source, or none with a weight.
    #[error("route {0:?} has no egress source with a weight")]
    NoSource(Arc<str>),
    /// A user whose password is missing.
    #[error("route {0:?} has a user for {1} but no password")]
    NoPassword(Arc<str>, String),
}

/// All routes.
#[derive(Debug, Default)]
pub struct Routes {
    all: Vec<Arc<Route>>,
    /// Indexes of routes by what their patterns say, those of one tenant first.
    exactly: FxHashMap<Box<str>, Vec<u32>>,
    below: FxHashMap<Box<str>, Vec<u32>>,
    every: Vec<u32>,
}

impl Routes {
    /// See the module for what their order means.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn new(routes: Vec<Route>) -> Result<Self, Vec<RouteError>> {
        let mut errors = Vec::new();
        let mut table = Self::default();
        for route in routes {
            if table.all.iter().any(|other| other.name == route.name) {
                errors.push(RouteError::Twice(route.name.clone()));
            }
            check(&route, &mut errors);
            table.add(route);
        }
        if errors.is_empty() {
            Ok(table)
        } else {
            Err(errors)
        }
    }

    fn add(&mut self, route: Route) {
        let index = self.all.len() as u32;
        for pattern in &route.domains {
            let list = match pattern {
                Pattern::All => &mut self.every,
                Pattern::Exactly(domain) => self.exactly.entry(domain.as_str().into()).or_default(),
                Pattern::Below(domain) => self.below.entry(domain.as_str().into()).or_default(),
            };
            let place = match route.tenant {
                Some(_) => list
                    .iter()
                    .filter(|other| self.all[**other as usize].tenant.is_some())
                    .count(),
                None => list.len(),
            };
            list.insert(place, index);
        }
        self.all.push(Arc::new(route));
    }

    /// In their order.
    #[must_use]
    pub fn all(&self) -> &[Arc<Route>] {
        &self.all
    }

    /// The route for a domain's mail: its index and itself.
    ///
    /// * `domain`: canonical, as [`smtp::Address::domain`] is.
    #[must_use]
    pub fn find(&self, domain: &str, tenant: &str) -> Option<(u32, &Arc<Route>)> {
        let exactly = self.first(self.exactly.get(domain), tenant);
        let below = || self.below(domain, tenant);
        let every = || self.first(Some(&self.every), tenant);
        let index = exactly.or_else(below).or_else(every)?;
        Some((index, &self.all[index as usize]))
    }

    fn below(&self, domain: &str, tenant: &str) -> Option<u32> {
        if self.below.is_empty() || domain.starts_with('[') {
            return None;
        }
        let parents = std::iter::successors(Some(domain), |rest| Some(rest.split_once('.')?.1));
        parents
            .skip(1)
            .find_map(|parent| self.first(self.below.get(parent), tenant))
    }

    /// The first of `list` that takes this tenant's mail.
    fn first(&self, list: Option<&Vec<u32>>, tenant: &str) -> Option<u32> {
        let takes = |index: &&u32| {
            let route = &self.all[**index as usize];
            route.tenant.as_deref().is_none_or(|only| only == tenant)
        };
        list?.iter().find(takes).copied()
    }
}

fn check(route: &Route, errors: &mut Vec<RouteError>) {
    let name = || Arc::clone(&route.name);
    if route.sources.iter().all(|(_, weight)| *weight == 0) {
        errors.push(RouteError::NoSource(name()));
    }
    let Via::Smarthosts(relays) = &route.via else {
        return;
    };
    if relays.is_empty() {
        errors.push(RouteError::NoSmarthost(name()));
    }
    for relay in relays {
        if relay.user.is_some() && relay.password.is_none() {
            errors.push(RouteError::NoPassword(name(), relay.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn route(name: &str, domains: &[&str], tenant: Option<&str>) -> Route {
        Route {
            domains: domains.iter().map(|text| text.parse().unwrap()).collect(),
            tenant: tenant.map(Arc::from),
            ..Route::new(name, Via::Mx, "mx.example.org".parse().unwrap())
        }
    }

    fn found<'a>(routes: &'a Routes, domain: &str, tenant: &str) -> Option<&'a str> {
        routes.find(domain, tenant).map(|(_, route)| &*route.name)
    }

    #[test]
    fn the_most_specific_route_is_taken_and_a_tenants_own_before_the_common_one() {
        let routes = Routes::new(vec![
            route("rest", &["*"], None),
            route("below", &["*.example", "[192.0.2.1]"], None),
            route("special", &["a.example", "*.b.example"], None),
            route("theirs", &["*", "c.example"], Some("acme")),
            route("late", &["c.example"], None),
        ])
        .unwrap();
        for (domain, tenant, want) in [
            ("a.example", "acme", "special"),
            ("b.example", "acme", "below"),
            ("x.y.b.example", "other", "special"),
            ("c.example", "acme", "theirs"),
            ("c.example", "other", "late"),
            ("d.org", "acme", "theirs"),
            ("d.org", "other", "rest"),
            ("[192.0.2.1]", "other", "below"),
            ("[192.0.2.2]", "other", "rest"),
        ] {
            assert_eq!(
                found(&routes, domain, tenant),
                Some(want),
                "{domain} {tenant}"
            );
        }
        assert_eq!(found(&Routes::default(), "d.org", "acme"), None);
    }

    #[test]
    fn all_that_is_wrong_is_named() {
        let mut bare = route("a", &["*"], None);
        bare.sources.clear();
        bare.via = Via::Smarthosts(Vec::new());
        let mut no_password = route("a", &["*"], None);
        no_password.via = Via::Smarthosts(vec!["smtp://u@relay.example".parse().unwrap()]);
        let errors = Routes::new(vec![bare, no_password]).unwrap_err();
        assert_eq!(errors.len(), 4, "{errors:?}");
    }

    proptest! {
        /// The table gives what a look at every route would.
        #[test]
        fn the_table_agrees_with_a_walk(
            patterns in proptest::collection::vec("(\\*|(\\*\\.)?([ab]\\.){0,2}[ab])", 0..8),
            tenants in proptest::collection::vec(proptest::option::of("[xy]"), 8),
            domain in "([ab]\\.){0,3}[ab]",
            tenant in "[xyz]",
        ) {
            let routes = patterns.iter().zip(&tenants).enumerate();
            let routes: Vec<_> = routes
                .map(|(n, (pattern, tenant))| route(&n.to_string(), &[pattern], tenant.as_deref()))
                .collect();
            let fits = |route: &&Route| {
                let domain_fits = match &route.domains[0] {
                    Pattern::All => true,
                    Pattern::Exactly(exactly) => exactly.as_str() == domain,
                    Pattern::Below(above) => domain.ends_with(&format!(".{above}")),
                };
                domain_fits && route.tenant.as_deref().is_none_or(|only| only == tenant)
            };
            // Of equals the first is the least.
            let rank = |route: &&Route| {
                let specific = match &route.domains[0] {
                    Pattern::All => 0,
                    Pattern::Below(above) => 1 + above.as_str().len(),
                    Pattern::Exactly(_) => usize::MAX,
                };
                (std::cmp::Reverse(specific), route.tenant.is_none())
            };
            let want = routes.iter().filter(fits).min_by_key(rank);
            let want = want.map(|route| route.name.to_string());
            let table = Routes::new(routes).unwrap();
            prop_assert_eq!(found(&table, &domain, &tenant).map(str::to_owned), want);
        }
    }
}
