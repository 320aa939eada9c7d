//! The message that flags describe: composed, or read from a file; templates, attachments, signer.

use std::io::Read;
use std::path::Path;

use jiff::Timestamp;
use message::dkim::{Signer, SigningKey};
use message::{
    Attachment, Eml, ListUnsubscribe, Mailbox, Mailing, Message, Source, Template, UriTemplate,
};
use sha2::{Digest, Sha256};
use smtp::{Content, Envelope, Recipient};

use super::args::MessageArgs;
use crate::mistakes::Mistakes;

/// Biggest file that is read whole: a message, a text, an attachment.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What all messages have in common.
pub(super) struct Base {
    pub(super) from: Mailbox,
    pub(super) message: Message,
    /// Of all of it.
    pub(super) hash: Sha256,
}

/// Texts that differ from row to row, with the names that errors call them.
pub(super) struct Templates {
    subject: Option<(String, String)>,
    text: Option<(String, String)>,
    html: Option<(String, String)>,
    unsubscribe: Vec<String>,
}

impl Templates {
    /// A mailing with these templates.
    pub(super) fn mailing(&self, base: Message) -> Result<Mailing, message::TemplateError> {
        let source = |part: &Option<(String, String)>| {
            part.as_ref()
                .map(|(name, text)| Source::inline(name.clone(), text.clone()))
        };
        let template = Template::load(
            source(&self.subject),
            source(&self.text),
            source(&self.html),
        )?;
        let uri = |uri: &String| UriTemplate::load(Source::inline("--list-unsubscribe", uri));
        let uris = self.unsubscribe.iter().map(uri).collect::<Result<_, _>>()?;
        Ok(Mailing::new(base, template).with_unsubscribe(uris))
    }

    /// Adds all of them.
    pub(super) fn hash(&self, hash: &mut Sha256) {
        for part in [&self.subject, &self.text, &self.html] {
            let text = part.as_ref().map_or("", |(_, text)| text.as_str());
            hash_part(hash, text.as_bytes());
        }
        for uri in &self.unsubscribe {
            hash_part(hash, uri.as_bytes());
        }
    }
}

impl MessageArgs {
    pub(super) fn compose_one(&self, mistakes: &mut Mistakes) -> Option<(Envelope, Content)> {
        if self.to.is_empty() && self.cc.is_empty() && self.bcc.is_empty() {
            mistakes.add("nobody to send to: give --to, or a list with --recipients");
        }
        let base = self.base(mistakes);
        let texts = self.templates(mistakes);
        let to: Vec<Mailbox> = mistakes.parse_all("--to", &self.to);
        let cc: Vec<Mailbox> = mistakes.parse_all("--cc", &self.cc);
        let bcc: Vec<Mailbox> = mistakes.parse_all("--bcc", &self.bcc);
        let (texts, mut message) = (texts?, base?.message);
        message = to.into_iter().fold(message, Message::to);
        message = cc.into_iter().fold(message, Message::cc);
        message = bcc.into_iter().fold(message, Message::bcc);
        if let Some((_, subject)) = texts.subject {
            message = message.subject(subject);
        }
        if let Some((_, text)) = texts.text {
            message = message.text(text);
        }
        if let Some((_, html)) = texts.html {
            message = message.html(html);
        }
        if !texts.unsubscribe.is_empty() {
            let unsubscribe = ListUnsubscribe::new(&texts.unsubscribe);
            let unsubscribe = mistakes.take("--list-unsubscribe", unsubscribe)?;
            message = message.list_unsubscribe(unsubscribe);
        }
        let envelope = mistakes.take("--to", message.envelope())?;
        let content = mistakes.take_data(message.compose(Timestamp::now()))?;
        Some((envelope, content))
    }

    pub(super) fn base(&self, mistakes: &mut Mistakes) -> Option<Base> {
        if self.from.is_none() {
            mistakes.add("--from is missing");
        }
        let from: Option<Mailbox> = mistakes.parse("--from", self.from.as_deref());
        let reply_to: Vec<Mailbox> = mistakes.parse_all("--reply-to", &self.reply_to);
        let attachments = self.attachments(mistakes);
        let from = from?;
        let mut hash = Sha256::new();
        hash_part(&mut hash, from.to_string().as_bytes());
        let mut message = Message::new(from.clone());
        for mailbox in reply_to {
            hash_part(&mut hash, mailbox.to_string().as_bytes());
            message = message.reply_to(mailbox);
        }
        for header in &self.header {
            let Some((name, value)) = header.split_once(':') else {
                mistakes.add(format_args!("--header: {header:?} has no colon"));
                continue;
            };
            hash_part(&mut hash, header.as_bytes());
            message = message.header(name.trim(), value.trim());
        }
        for (data_hash, attachment) in attachments? {
            hash_part(&mut hash, &data_hash);
            message = message.attach(attachment);
        }
        Some(Base {
            from,
            message,
            hash,
        })
    }

    /// Each with a hash of its name and data.
    fn attachments(&self, mistakes: &mut Mistakes) -> Option<Vec<([u8; 32], Attachment)>> {
        let mut attachments = Vec::new();
        for path in &self.attach {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let data = mistakes.take_data(read_file(path));
            let Some(data) = data else { continue };
            let attachment = Attachment::new(&name, &data);
            let Some(attachment) = mistakes.take("--attach", attachment) else {
                continue;
            };
            let mut hash = Sha256::new();
            hash_part(&mut hash, name.as_bytes());
            hash_part(&mut hash, &data);
            attachments.push((hash.finalize().into(), attachment));
        }
        (attachments.len() == self.attach.len()).then_some(attachments)
    }

