//! One message to each of many: rendered, composed and signed, per recipient.

use std::collections::BTreeSet;

use jiff::Timestamp;
use minijinja::Value;
use minijinja::value::Serde;
use serde_json::{Map, Value as Json};
use smtp::Content;

use crate::compose::{ComposeError, Message, Parts};
use crate::dkim::{SignError, Signer};
use crate::mailbox::Mailbox;
use crate::template::{Template, TemplateError, UriTemplate};
use crate::unsubscribe::ListUnsubscribe;

/// Why a recipient's message could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MailingError {
    /// A template, with file, place and row.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// What the templates gave does not make a message.
    #[error("{}{error}", row_prefix(*row))]
    Compose {
        /// The recipient's row.
        row: Option<u64>,
        /// What is wrong.
        error: ComposeError,
    },
    /// The message could not be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
}

fn row_prefix(row: Option<u64>) -> String {
    row.map_or_else(String::new, |row| format!("row {row}: "))
}

/// What all messages of a run have in common, ready to make any number of them; shared between
/// threads as it is.
#[derive(Debug)]
pub struct Mailing {
    base: Message,
    template: Template,
    unsubscribe: Vec<UriTemplate>,
    signer: Option<Signer>,
}

impl Mailing {
    /// * `base`: From, attachments, extra headers…; what the template renders takes the place of
    ///   its subject, text and HTML, and each recipient that of its To.
    #[must_use]
    pub fn new(base: Message, template: Template) -> Self {
        Self {
            base,
            template,
            unsubscribe: Vec::new(),
            signer: None,
        }
    }

    /// URIs of List-Unsubscribe, rendered for each recipient (RFC 8058).
    #[must_use]
    pub fn with_unsubscribe(mut self, uris: Vec<UriTemplate>) -> Self {
        self.unsubscribe = uris;
        self
    }

    /// Signs each message.
    #[must_use]
    pub fn with_signer(mut self, signer: Signer) -> Self {
        self.signer = Some(signer);
        self
    }

    /// The variables that a recipient may need (see [`Template::variables`]).
    #[must_use]
    pub fn variables(&self) -> BTreeSet<String> {
        let mut variables = self.template.variables();
        variables.extend(self.unsubscribe.iter().flat_map(UriTemplate::variables));
        variables
    }

    /// Makes the message for one recipient.
    ///
    /// * `row`: the recipient's place in the list, for errors.
    ///
    /// # Errors
    /// What [`MailingError`] names; nothing is kept of a recipient that failed.
    pub fn content(
        &self,
        to: &Mailbox,
        variables: &Map<String, Json>,
        row: Option<u64>,
        now: Timestamp,
    ) -> Result<Content, MailingError> {
        let variables = Value::from(Serde(variables));
        let rendered = self.template.render_value(&variables, row)?;
        let unsubscribe = self.unsubscribe(&variables, row)?;
        let base = Parts::of(&self.base);
        let parts = Parts {
            to: std::slice::from_ref(to),
            subject: rendered.subject.as_deref().or(base.subject),
            text: rendered.text.as_deref().or(base.text),
            html: rendered.html.as_deref().or(base.html),
            unsubscribe: unsubscribe.as_ref().or(base.unsubscribe),
        };
        let content = self
            .base
            .compose_as(&parts, now)
            .map_err(|error| MailingError::Compose { row, error })?;
        match &self.signer {
            None => Ok(content),
            Some(signer) => Ok(signer.sign(&content, now)?),
        }
    }

    fn unsubscribe(
        &self,
        variables: &Value,
        row: Option<u64>,
    ) -> Result<Option<ListUnsubscribe>, TemplateError> {
        let Some(first) = self.unsubscribe.first() else {
            return Ok(None);
        };
        let uris = self
            .unsubscribe
            .iter()
            .map(|template| template.render(variables, row))
            .collect::<Result<Vec<_>, _>>()?;
        ListUnsubscribe::new(&uris)
            .map(Some)
            .map_err(|error| first.error(error.to_string(), row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::Source;
    use serde_json::json;

    fn mailing() -> Mailing {
        let template = Template::load(
            Some(Source::inline("--subject", "Hi {{ name }}")),
            Some(Source::inline("body.txt", "Dear {{ name }}")),
            None,
        );
        let from: Mailbox = "News <news@example.org>".parse().unwrap();
        Mailing::new(
            Message::new(from).bcc(from_text("hidden@example.org")),
            template.unwrap(),
        )
        .with_unsubscribe(vec![
            UriTemplate::load(Source::inline(
                "--list-unsubscribe",
                "https://example.org/u?e={{ email | urlencode }}",
            ))
            .unwrap(),
        ])
    }

    fn from_text(text: &str) -> Mailbox {
        text.parse().unwrap()
    }

    fn content(variables: &Json) -> Result<String, MailingError> {
        let variables = variables.as_object().unwrap();
        let now = Timestamp::UNIX_EPOCH;
        mailing()
            .content(&from_text("Ann <a+b@example.net>"), variables, Some(2), now)
            .map(|content| String::from_utf8(content.as_bytes().to_vec()).unwrap())
    }

    #[test]
    fn each_recipient_gets_a_message_of_its_own() {
        let text = content(&json!({"name": "Ann", "email": "a+b@example.net"})).unwrap();
        for part in [
            "To: Ann <a+b@example.net>\r\n",
            "Subject: Hi Ann\r\n",
            "List-Unsubscribe: <https://example.org/u?e=a%2Bb%40example.net>\r\n",
            "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n",
            "\r\n\r\nDear Ann\r\n",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("hidden"));
    }

    #[test]
    fn a_recipient_that_lacks_a_variable_is_named_by_its_row() {
        let error = content(&json!({"name": "Ann"})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--list-unsubscribe:1:36: row 2: the variable email is not given"
        );
    }

    #[test]
    fn all_variables_are_known_beforehand() {
        let names: Vec<_> = mailing().variables().into_iter().collect();
        assert_eq!(names, ["email", "name"]);
    }

    #[test]
    fn threads_share_one_mailing_and_each_body_keeps_its_own_hash() {
        let key = crate::dkim::SigningKey::generate(crate::dkim::Algorithm::Ed25519).unwrap();
        let signer = Signer::new("example.org".parse().unwrap(), "s", key).unwrap();
        let mailing = mailing().with_signer(signer);
        let body_hash = |name: &str| {
            let variables = json!({"name": name, "email": "a@example.net"});
            let variables = variables.as_object().unwrap();
            let to = from_text("a@example.net");
            let content = mailing.content(&to, variables, None, Timestamp::UNIX_EPOCH);
            let text = String::from_utf8(content.unwrap().as_bytes().to_vec()).unwrap();
            let after = text.split(" bh=").nth(1).unwrap();
            after.split(';').next().unwrap().to_owned()
        };
        let want = [body_hash("Ann"), body_hash("Bob")];
        assert_ne!(want[0], want[1]);
        std::thread::scope(|scope| {
            for (name, want) in ["Ann", "Bob"].into_iter().zip(&want) {
                let body_hash = &body_hash;
                scope.spawn(move || (0..50).for_each(|_| assert_eq!(&body_hash(name), want)));
            }
        });
    }
}
