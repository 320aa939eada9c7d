//! Reading a [`Script`] from TOML: raw keys become checked rules once, and nothing after it sees a string.

use std::str::FromStr;
use std::time::Duration;

use flow::rate::RateLimit;
use serde::Deserialize;
use smtp::{EnhancedStatus, Reply, ReplyCode};

use super::{Action, Rule, Script, Stage, Target};

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
}