    pub(super) fn templates(&self, mistakes: &mut Mistakes) -> Option<Templates> {
        let subject = self.subject.clone();
        let text = text_or_file("--text", self.text.as_ref(), self.text_file.as_deref());
        let html = text_or_file("--html", self.html.as_ref(), self.html_file.as_deref());
        let (text, html) = (mistakes.take_data(text), mistakes.take_data(html));
        let (text, html) = (text?, html?);
        if text.is_none() && html.is_none() && self.attach.is_empty() {
            mistakes.add("nothing to say: give --text, --html, their -file kin, or --attach");
        }
        Some(Templates {
            subject: subject.map(|subject| ("--subject".to_owned(), subject)),
            text,
            html,
            unsubscribe: self.list_unsubscribe.clone(),
        })
    }

    /// `Some(None)` where nothing is to be signed.
    #[expect(clippy::option_option, reason = "no signer is not a mistake")]
    pub(super) fn signer(&self, mistakes: &mut Mistakes) -> Option<Option<Signer>> {
        let (Some(path), Some(selector)) = (&self.dkim_key, &self.dkim_selector) else {
            return Some(None);
        };
        let pem = mistakes.take_data(read_file(path))?;
        let key =
            SigningKey::from_pem(&pem).map_err(|error| format!("{}: {error}", path.display()));
        let key = mistakes.take_data(key);
        let domain = self.signing_domain(mistakes);
        let signer = Signer::new(domain?, selector, key?);
        mistakes.take("--dkim-selector", signer).map(Some)
    }

    fn signing_domain(&self, mistakes: &mut Mistakes) -> Option<smtp::Domain> {
        if let Some(domain) = &self.dkim_domain {
            return mistakes.parse("--dkim-domain", Some(domain));
        }
        let Some(from) = &self.from else {
            mistakes.add("--dkim-domain is needed where there is no --from");
            return None;
        };
        // A malformed --from is reported where it is read.
        let from: Mailbox = from.parse().ok()?;
        let (_, domain) = from.address().as_str().rsplit_once('@')?;
        mistakes.parse("--dkim-domain", Some(domain))
    }

    pub(super) fn read_eml(
        &self,
        path: &Path,
        mistakes: &mut Mistakes,
    ) -> Option<(Envelope, Content)> {
        let composing = [
            ("--subject", self.subject.is_some()),
            ("--text", self.text.is_some() || self.text_file.is_some()),
            ("--html", self.html.is_some() || self.html_file.is_some()),
            ("--attach", !self.attach.is_empty()),
            ("--header", !self.header.is_empty()),
            ("--reply-to", !self.reply_to.is_empty()),
            ("--list-unsubscribe", !self.list_unsubscribe.is_empty()),
        ];
        for (flag, _) in composing.iter().filter(|(_, is_given)| *is_given) {
            mistakes.add(format_args!(
                "{flag} does not go with --eml: the message is sent as it is"
            ));
        }
        let from: Option<Mailbox> = mistakes.parse("--from", self.from.as_deref());
        let given = [&self.to, &self.cc, &self.bcc]
            .into_iter()
            .flatten()
            .cloned();
        let to: Vec<Mailbox> = mistakes.parse_all("--to", &given.collect::<Vec<_>>());
        let text = if path == Path::new("-") {
            read_all(std::io::stdin().lock(), path)
        } else {
            read_file(path)
        };
        let eml = Eml::parse(&mistakes.take_data(text)?)
            .map_err(|error| format!("{}: {error}", path.display()));
        let eml = mistakes.take_data(eml)?;
        let envelope = self.eml_envelope(&eml, from, &to, mistakes)?;
        Some((envelope, eml.content().clone()))
    }

    fn eml_envelope(
        &self,
        eml: &Eml,
        from: Option<Mailbox>,
        to: &[Mailbox],
        mistakes: &mut Mistakes,
    ) -> Option<Envelope> {
        let mut recipients: Vec<Recipient> =
            to.iter().map(|to| to.address().clone().into()).collect();
        let mut reverse_path: Option<smtp::ReversePath> =
            from.map(|from| from.address().clone().into());
        if self.read_envelope {
            let read = mistakes.take_data(eml.envelope())?;
            reverse_path = reverse_path.or_else(|| Some(read.reverse_path().clone()));
            recipients.extend_from_slice(read.recipients());
        }
        let Some(reverse_path) = reverse_path else {
            mistakes.add("--from is missing (or -t, to take the envelope from the headers)");
            return None;
        };
        let envelope = Envelope::new(reverse_path, recipients)
            .map_err(|_| "nobody to send to: give --to, or -t to take the headers' recipients");
        mistakes.take("--eml", envelope)
    }
}

fn text_or_file(
    flag: &str,
    text: Option<&String>,
    file: Option<&Path>,
) -> Result<Option<(String, String)>, String> {
    let Some(path) = file else {
        return Ok(text.map(|text| (flag.to_owned(), text.clone())));
    };
    let name = path.display().to_string();
    match String::from_utf8(read_file(path)?) {
        Ok(text) => Ok(Some((name, text))),
        Err(_) => Err(format!("{name}: the file is not UTF-8")),
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    match std::fs::File::open(path) {
        Ok(file) => read_all(file, path),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn read_all(reader: impl Read, path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = reader.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    match read {
        Err(error) => Err(format!("{}: {error}", path.display())),
        Ok(_) if bytes.len() as u64 > FILE_BYTES_MAX => {
            Err(format!("{}: longer than 256 MiB", path.display()))
        }
        Ok(_) => Ok(bytes),
    }
}

/// Length first, so that two parts never look like two others.
fn hash_part(hash: &mut Sha256, part: &[u8]) {
    hash.update((part.len() as u64).to_be_bytes());
    hash.update(part);
}
