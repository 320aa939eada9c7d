//! How badly the sink behaves: rules read from TOML or made in Rust, and what they decide.
//!
//! ```toml
//! seed = 7                        # every chance is drawn from it
//! greylist = "300ms"              # a new triplet of client, sender, recipient: 451 for that long
//! [rate]
//! limit = "100/s"                 # with a tenth of a second's burst
//! reply = "451 4.7.1 Slow down"   # at MAIL; a 421 also closes
//! [[rule]]
//! at = "rcpt"                     # greeting ehlo auth mail rcpt data content final
//! domain = "full.example"         # or address = "a@full.example"; neither: everybody
//! probability = 0.5               # of the times it applies; 1 if not said
//! times = 3                       # at most, over the whole run
//! delay = "2s"                    # before what else it does
//! reply = "452 4.2.2 Mailbox full"
//! # or do = "drop", "reset" (RST), or at the final stage "lose-reply" (take the mail, then drop)
//! ```
//!
//! At `mail` an address is the reverse-path; at `rcpt` the recipient; at `data`, `content` and
//! `final` any recipient that was taken. Rules are tried in order; the first whose chance comes up decides.
//! The draws of a connection depend on the seed and its number only, so that runs with
//! the same connections repeat themselves; `times`, greylisting and the rate are shared by all.

mod read;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use flow::rate::RateLimit;
use flow::rng::Rng;
use serde::Deserialize;
use smtp::{Address, Domain, Reply};

pub use read::{ScriptError, duration};

/// When a rule applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Stage {
    /// In place of the 220.
    Greeting,
    /// EHLO and HELO.
    Ehlo,
    /// AUTH, once its credentials have come.
    Auth,
    /// MAIL.
    Mail,
    /// Each RCPT.
    Rcpt,
    /// DATA, and the first BDAT.
    Data,
    /// As the content begins to come. Replies are not possible here.
    Content,
    /// After the content.
    Final,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Nothing but its delay.
    Continue,
    /// Answers this instead.
    Reply(Reply),
    /// Closes without an answer.
    Drop,
    /// Resets the connection (RST).
    Reset,
    /// Takes the mail, then closes without an answer.
    LoseReply,
}

/// One rule.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Rule {
    at: Stage,
    to: Target,
    probability: f64,
    times: u64,
    delay: Duration,
    action: Action,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Everybody,
    Address(Address),
    Domain(Domain),
}

impl Rule {
    /// A rule for everybody, always.
    pub fn new(at: Stage, action: Action) -> Self {
        Self {
            at,
            to: Target::Everybody,
            probability: 1.0,
            times: u64::MAX,
            delay: Duration::ZERO,
            action,
        }
    }

    /// Only for this address.
    pub fn address(mut self, address: Address) -> Self {
        self.to = Target::Address(address);
        self
    }

    /// Only for this domain.
    pub fn domain(mut self, domain: Domain) -> Self {
        self.to = Target::Domain(domain);
        self
    }

    /// Only in this share of cases, 0 to 1.
    pub fn probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }

    /// At most so often over the whole run.
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// After waiting so long.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    fn concerns(&self, addresses: &[Address]) -> bool {
        match &self.to {
            Target::Everybody => true,
            Target::Address(address) => addresses.contains(address),
            Target::Domain(domain) => addresses.iter().any(|it| it.domain() == domain.as_str()),
        }
    }
}

/// All that a sink was told to do badly. `Default` is nothing.
#[derive(Debug, Clone, PartialEq, Default)]
#[must_use]
pub struct Script {
    /// What every chance is drawn from.
    pub seed: u64,
    /// How long a new triplet of client, sender and recipient is refused.
    pub greylist: Option<Duration>,
    /// Messages a second, and what the others are told at MAIL.
    pub rate: Option<(RateLimit, Reply)>,
    /// The rules, in the order they are tried.
    pub rules: Vec<Rule>,
}

/// A script at work; shared by all connections.
#[derive(Debug)]
pub(crate) struct Director {
    seed: u64,
    rules: Vec<(Rule, AtomicU64)>,
    /// Bit for each [`Stage`] that some rule is for: the others cost nothing.
    stages: u16,
}

impl Director {
    pub(crate) fn new(script: &Script) -> Self {
        let rules = script.rules.iter().cloned();
        Self {
            seed: script.seed,
            stages: script.rules.iter().fold(0, |set, rule| set | bit(rule.at)),
            rules: rules.map(|rule| (rule, AtomicU64::new(0))).collect(),
        }
    }

    /// The chances of one connection.
    pub(crate) fn dice(&self, connection: u64) -> Rng {
        // The first draw spreads neighbouring numbers.
        Rng::new(Rng::new(self.seed ^ connection.rotate_left(32)).next_u64())
    }

    /// Whether some rule is for one of these stages.
    pub(crate) fn has_rules_at(&self, stages: &[Stage]) -> bool {
        stages.iter().any(|&stage| self.stages & bit(stage) != 0)
    }

    /// The first rule that applies and whose chance comes up: its delay, and what it does.
    pub(crate) fn judge(
        &self,
        at: Stage,
        addresses: &[Address],
        dice: &mut Rng,
    ) -> Option<(Duration, &Action)> {
        if self.stages & bit(at) == 0 {
            return None;
        }
        let (rule, _) = self.rules.iter().find(|(rule, used)| {
            rule.at == at
                && rule.concerns(addresses)
                && dice.chance(rule.probability)
                && used.fetch_add(1, Relaxed) < rule.times
        })?;
        Some((rule.delay, &rule.action))
    }
}

const fn bit(stage: Stage) -> u16 {
    1 << stage as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_depend_on_the_seed_and_the_connection_only() {
        let rule: Rule = "at = \"final\", probability = 0.5, do = \"drop\""
            .parse()
            .unwrap();
        let draws = |seed, connection| {
            let director = Director::new(&Script {
                seed,
                rules: vec![rule.clone()],
                ..Script::default()
            });
            let mut dice = director.dice(connection);
            (0..64)
                .map(|_| director.judge(Stage::Final, &[], &mut dice).is_some())
                .collect::<Vec<_>>()
        };
        assert_eq!(draws(1, 1), draws(1, 1));
        assert_ne!(draws(1, 1), draws(1, 2));
        assert_ne!(draws(1, 1), draws(2, 1));
    }

    #[test]
    fn a_rule_applies_only_so_often_and_to_whom_it_concerns() {
        let rule: Rule = "at = \"rcpt\", domain = \"x.example\", times = 2, do = \"drop\""
            .parse()
            .unwrap();
        let director = Director::new(&Script {
            rules: vec![rule],
            ..Script::default()
        });
        let mut dice = director.dice(1);
        let mut hit = |at, address: &str| {
            let address = address.parse().unwrap();
            director.judge(at, &[address], &mut dice).is_some()
        };
        assert!(!hit(Stage::Rcpt, "a@y.example"));
        assert!(!hit(Stage::Mail, "a@x.example"));
        assert!(hit(Stage::Rcpt, "a@x.example"));
        assert!(hit(Stage::Rcpt, "b@x.example"));
        assert!(!hit(Stage::Rcpt, "c@x.example"));
    }
}
