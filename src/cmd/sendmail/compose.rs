//! What comes from standard input, made into a message with an envelope.

use jiff::Timestamp;
use message::{Eml, EmlError, Mailbox};
use smtp::envelope::{EnvelopeId, Notify, Ret};
use smtp::{Address, Content, Domain, Envelope, Recipient, ReversePath};

use super::args::Args;
use super::speakable::speakable;
use crate::exit::{Exit, Stop};

/// Who runs us, where: what is added to addresses and messages that lack it.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) login: String,
    pub(super) host: Domain,
    pub(super) now: Timestamp,
    /// Makes a Message-ID unique.
    pub(super) unique: String,
}

impl Caller {
    /// An address as people give it to sendmail: a login name is one at this host.
    fn address(&self, text: &str) -> Result<Address, String> {
        let whole = match text.contains('@') {
            true => text.to_owned(),
            false => format!("{text}@{}", self.host),
        };
        whole.parse().map_err(|error| format!("{text:?}: {error}"))
    }
}

/// A message and whom it goes to.
///
/// # Errors
/// 65 for what is no message, 67 for what is no address, 64 where nobody is to get it.
pub(super) fn compose(
    args: &Args,
    caller: &Caller,
    text: &[u8],
) -> Result<(Envelope, Content), Stop> {
    let text = speakable(normal(text));
    let eml = Eml::parse(&text).map_err(|error| Stop::new(Exit::Data, error))?;
    let has_author = has_field(eml.content(), "from");
    let recipients = recipients(args, caller, || implied(&text, has_author))?;
    let reverse_path = reverse_path(args, caller, &text)?;
    let fields = missing(args, caller, &eml, &reverse_path)?;
    let content = match fields.is_empty() {
        true => eml.content().clone(),
        false => eml
            .content()
            .prefixed(fields.as_bytes())
            .map_err(|error| Stop::new(Exit::Data, error))?,
    };
    let mut envelope =
        Envelope::new(reverse_path, recipients).map_err(|error| Stop::new(Exit::Usage, error))?;
    if let Some(ret) = &args.ret {
        envelope = envelope.with_ret(match ret.to_ascii_lowercase().as_str() {
            "full" => Ret::Full,
            "hdrs" => Ret::Headers,
            other => return Err(Stop::new(Exit::Usage, format!("-R {other}: full or hdrs"))),
        });
    }
    if let Some(id) = &args.envelope_id {
        let id = EnvelopeId::new(id).map_err(|error| Stop::new(Exit::Usage, error))?;
        envelope = envelope.with_id(id);
    }
    Ok((envelope, content))
}

/// What ends with a lone dot ends there, unless dots are text.
pub(super) fn until_dot(args: &Args, mut text: Vec<u8>) -> Vec<u8> {
    if args.dot_is_text {
        return text;
    }
    let mut start = 0;
    for line in text.split_inclusive(|&octet| octet == b'\n') {
        if line == b".\n" || line == b".\r\n" || line == b"." {
            break;
        }
        start += line.len();
    }
    text.truncate(start);
    text
}

/// The envelope that a header section implies, with an author where it has none.
fn implied(text: &[u8], has_author: bool) -> Result<Envelope, EmlError> {
    let author: &[u8] = if has_author {
        b""
    } else {
        b"From: nobody@localhost\n"
    };
    Eml::parse(&[author, text].concat())?.envelope()
}

/// Without the line of a mailbox file, and with an empty line where there is no header section.
fn normal(text: &[u8]) -> Vec<u8> {
    let mut rest = text;
    if rest.starts_with(b"From ") {
        let end = rest.iter().position(|&octet| octet == b'\n');
        rest = &rest[end.map_or(rest.len(), |end| end + 1)..];
    }
    let first = rest
        .split(|&octet| octet == b'\n')
        .next()
        .unwrap_or_default();
    let name = first
        .split(|&octet| octet == b':')
        .next()
        .unwrap_or_default();
    let is_field = name.len() < first.len()
        && !name.is_empty()
        && name.trim_ascii_end().iter().all(u8::is_ascii_graphic);
    let is_end = first.is_empty() || first == b"\r";
    match is_field || is_end {
        true => rest.to_vec(),
        false => [b"\n", rest].concat(),
    }
}

