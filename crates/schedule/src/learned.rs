//! What a site taught, to be kept over a restart.

use std::sync::Arc;

use flow::Time;
use flow::pace::Pace;
use flow::window::Window;

use crate::policy::SitePolicy;
use crate::schedule::Schedule;
use crate::site::{Site, window_limits};

/// What was learned of one site.
#[derive(Debug, Clone, PartialEq)]
pub struct Learned {
    /// Messages a second that it takes, if it ever refused more.
    pub pace_per_s: Option<f64>,
    /// Messages in flight that it takes.
    pub window: u16,
    /// When.
    pub at: Time,
}

impl Learned {
    /// `None` if there is nothing that a new site would not begin with.
    pub(crate) fn of(site: &Site, policy: &SitePolicy, now: Time) -> Option<Self> {
        let learned = Self {
            pace_per_s: site.pace.as_ref().map(|pace| pace.learned()),
            window: site.window.size(),
            at: now,
        };
        let is_new = learned.window == Window::new(&window_limits(policy)).size();
        (learned.pace_per_s.is_some() || !is_new).then_some(learned)
    }

    pub(crate) fn apply(&self, site: &mut Site, policy: &SitePolicy, now: Time) {
        site.window = Window::at(self.window, &window_limits(policy));
        if policy.pace {
            let pace = self.pace_per_s.filter(|pace| pace.is_finite());
            site.pace = pace.map(|pace| Box::new(Pace::new(pace, now)));
        }
    }
}

impl Schedule {
    /// What was learned of all sites, those forgotten too, to be given to [`Schedule::import_learned`] after a restart.
    #[must_use]
    pub fn export_learned(&self) -> Vec<(Arc<str>, Learned)> {
        let sites = self.sites.iter().filter(|site| !site.is_free());
        let here = sites.filter_map(|site| {
            let policy = &self.policies[site.policy as usize];
            Some((Arc::clone(&site.name), Learned::of(site, policy, self.now)?))
        });
        let forgotten = self.learned.iter();
        let forgotten = forgotten.map(|(name, learned)| (Arc::clone(name), learned.clone()));
        here.chain(forgotten).collect()
    }

    /// Takes over what an earlier schedule learned: at once for sites that are there, else when they come.
    pub fn import_learned(&mut self, learned: impl IntoIterator<Item = (Arc<str>, Learned)>) {
        for (name, learned) in learned {
            match self.site_names.get(&name) {
                Some(&index) => {
                    let site = &mut self.sites[index as usize];
                    learned.apply(site, &self.policies[site.policy as usize], self.now);
                }
                None => {
                    self.learned.insert(name, learned);
                }
            }
        }
    }

    /// Drops what was learned of sites not seen since `before`.
    pub fn forget_learned(&mut self, before: Time) {
        self.learned.retain(|_, learned| learned.at >= before);
    }
}
