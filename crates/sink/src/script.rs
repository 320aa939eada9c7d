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

use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use flow::rate::RateLimit;
use flow::rng::Rng;
use serde::Deserialize;
use smtp::{Address, Domain, EnhancedStatus, Reply, ReplyCode};

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

/// Why a text is no [`Script`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScriptError {
    /// Not TOML, or not with these keys.
    #[error("the rules cannot be read")]
    Toml(#[from] toml::de::Error),
    /// A rule whose parts do not go together.
    #[error("rule {number}: {what}")]
    Rule {
        /// Its number, from 1.
        number: usize,
        /// What is wrong with it.
        what: String,
    },
    /// A setting besides the rules.
    #[error("{key}: {what}")]
    Setting {
        /// Which.
        key: &'static str,
        /// What is wrong with it.
        what: String,
    },
}

impl FromStr for Script {
    type Err = ScriptError;

    fn from_str(text: &str) -> Result<Self, ScriptError> {
        let raw: RawScript = toml::from_str(text)?;
        let setting = |key| move |what| ScriptError::Setting { key, what };
        let rules = raw.rule.into_iter().enumerate().map(|(index, rule)| {
            rule.check().map_err(|what| ScriptError::Rule {
                number: index + 1,
                what,
            })
        });
        let greylist = raw.greylist.as_deref().map(duration).transpose();
        Ok(Self {
            seed: raw.seed,
            greylist: greylist.map_err(setting("greylist"))?,
            rate: match raw.rate {
                None => None,
                Some(rate) => Some(rate.check().map_err(setting("rate"))?),
            },
            rules: rules.collect::<Result<_, _>>()?,
        })
    }
}

impl FromStr for Rule {
    type Err = ScriptError;