fn recipients(
    args: &Args,
    caller: &Caller,
    implied: impl FnOnce() -> Result<Envelope, EmlError>,
) -> Result<Vec<Recipient>, Stop> {
    let mut addresses = Vec::new();
    for list in &args.recipients {
        // One mailbox may have a comma in its name; several have commas between them.
        match list.parse::<Mailbox>() {
            Ok(mailbox) => addresses.push(mailbox.address().clone()),
            Err(_) => {
                for text in list
                    .split(',')
                    .map(str::trim)
                    .filter(|text| !text.is_empty())
                {
                    let address = match text.parse::<Mailbox>() {
                        Ok(mailbox) => Ok(mailbox.address().clone()),
                        Err(_) => caller.address(text),
                    };
                    addresses.push(address.map_err(|error| Stop::new(Exit::NoUser, error))?);
                }
            }
        }
    }
    if args.recipients_from_header {
        match implied() {
            Ok(envelope) => {
                let found = envelope.recipients().iter();
                addresses.extend(found.map(|recipient| recipient.address.clone()));
            }
            Err(EmlError::Recipients) if !addresses.is_empty() => {}
            Err(error) => return Err(Stop::new(exit_of(&error), error)),
        }
    }
    if addresses.is_empty() {
        return Err(Stop::new(
            Exit::Usage,
            "nobody to send to: name recipients, or use -t",
        ));
    }
    let notify = args.notify.as_deref().map(|text| {
        let text = text.to_ascii_uppercase();
        Notify::parse(&text)
            .ok_or_else(|| Stop::new(Exit::Usage, "-N: never, or some of success,failure,delay"))
    });
    let notify = notify.transpose()?;
    let mut recipients: Vec<Recipient> = Vec::new();
    for address in addresses {
        if !recipients.iter().any(|known| known.address == address) {
            recipients.push(Recipient {
                notify,
                ..Recipient::from(address)
            });
        }
    }
    Ok(recipients)
}

fn exit_of(error: &EmlError) -> Exit {
    match error {
        EmlError::Address { .. } => Exit::NoUser,
        EmlError::Recipients => Exit::Usage,
        _ => Exit::Data,
    }
}

/// `-f`, else whom the message says it is from, else who runs us.
fn reverse_path(args: &Args, caller: &Caller, text: &[u8]) -> Result<ReversePath, Stop> {
    let no_user = |error| Stop::new(Exit::NoUser, error);
    match args.from.as_deref() {
        Some("" | "<>") => Ok(ReversePath::Null),
        Some(text) => {
            let bare = text
                .strip_prefix('<')
                .and_then(|text| text.strip_suffix('>'));
            let address = caller.address(bare.unwrap_or(text)).map_err(no_user)?;
            Ok(address.into())
        }
        None => match author(text) {
            Some(address) => Ok(address.into()),
            None => Ok(caller.address(&caller.login).map_err(no_user)?.into()),
        },
    }
}

/// Sender, else From, whether or not the header section names a recipient.
fn author(text: &[u8]) -> Option<Address> {
    let with_recipient = [b"Bcc: nobody@localhost\n", text].concat();
    let envelope = Eml::parse(&with_recipient).ok()?.envelope().ok()?;
    envelope.reverse_path().address().cloned()
}

/// Fields that a message needs and this one lacks (RFC 5322 §3.6; RFC 6409 §8).
fn missing(args: &Args, caller: &Caller, eml: &Eml, from: &ReversePath) -> Result<String, Stop> {
    let mut fields = String::new();
    if !has_field(eml.content(), "from") {
        let address = match from.address() {
            Some(address) => address.clone(),
            None => caller
                .address(&caller.login)
                .map_err(|error| Stop::new(Exit::NoUser, error))?,
        };
        let mailbox = match &args.full_name {
            Some(name) => Mailbox::named(name, address),
            None => Mailbox::from(address),
        };
        fields.push_str(&format!("From: {mailbox}\r\n"));
    }
    if !has_field(eml.content(), "date") {
        let date = caller.now.to_zoned(jiff::tz::TimeZone::system());
        let date = jiff::fmt::rfc2822::to_string(&date);
        let date = date.map_err(|error| Stop::new(Exit::Temporary, error))?;
        fields.push_str(&format!("Date: {date}\r\n"));
    }
    if !has_field(eml.content(), "message-id") {
        fields.push_str(&format!(
            "Message-ID: <{}@{}>\r\n",
            caller.unique, caller.host
        ));
    }
    Ok(fields)
}

