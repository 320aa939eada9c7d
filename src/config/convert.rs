//! The one place where a checked [`Config`] becomes what engine and edges are told.

use std::sync::Arc;

use server::auth::{Rules, User};
use server::smtp::{Listen as SmtpListen, Settings};

use super::Config;
use super::tenant::DEFAULT;

impl Config {
    /// What the engine is opened with.
    pub(crate) fn engine(&self) -> engine::Config {
        let mut config = engine::Config::new(&self.data_dir, self.host.clone());
        let limits = &mut config.policy.limits;
        limits.message_bytes_max = self.message_bytes_max();
        limits.recipients_max = self.limits.recipients_max.get() as usize;
        limits.ahead_max = self.limits.ahead_max;
        limits.memory_bytes_max = self.limits.memory_max.map(|size| size.0);
        limits.disk_free_bytes_min = self.limits.disk_free_min.0;
        config.policy.max_age = self.retry.max_age;
        config
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
        config.ahead_max = self.limits.ahead_max;
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
