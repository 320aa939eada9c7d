//! The routes in their order, and which is the first for a domain.
//!
//! Routes are found by the domain's text and by each of its parents', so that a thousand routes for
//! single domains cost no more than one.

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
    /// Indexes of routes, ascending, by what their patterns say.
    exactly: FxHashMap<Box<str>, Vec<u32>>,
    below: FxHashMap<Box<str>, Vec<u32>>,
    every: Vec<u32>,
}

impl Routes {
    /// Routes in the order in which they are tried.
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
            if list.last() != Some(&index) {
                list.push(index);
            }
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
        let mut best = self.first(self.exactly.get(domain), tenant, u32::MAX);
        best = self.first(Some(&self.every), tenant, best);
        if !self.below.is_empty() && !domain.starts_with('[') {
            let mut rest = domain;
            while let Some((_, parent)) = rest.split_once('.') {
                best = self.first(self.below.get(parent), tenant, best);
                rest = parent;
            }
        }
        Some((best, self.all.get(best as usize)?))
    }

    /// The first of `list` that takes this tenant's mail, if it is before `best`.
    fn first(&self, list: Option<&Vec<u32>>, tenant: &str, best: u32) -> u32 {
        let takes = |&&index: &&u32| {
            let route = &self.all[index as usize];
            route.tenant.as_deref().is_none_or(|only| only == tenant)
        };
        let found =
            list.and_then(|list| list.iter().take_while(|index| **index < best).find(takes));
        found.copied().unwrap_or(best)
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
    fn the_first_route_that_fits_domain_and_tenant_is_taken() {
        let routes = Routes::new(vec![
            route("special", &["a.example", "*.b.example"], None),
            route("theirs", &["*"], Some("acme")),
            route("late", &["c.example"], None),
            route("rest", &["*.example", "[192.0.2.1]"], None),
        ])
        .unwrap();
        for (domain, tenant, want) in [
            ("a.example", "acme", Some("special")),
            ("b.example", "acme", Some("theirs")),
            ("b.example", "other", Some("rest")),
            ("x.y.b.example", "other", Some("special")),
            ("c.example", "acme", Some("theirs")),
            ("c.example", "other", Some("late")),
            ("d.org", "other", None),
            ("[192.0.2.1]", "other", Some("rest")),
            ("[192.0.2.2]", "other", None),
        ] {
            assert_eq!(found(&routes, domain, tenant), want, "{domain} {tenant}");
        }
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
        /// The table gives what trying each route in its order would.
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
            let want = routes.iter().find(fits).map(|route| route.name.to_string());
            let table = Routes::new(routes).unwrap();
            prop_assert_eq!(found(&table, &domain, &tenant).map(str::to_owned), want);
        }
    }
}