    /// Reads the inside of an inline table: `at = "rcpt", domain = "x.example", do = "drop"`.
    fn from_str(text: &str) -> Result<Self, ScriptError> {
        let mut script: Script = format!("rule = [{{ {text} }}]").parse()?;
        script.rules.pop().ok_or_else(|| ScriptError::Rule {
            number: 1,
            what: "there is none".into(),
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScript {
    #[serde(default)]
    seed: u64,
    greylist: Option<String>,
    rate: Option<RawRate>,
    #[serde(default)]
    rule: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRate {
    limit: String,
    reply: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    at: Stage,
    address: Option<String>,
    domain: Option<String>,
    probability: Option<f64>,
    times: Option<u64>,
    delay: Option<String>,
    reply: Option<String>,
    r#do: Option<Deed>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum Deed {
    Drop,
    Reset,
    LoseReply,
}

impl RawRate {
    fn check(self) -> Result<(RateLimit, Reply), String> {
        let limit = self.limit.parse::<RateLimit>();
        let reply = match &self.reply {
            None => Reply::fixed(451, Some((4, 7, 1)), "Too fast, try again later"),
            Some(reply) => refusal(reply)?,
        };
        Ok((limit.map_err(|error| error.to_string())?, reply))
    }
}

impl RawRule {
    fn check(self) -> Result<Rule, String> {
        let action = match (self.reply.as_deref(), self.r#do) {
            (Some(_), Some(_)) => return Err("reply and do exclude each other".into()),
            (Some(text), None) => Action::Reply(refusal(text)?),
            (None, Some(Deed::Drop)) => Action::Drop,
            (None, Some(Deed::Reset)) => Action::Reset,
            (None, Some(Deed::LoseReply)) => Action::LoseReply,
            (None, None) => Action::Continue,
        };
        match (self.at, &action) {
            (Stage::Final, Action::LoseReply) => {}
            (_, Action::LoseReply) => return Err("lose-reply goes with at = \"final\"".into()),
            (Stage::Content, Action::Reply(_)) => {
                return Err("there is no reply while content comes".into());
            }
            _ => {}
        }
        let mut rule = Rule::new(self.at, action);
        rule.to = match (self.address, self.domain) {
            (None, None) => Target::Everybody,
            (Some(text), None) => Target::Address(text.parse().map_err(|e| format!("{e}"))?),
            (None, Some(text)) => Target::Domain(text.parse().map_err(|e| format!("{e}"))?),
            (Some(_), Some(_)) => return Err("address and domain exclude each other".into()),
        };
        let is_known = matches!(
            rule.at,
            Stage::Mail | Stage::Rcpt | Stage::Data | Stage::Content | Stage::Final
        );
        if rule.to != Target::Everybody && !is_known {
            return Err("no address is known at that stage".into());
        }
        rule.probability = self.probability.unwrap_or(1.0);
        if !(0.0..=1.0).contains(&rule.probability) {
            return Err("a probability is between 0 and 1".into());
        }
        rule.times = self.times.unwrap_or(u64::MAX);
        if let Some(delay) = self.delay {
            rule.delay = duration(&delay)?;
        }
        Ok(rule)
    }
}

/// Reads `451 4.7.1 Slow down`; the enhanced status code may be missing.
fn refusal(text: &str) -> Result<Reply, String> {
    let malformed = || format!("{text:?} is no reply such as \"451 4.7.1 Slow down\"");
    let (code, rest) = text.split_once(' ').unwrap_or((text, ""));
    let code = code.parse().ok().and_then(ReplyCode::new);
    let code = code
        .filter(|code| code.get() >= 400)
        .ok_or_else(malformed)?;
    Ok(match EnhancedStatus::parse_prefix(rest.as_bytes()) {
        Some((status, len)) => Reply::new(code, Some(status), &rest[len..]),
        None => Reply::new(code, None, rest),
    })
}

/// Reads `20ms`, `1.5s`, `250us`, `2min`.
///
/// # Errors
/// What is wrong with the text.
pub fn duration(text: &str) -> Result<Duration, String> {
    let unit_at = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let seconds_in_unit = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "min" => 60.0,
        _ => f64::NAN,
    };
    number
        .parse::<f64>()
        .ok()
        .and_then(|number| Duration::try_from_secs_f64(number * seconds_in_unit).ok())
        .ok_or_else(|| format!("{text:?} is no time such as 20ms, 1.5s or 2min"))
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

    const ALL: &str = r#"
        seed = 7
        greylist = "300ms"
        [rate]
        limit = "100/s"
        reply = "421 4.7.0 Slow down"
        [[rule]]
        at = "rcpt"
        domain = "full.example"
        probability = 0.5
        times = 3
        delay = "2s"
        reply = "452 4.2.2 Mailbox full"
        [[rule]]
        at = "final"
        do = "lose-reply"
    "#;

    #[test]
    fn a_script_says_what_it_means() {
        let script: Script = ALL.parse().unwrap();
        let full = Reply::fixed(452, Some((4, 2, 2)), "Mailbox full");
        let want = Rule::new(Stage::Rcpt, Action::Reply(full))
            .domain("full.example".parse().unwrap())
            .probability(0.5)
            .times(3)
            .delay(Duration::from_secs(2));
        assert_eq!(script.rules[0], want);
        assert_eq!(script.rules[1].action, Action::LoseReply);
        assert_eq!(
            (script.seed, script.greylist),
            (7, Some(Duration::from_millis(300)))
        );
        assert_eq!(script.rate.unwrap().1.to_string(), "421 4.7.0 Slow down");
    }

    #[test]
    fn mistakes_in_a_script_are_named() {
        for (text, what) in [
            ("sed = 1", "the rules cannot be read"),
            (
                "greylist = \"soon\"",
                "greylist: \"soon\" is no time such as 20ms, 1.5s or 2min",
            ),
            (
                "[[rule]]\nat = \"mail\"\ndo = \"lose-reply\"",
                "rule 1: lose-reply goes with at = \"final\"",
            ),
            (
                "[[rule]]\nat = \"ehlo\"\ndomain = \"x.example\"\ndo = \"drop\"",
                "rule 1: no address is known at that stage",
            ),
            (
                "[[rule]]\nat = \"mail\"\nreply = \"250 Ok\"",
                "rule 1: \"250 Ok\" is no reply such as \"451 4.7.1 Slow down\"",
            ),
            (
                "[rate]\nlimit = \"fast\"",
                "rate: a rate needs a unit, as in 1000/min: `fast`",
            ),
        ] {
            assert_eq!(text.parse::<Script>().unwrap_err().to_string(), what);
        }
    }

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
