//! The command line of sendmail(8), as mail programs have used it for decades: single letters, values
//! behind them or next to them, many that mean nothing any more and are passed over.

use std::ffi::OsString;

/// Letters that take a value, and are passed over.
const IGNORED_WITH_VALUE: &str = "ABCdDehLMOpX";
/// Letters that take none, and are passed over.
const IGNORED: &str = "cGmnsUvx";

/// What sendmail is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Mode {
    /// `-bm`: take a message from standard input.
    #[default]
    Deliver,
    /// `-bs`: speak SMTP on standard input and output.
    Session,
    /// `-bp`: show the queue.
    Queue,
    /// `-bi`, `-q`: something that is never needed here; done at once.
    Nothing,
}

/// The command line, not yet checked for addresses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Args {
    pub(super) mode: Mode,
    /// `-t`: recipients are in the header section too.
    pub(super) recipients_from_header: bool,
    /// `-i`: a lone dot ends nothing.
    pub(super) dot_is_text: bool,
    /// `-f`, `-r`: the reverse-path.
    pub(super) from: Option<String>,
    /// `-F`: the author's name.
    pub(super) full_name: Option<String>,
    /// `-N`: which notices are wanted.
    pub(super) notify: Option<String>,
    /// `-R`: how much of the message a notice has.
    pub(super) ret: Option<String>,
    /// `-V`: the envelope's id.
    pub(super) envelope_id: Option<String>,
    pub(super) recipients: Vec<String>,
}

impl Args {
    /// Reads it.
    ///
    /// # Errors
    /// A letter that is unknown or lacks its value, in words.
    pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut parsed = Self::default();
        let mut args = args
            .into_iter()
            .map(|arg| arg.to_string_lossy().into_owned());
        let mut only_recipients = false;
        while let Some(arg) = args.next() {
            match arg.strip_prefix('-') {
                Some("-") if !only_recipients => only_recipients = true,
                Some(letters) if !letters.is_empty() && !only_recipients => {
                    parsed.read(letters, &mut args)?;
                }
                _ => parsed.recipients.push(arg),
            }
        }
        Ok(parsed)
    }

    /// Letters of one argument, up to one that takes the rest of it as its value.
    fn read(
        &mut self,
        letters: &str,
        args: &mut dyn Iterator<Item = String>,
    ) -> Result<(), String> {
        for (at, letter) in letters.char_indices() {
            let rest = &letters[at + letter.len_utf8()..];
            let mut value = || {
                let value = match rest {
                    "" => args.next(),
                    rest => Some(rest.to_owned()),
                };
                value.ok_or_else(|| format!("-{letter} needs a value"))
            };
            match letter {
                't' => self.recipients_from_header = true,
                'i' => self.dot_is_text = true,
                // Its value is behind it or nowhere.
                'q' => {
                    self.mode = Mode::Nothing;
                    return Ok(());
                }
                'b' => return value().and_then(|mode| self.read_mode(&mode)),
                'o' => return value().map(|option| self.dot_is_text |= option.starts_with('i')),
                'f' | 'r' => return value().map(|from| self.from = Some(from)),
                'F' => return value().map(|name| self.full_name = Some(name)),
                'N' => return value().map(|notify| self.notify = Some(notify)),
                'R' => return value().map(|ret| self.ret = Some(ret)),
                'V' => return value().map(|id| self.envelope_id = Some(id)),
                letter if IGNORED_WITH_VALUE.contains(letter) => return value().map(drop),
                letter if IGNORED.contains(letter) => {}
                letter => return Err(format!("unknown flag -{letter}")),
            }
        }
        Ok(())
    }

    fn read_mode(&mut self, mode: &str) -> Result<(), String> {
        self.mode = match mode {
            "m" => Mode::Deliver,
            "s" => Mode::Session,
            "p" => Mode::Queue,
            "i" => Mode::Nothing,
            "d" | "D" => return Err("-bd: `mailrail serve` is the daemon".to_owned()),
            other => {
                return Err(format!(
                    "-b{other} is not supported; known: -bm, -bs, -bp, -bi"
                ));
            }
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn letters_stand_alone_together_or_with_their_value_attached() {
        let want = || Args {
            recipients_from_header: true,
            dot_is_text: true,
            from: Some("a@x.example".to_owned()),
            ..Args::default()
        };
        for line in [
            "-t -i -f a@x.example",
            "-ti -fa@x.example",
            "-it -ra@x.example",
            "-t -oi -f a@x.example",
            "-t -oi -odb -oem -om -f a@x.example -O DeliveryMode=b -v -G -B8BITMIME -Lphp",
            "-bm -t -o i -f a@x.example -X /dev/null -U",
        ] {
            assert_eq!(parse(line).unwrap(), want(), "{line}");
        }
    }

    #[test]
    fn what_is_no_flag_is_a_recipient() {
        let args = parse("-F Me a@x.example -- -b@x.example - c").unwrap();
        assert_eq!(args.full_name.as_deref(), Some("Me"));
        assert_eq!(args.recipients, ["a@x.example", "-b@x.example", "-", "c"]);
    }

    #[test]
    fn modes_are_known_or_refused() {
        for (line, mode) in [
            ("", Some(Mode::Deliver)),
            ("-bs", Some(Mode::Session)),
            ("-b s", Some(Mode::Session)),
            ("-bp", Some(Mode::Queue)),
            ("-q", Some(Mode::Nothing)),
            ("-q30m", Some(Mode::Nothing)),
            ("-bi", Some(Mode::Nothing)),
            ("-bd", None),
            ("-bt", None),
            ("-b", None),
            ("-f", None),
            ("-?", None),
            ("-tz", None),
        ] {
            assert_eq!(parse(line).ok().map(|args| args.mode), mode, "{line}");
        }
    }
}