fn has_field(content: &Content, name: &str) -> bool {
    let lines = content.as_bytes().split(|&octet| octet == b'\n');
    lines
        .take_while(|line| *line != b"\r")
        .filter_map(|line| line.split(|&octet| octet == b':').next())
        .any(|field| field.trim_ascii_end().eq_ignore_ascii_case(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compose_from(flags: &str, text: &str) -> Result<(Envelope, String), Stop> {
        let args = Args::parse(flags.split_whitespace().map(Into::into)).unwrap();
        let caller = Caller {
            login: "me".to_owned(),
            host: "host.example".parse().unwrap(),
            now: "2026-08-05T10:00:00Z".parse().unwrap(),
            unique: "u1".to_owned(),
        };
        let text = until_dot(&args, text.as_bytes().to_vec());
        let (envelope, content) = compose(&args, &caller, &text)?;
        let content = String::from_utf8(content.as_bytes().to_vec()).unwrap();
        Ok((envelope, content))
    }

    fn right(flags: &str, text: &str) -> (String, Vec<String>, String) {
        let (envelope, content) = compose_from(flags, text).unwrap();
        let to = envelope
            .recipients()
            .iter()
            .map(|it| it.address.to_string());
        (envelope.reverse_path().to_string(), to.collect(), content)
    }

    #[test]
    fn what_a_message_lacks_is_added() {
        let (from, to, content) = right("-F Me root", "Subject: hi\n\nhello\n");
        assert_eq!(from, "<me@host.example>");
        assert_eq!(to, ["root@host.example"]);
        assert!(
            content.starts_with("From: Me <me@host.example>\r\nDate: "),
            "{content}"
        );
        assert!(
            content.contains("\r\nMessage-ID: <u1@host.example>\r\nSubject: hi\r\n\r\nhello\r\n")
        );
    }

    #[test]
    fn what_a_message_has_is_kept() {
        let text =
            "From: a@x.example\nDATE : Wed, 5 Aug 2026 10:00:00 +0000\nmessage-id: <1@x>\n\nhi\n";
        let (from, _, content) = right("b@x.example", text);
        assert_eq!(from, "<a@x.example>");
        assert_eq!(content, text.replace('\n', "\r\n"));
    }

    #[test]
    fn recipients_are_those_of_the_command_line_and_with_t_those_of_the_header_section() {
        let text = "From: a@x.example\nTo: b@x.example\nBcc: c@x.example\n\nhi\n";
        assert_eq!(right("d@x.example", text).1, ["d@x.example"]);
        let (_, to, content) = right("-t d@x.example b@x.example", text);
        assert_eq!(to, ["d@x.example", "b@x.example", "c@x.example"]);
        assert!(!content.to_lowercase().contains("bcc"));
        assert_eq!(right("-i d@x.example,e@x.example", text).1.len(), 2);
        let (from, to, _) = right("-t", "To: b@x.example\n\nno author\n");
        assert_eq!(
            (from.as_str(), to),
            ("<me@host.example>", vec!["b@x.example".to_owned()])
        );
    }

    #[test]
    fn the_reverse_path_is_given_or_the_authors_or_the_callers() {
        for (flags, text, want) in [
            ("-f n@x.example r", "From: a@x.example\n\n", "<n@x.example>"),
            ("-f <n@x.example> r", "\n", "<n@x.example>"),
            ("-f news r", "\n", "<news@host.example>"),
            ("-f <> r", "From: a@x.example\n\n", "<>"),
            (
                "r",
                "From: a@x.example\nSender: s@x.example\n\n",
                "<s@x.example>",
            ),
            ("r", "no header section\n", "<me@host.example>"),
        ] {
            assert_eq!(right(flags, text).0, want, "{flags} {text:?}");
        }
    }

    #[test]
    fn a_lone_dot_ends_the_message_unless_told_not_to() {
        let text = "Subject: x\n\none\n.\ntwo\n";
        assert!(!right("r", text).2.contains("two"));
        assert!(right("-i r", text).2.ends_with("one\r\n.\r\ntwo\r\n"));
    }

    #[test]
    fn a_mailbox_line_is_dropped_and_plain_text_is_a_body() {
        let (_, _, content) = right("r", "From me Wed Aug  5 10:00:00 2026\nSubject: x\n\ny\n");
        assert!(!content.contains("From me") && content.contains("\r\nSubject: x\r\n"));
        let (_, _, content) = right("r", "hello there\n");
        assert!(content.ends_with("\r\n\r\nhello there\r\n"), "{content}");
    }

    #[test]
    fn what_cannot_be_sent_ends_with_the_code_that_says_why() {
        for (flags, text, exit) in [
            ("", "To: a@x.example\n\n", Exit::Usage),
            ("-t", "Subject: x\n\n", Exit::Usage),
            ("-t", "From: a@x.example\nTo: b c d\n\n", Exit::NoUser),
            ("a@b@c", "\n", Exit::NoUser),
            ("-f a@b@c r", "\n", Exit::NoUser),
            ("r", "Subject: x\nno field\n", Exit::Data),
            ("r", "Subject: \0\n", Exit::Data),
            ("-N sometimes r", "\n", Exit::Usage),
            ("-R some r", "\n", Exit::Usage),
        ] {
            let exit_of = compose_from(flags, text)
                .map(|_| ())
                .map_err(|stop| stop.exit);
            assert_eq!(exit_of, Err(exit), "{flags} {text:?}");
        }
    }
}
