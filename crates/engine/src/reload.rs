//! Other settings for what waits already.
//!
//! A site gets its policy from the route of whatever is handed in for it; where all that waits for it came before,
//! it would keep the old one. Of sites found by MX it is not known which route led there: where those differ in
//! their limits, a site takes the new ones with the next message for it.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use schedule::{Config, SitePolicy};

use crate::core::Core;
use crate::queue::{UNRESOLVED, schedule_name, site_policy};
use crate::route::{Route, Via};

/// The share that one of so many schedules has of what is for the whole engine.
pub(crate) fn share(config: &Config, shards: usize) -> Config {
    let mut config = config.clone();
    config.inflight_max = config.inflight_max.div_ceil(shards as u32);
    config
}

/// What routes say of sites.
#[derive(Debug, Default)]
struct Policies {
    by_name: FxHashMap<Arc<str>, SitePolicy>,
    /// Of each that leads to mail exchangers.
    of_mx: Vec<SitePolicy>,
}

impl Policies {
    fn of(routes: &[Arc<Route>]) -> Self {
        let mut policies = Self::default();
        for route in routes {
            let policy = site_policy(route);
            match route.via {
                Via::Smarthosts(_) => {
                    for (source, _) in &route.sources {
                        let name = schedule_name(&route.name, source);
                        policies.by_name.insert(name, policy.clone());
                    }
                }
                Via::Mx => policies.of_mx.push(policy),
            }
        }
        policies.of_mx.dedup();
        policies
    }

    fn find(&self, site: &str) -> Option<&SitePolicy> {
        let of_mx = match &self.of_mx[..] {
            [only] => Some(only),
            _ => None,
        };
        self.by_name.get(site).or(of_mx)
    }
}

impl Core {
    /// Tells the schedules what the policy and the routes in force say.
    pub(crate) fn configure(self: &Arc<Self>) {
        let policy = self.policy.load_full();
        let policies = Policies::of(self.resolver.routes().all());
        let config = share(&policy.schedule, self.shards.len());
        for shard in 0..self.shards.len() {
            self.turn(shard, |schedule, _| {
                schedule.configure(config.clone());
                let sites: Vec<_> = schedule.sites().map(|site| site.name).collect();
                for site in sites.iter().filter(|site| ***site != *UNRESOLVED) {
                    if let Some(policy) = policies.find(site) {
                        schedule.site(site, policy);
                    }
                }
                let tenants: Vec<_> = schedule.tenants().map(|tenant| tenant.name).collect();
                for tenant in &tenants {
                    schedule.tenant(tenant, &policy.tenant(tenant).sending);
                }
            });
        }
    }
}
