//! The one place where a checked [`Config`] becomes what engine and edges are told.

use std::sync::Arc;

use client::TlsContext;
use engine::config::{Policy, Tenant as EngineTenant};
use engine::route::{self, Via};
use flow::backoff::Backoff;
use flow::retry::ErrorClass;
use server::auth::{Rules, User};
use server::smtp::{Listen as SmtpListen, Settings};
use store::HistoryOptions;

use super::Config;
use super::policy::Curve;
use super::route::{Hops, Route};
use super::tenant::{DEFAULT, Tenant};

impl Config {
    /// What the engine is opened with.
    ///
    /// # Errors
    /// Certificate authorities that rustls does not take.
    pub(crate) fn engine(&self) -> Result<engine::Config, client::BuildError> {
        let mut config = engine::Config::new(&self.data_dir, self.host.clone());
        config.routes = self.engine_routes();
        config.policy = self.policy();
        config.history = HistoryOptions {
            age_max: Some(self.history.age_max),
            bytes_max: Some(self.history.size_max.0),
            ..HistoryOptions::default()
        };
        if !self.tls.authorities.is_empty() {
            config.tls = Some(TlsContext::new(self.tls.authorities.clone())?);
        }
        config.listening = self
            .listen
            .smtp
            .iter()
            .chain(&self.listen.smtps)
            .copied()
            .collect();
        config.seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0u8);
        Ok(config)
    }

    /// Where mail goes, in order.
    pub(crate) fn engine_routes(&self) -> Vec<route::Route> {
        // A thousand routes share what they do not say for themselves.
        let common = route::Route::new("", Via::Mx, self.host.clone());
        self.routes
            .iter()
            .map(|route| self.engine_route(route, &common))
            .collect()
    }

    fn engine_route(&self, route: &Route, common: &route::Route) -> route::Route {
        let via = match &route.hops {
            Hops::Mx(_) => Via::Mx,
            Hops::Relays(relays) => Via::Smarthosts(relays.clone()),
        };
        let mut made = route::Route::new(&route.name, via, self.host.clone());
        if let Hops::Mx(tls) = route.hops {
            made.tls = tls;
        }
        made.domains.clone_from(&route.domains);
        made.tenant = route.tenant.as_deref().map(Arc::from);
        made.wire = route.wire;
        made.connections_max = route.connections_max.get().into();
        made.messages_per_connection = route.messages_per_connection_max.get();
        made.rate = route.rate;
        made.unknown = route.unknown;
        made.allow_loopback = route.allow_loopback;
        made.port = route.port.get();
        made.max_age = route.max_age;
        let chosen = self
            .sources
            .iter()
            .filter(|source| route.sources.contains(&source.name));
        let chosen = chosen.map(|source| {
            let ours = || self.host.clone().into();
            let made = route::Source {
                name: source.name.as_str().into(),
                ip: Some(source.ip),
                ehlo_name: source.ehlo_name.clone().unwrap_or_else(ours),
            };
            (Arc::new(made), source.weight.get().into())
        });
        made.sources = if route.sources.is_empty() {
            common.sources.clone()
        } else {
            chosen.collect()
        };
        made.timeouts = Arc::clone(&common.timeouts);
        made
    }

    /// What the engine may be told anew while it runs.
    pub(crate) fn policy(&self) -> Policy {
        let mut policy = Policy::default();
        let limits = &mut policy.limits;
        // Whoever keeps to the SIZE that is offered is not refused for what we add.
        limits.message_bytes_max = self
            .message_bytes_max()
            .saturating_add(server::smtp::ADDED_BYTES_MAX);
        limits.recipients_max = self.limits.recipients_max.get() as usize;
        limits.ahead_max = self.limits.ahead_max;
        limits.cpu_percent_max = self.limits.cpu_max.0;
        limits.memory_bytes_max = self.limits.memory_max.map(|size| size.0);
        limits.disk_free_bytes_min = self.limits.disk_free_min.0;
        policy.max_age = self.retry.max_age;
        policy.schedule.inflight_max = self.limits.in_flight_max.get();
        policy.schedule.rate = self.limits.rate;
        for &(class, curve) in &self.retry.curves {
            let backoff = backoff(class, curve);
            policy.schedule.retry = policy.schedule.retry.with_backoff(class, backoff);
        }
        for tenant in &self.tenants {
            policy
                .tenants
                .insert(tenant.name.as_str().into(), limits_of(tenant));
        }
        policy.signers = self.dkim.clone();
        policy.suppress_bounced = self.suppression.hard_bounces;
        policy.notices = self.dsn.bounces;
        policy.delay_notice = self.dsn.delays;
        policy
    }

    /// Where the SMTP edge listens.
    pub(crate) fn smtp_listen(&self) -> Vec<SmtpListen> {
        let clear = self
            .listen
            .smtp
            .iter()
            .map(|address| SmtpListen::from(*address));
        let encrypted = self.listen.smtps.iter().map(|address| SmtpListen {
            address: *address,
            implicit_tls: true,
        });
        clear.chain(encrypted).collect()
    }

    /// What the SMTP edge is told.
    pub(crate) fn smtp_settings(&self) -> Settings {
        let mut settings = Settings::new(self.host.clone());
        let (limits, ours) = (&mut settings.limits, &self.limits);
        limits.connections_max = ours.connections_max.get() as usize;
        limits.stranger_connections_max = ours.connections_per_stranger_max.get();
        limits.tenant_connections_max = ours.connections_per_tenant_max.map(Into::into);
        limits.recipients_max = ours.recipients_max.get();
        limits.message_bytes_max = ours.message_max.0;
        limits.errors_max = ours.errors_max.get();
        limits.idle = ours.idle_max;
        settings
    }

    /// What the HTTP edge is told: base64 takes a third more than the message.
    pub(crate) fn http_config(&self) -> server::http::Config {
        let mut config = server::http::Config::default();
        config.body_bytes_max = config
            .body_bytes_max
            .max(self.message_bytes_max() / 3 * 4 + (1 << 20));
        config.bodies_bytes_max = config.bodies_bytes_max.max(config.body_bytes_max);
        config
    }

    /// Who may submit.
    pub(crate) fn rules(&self) -> Rules {
        let mut rules = Rules {
            loopback: self.listen.trust_loopback.then(|| DEFAULT.into()),
            ..Rules::default()
        };
        for tenant in &self.tenants {
            let name: Arc<str> = tenant.name.as_str().into();
            rules.users.extend(tenant.users.iter().map(|user| User {
                name: user.name.as_str().into(),
                tenant: Arc::clone(&name),
                password: user.password_hash.clone(),
            }));
            let networks = tenant.networks.iter();
            rules
                .networks
                .extend(networks.map(|network| (*network, Arc::clone(&name))));
        }
        rules
    }

    fn message_bytes_max(&self) -> usize {
        usize::try_from(self.limits.message_max.0).unwrap_or(usize::MAX)
    }
}

/// Jitter as in `schedule::RETRY`: greylisting is timed more exactly than the rest.
fn backoff(class: ErrorClass, curve: Curve) -> Backoff {
    let jitter = match class {
        ErrorClass::Greylisted => 0.2,
        _ => 0.25,
    };
    Backoff::new(curve.first, curve.longest).with_jitter(jitter)
}

fn limits_of(tenant: &Tenant) -> EngineTenant {
    let mut limits = EngineTenant::default();
    limits.quota.rate = tenant.rate;
    limits.quota.burst = tenant.burst.get();
    limits.quota.daily_max = tenant.daily_max.map(|max| max.get().into());
    limits.quota.stock_max = tenant.waiting_max.map(|max| max.get().into());
    limits.sending.weight = tenant.weight.get();
    limits.sending.rate = tenant.sending_rate;
    if let Some(max) = tenant.in_flight_max {
        limits.sending.inflight_max = max.get();
    }
    limits
}
