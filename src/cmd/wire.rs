//! Flags that say how many connections work, and how; `send` and `bench` share them.

use client::{Concurrency, PoolBuilder, Wire};
use flow::rate::RateLimit;

use crate::mistakes::Mistakes;

/// Cap of `--connections auto`.
const AUTO_CONNECTIONS_MAX: usize = 64;
/// Most connections that may be asked for.
const CONNECTIONS_MAX: usize = 65_536;
/// Window of `--mode windowed` without `--window`.
const WINDOW_DEFAULT: u8 = 8;
/// Most messages unanswered on one connection; a cut one leaves that many unknown.
const WINDOW_MAX: u8 = 64;

/// Connections and grouping of commands.
#[derive(clap::Args, Default)]
#[command(next_help_heading = "Speed")]
pub(crate) struct WireArgs {
    /// Connections at work at once: a number, `auto` (finds what this relay can bear), or auto:MAX
    #[arg(long, short, value_name = "N|auto", default_value = "10")]
    connections: String,

    /// Messages unanswered on one connection (BDAT); above 1 only for a relay of your own
    #[arg(long, value_name = "W")]
    window: Option<String>,

    /// Round trips a message: lockstep (4), pipelined (2), overlapped (1) or windowed (1/W)
    /// [default: overlapped, or windowed where --window is above 1]
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,

    /// At most so many messages, evenly spaced: 1000/min, 50/s, 3600/hour
    #[arg(long, value_name = "RATE")]
    rate: Option<String>,
}

/// [`WireArgs`], checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WireSettings {
    pub(crate) wire: Wire,
    pub(crate) concurrency: Concurrency,
    pub(crate) rate: Option<RateLimit>,
}

impl WireArgs {
    /// `None` where a mistake was noted.
    pub(crate) fn settings(&self, mistakes: &mut Mistakes) -> Option<WireSettings> {
        let concurrency = read_concurrency(&self.connections);
        let concurrency = mistakes.take("--connections", concurrency);
        let wire = self.read_wire().map_err(|error| mistakes.add(error)).ok();
        let rate = match &self.rate {
            Some(rate) => Some(mistakes.take("--rate", rate.parse())?),
            None => None,
        };
        Some(WireSettings {
            wire: wire?,
            concurrency: concurrency?,
            rate,
        })
    }

    fn read_wire(&self) -> Result<Wire, String> {
        let window = match self.window.as_deref().map(str::parse::<u8>) {
            None => None,
            Some(Ok(window @ 1..=WINDOW_MAX)) => Some(window),
            Some(_) => return Err(format!("--window: not a number from 1 to {WINDOW_MAX}")),
        };
        let wire = match self.mode.as_deref() {
            None if window.is_some_and(|window| window > 1) => return Ok(windowed(window)),
            Some("windowed") => return Ok(windowed(window)),
            None | Some("overlapped") => Wire::Overlapped,
            Some("pipelined") => Wire::Pipelined,
            Some("lockstep") => Wire::Lockstep,
            Some(other) => {
                return Err(format!(
                    "--mode: unknown mode {other:?}; known: lockstep, pipelined, overlapped, windowed"
                ));
            }
        };
        match window {
            None | Some(1) => Ok(wire),
            Some(_) => Err("--window above 1 goes with --mode windowed only".to_owned()),
        }
    }
}

impl WireSettings {
    /// Puts them into a pool's settings.
    pub(crate) fn apply(self, builder: PoolBuilder) -> PoolBuilder {
        let builder = builder.wire(self.wire).concurrency(self.concurrency);
        match self.rate {
            Some(rate) => builder.rate(rate),
            None => builder,
        }
    }

    /// The most connections there will be.
    pub(crate) fn connections_max(self) -> usize {
        match self.concurrency {
            Concurrency::Fixed(n) | Concurrency::Auto { max: n } => n,
        }
    }

    /// Messages in hand that keep every connection busy, and no more.
    pub(crate) fn in_flight_max(self) -> usize {
        in_flight_max(self.wire, self.connections_max())
    }
}

/// Messages in hand that keep so many connections busy, and no more.
pub(crate) fn in_flight_max(wire: Wire, connections: usize) -> usize {
    let on_wire = match wire {
        // The content of one and the commands of the next.
        Wire::Overlapped => 2,
        wire => usize::from(window_of(wire)),
    };
    connections * (on_wire + 1)
}

fn windowed(window: Option<u8>) -> Wire {
    Wire::Windowed(window.unwrap_or(WINDOW_DEFAULT))
}

/// Transactions unanswered on one connection.
pub(crate) fn window_of(wire: Wire) -> u8 {
    match wire {
        Wire::Windowed(window) => window,
        _ => 1,
    }
}

/// The word for a mode.
pub(crate) fn mode_name(wire: Wire) -> &'static str {
    match wire {
        Wire::Lockstep => "lockstep",
        Wire::Pipelined => "pipelined",
        Wire::Overlapped => "overlapped",
        Wire::Windowed(_) => "windowed",
    }
}

fn read_concurrency(text: &str) -> Result<Concurrency, String> {
    let number = |text: &str| match text.parse() {
        Ok(n @ 1..=CONNECTIONS_MAX) => Ok(n),
        _ => Err(format!(
            "{text:?} is neither auto nor a number from 1 to {CONNECTIONS_MAX}"
        )),
    };
    match text.strip_prefix("auto") {
        None => number(text).map(Concurrency::Fixed),
        Some("") => Ok(Concurrency::Auto {
            max: AUTO_CONNECTIONS_MAX,
        }),
        Some(rest) => {
            let max = rest.strip_prefix(':').unwrap_or(text);
            number(max).map(|max| Concurrency::Auto { max })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(connections: &str, mode: &str, window: &str) -> Option<WireSettings> {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let args = WireArgs {
            connections: connections.to_owned(),
            window: given(window),
            mode: given(mode),
            rate: None,
        };
        args.settings(&mut Mistakes::default())
    }

    #[test]
    fn mode_and_window_go_together_or_are_refused() {
        for (mode, window, want) in [
            ("", "", Some(Wire::Overlapped)),
            ("", "1", Some(Wire::Overlapped)),
            ("", "4", Some(Wire::Windowed(4))),
            ("windowed", "", Some(Wire::Windowed(WINDOW_DEFAULT))),
            ("windowed", "1", Some(Wire::Windowed(1))),
            ("lockstep", "1", Some(Wire::Lockstep)),
            ("pipelined", "", Some(Wire::Pipelined)),
            ("pipelined", "4", None),
            ("", "0", None),
            ("", "65", None),
            ("fast", "", None),
        ] {
            let wire = settings("1", mode, window).map(|settings| settings.wire);
            assert_eq!(wire, want, "{mode:?} {window:?}");
        }
    }

    #[test]
    fn connections_are_a_number_or_found_out() {
        for (text, want) in [
            ("7", Some(Concurrency::Fixed(7))),
            (
                "auto",
                Some(Concurrency::Auto {
                    max: AUTO_CONNECTIONS_MAX,
                }),
            ),
            ("auto:9", Some(Concurrency::Auto { max: 9 })),
            ("0", None),
            ("auto:", None),
            ("automatic", None),
            ("65537", None),
        ] {
            let concurrency = settings(text, "", "").map(|settings| settings.concurrency);
            assert_eq!(concurrency, want, "{text:?}");
        }
    }

    #[test]
    fn what_is_in_hand_keeps_every_connection_busy() {
        assert_eq!(settings("10", "", "").unwrap().in_flight_max(), 30);
        assert_eq!(settings("10", "", "8").unwrap().in_flight_max(), 90);
    }
}
