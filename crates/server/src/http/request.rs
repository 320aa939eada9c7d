//! The JSON that clients send, in the shape of Resend's API, borrowed from the body.
//!
//! An unknown field is a mistake and named: a misspelt `scheduled_at` would otherwise send mail at
//! once. Nothing here is checked beyond its type; `compose` does that, where it can name the field.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};

use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A string, borrowed where it has no escapes.
#[derive(Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(transparent)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// One message to send.
#[derive(Deserialize, ToSchema, Debug)]
#[serde(deny_unknown_fields)]
#[schema(as = SendEmail)]
pub(crate) struct SendRequest<'a> {
    /// Whom it is from: `Name <local@domain>` or the address alone.
    #[schema(value_type = String, example = "Acme <hello@example.com>")]
    #[serde(borrow)]
    pub(crate) from: Option<Text<'a>>,
    /// Whom it goes to.
    #[schema(value_type = OneOrMany)]
    #[serde(borrow)]
    pub(crate) to: Option<Many<'a>>,
    /// Who gets a copy.
    #[schema(value_type = Option<OneOrMany>)]
    #[serde(borrow)]
    pub(crate) cc: Option<Many<'a>>,
    /// Who gets a copy that nobody sees.
    #[schema(value_type = Option<OneOrMany>)]
    #[serde(borrow)]
    pub(crate) bcc: Option<Many<'a>>,
    /// Whom answers go to.
    #[schema(value_type = Option<OneOrMany>)]
    #[serde(borrow, alias = "replyTo")]
    pub(crate) reply_to: Option<Many<'a>>,
    /// The subject; needed unless the template has one.
    #[schema(value_type = Option<String>)]
    #[serde(borrow)]
    pub(crate) subject: Option<Text<'a>>,
    /// The HTML.
    #[schema(value_type = Option<String>)]
    #[serde(borrow)]
    pub(crate) html: Option<Text<'a>>,
    /// The plain text.
    #[schema(value_type = Option<String>)]
    #[serde(borrow)]
    pub(crate) text: Option<Text<'a>>,
    /// Header fields of one's own.
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    #[serde(borrow)]
    pub(crate) headers: Option<Pairs<'a>>,
    /// Files that travel with it.
    #[serde(borrow)]
    pub(crate) attachments: Option<Vec<FileRequest<'a>>>,
    /// Labels to find it by later.
    #[serde(borrow)]
    pub(crate) tags: Option<Vec<TagRequest<'a>>>,
    /// Not before this: ISO 8601, or a span as `in 1 min`.
    #[schema(value_type = Option<String>, example = "in 1 min")]
    #[serde(borrow, alias = "scheduledAt")]
    pub(crate) scheduled_at: Option<Text<'a>>,
    /// What makes subject, HTML and text: the name of a template here, or one given inline.
    #[schema(value_type = Option<TemplateChoice>)]
    #[serde(borrow)]
    pub(crate) template: Option<TemplateRequest<'a>>,
    /// What the template's variables stand for; those in `template` come first.
    pub(crate) variables: Option<Map<String, Value>>,
    /// `high`, `normal` (the default) or `bulk`.
    #[schema(value_type = Option<String>, example = "normal")]
    #[serde(borrow)]
    pub(crate) priority: Option<Text<'a>>,
}

/// A label.
#[derive(Deserialize, ToSchema, Debug)]
#[schema(as = Tag)]
pub(crate) struct TagRequest<'a> {
    /// ASCII letters, digits, `_` and `-`, at most 256.
    #[schema(value_type = String)]
    #[serde(borrow)]
    pub(crate) name: Text<'a>,
    /// The same of characters; may be left out.
    #[schema(value_type = Option<String>)]
    #[serde(borrow)]
    pub(crate) value: Option<Text<'a>>,
}

/// A file.
#[derive(Deserialize, ToSchema, Debug, PartialEq, Eq, Hash)]
#[serde(deny_unknown_fields)]
#[schema(as = Attachment)]
pub(crate) struct FileRequest<'a> {
    /// In base64, or a list of octets.
    #[schema(value_type = FileContent)]
    #[serde(borrow)]
    pub(crate) content: Option<FileBytes<'a>>,
    /// What the reader will see it called.
    #[schema(value_type = Option<String>)]
    #[serde(borrow)]
    pub(crate) filename: Option<Text<'a>>,
    /// Its media type; follows from the name where it is not given.
    #[schema(value_type = Option<String>)]
    #[serde(borrow, alias = "contentType")]
    pub(crate) content_type: Option<Text<'a>>,
    /// For an image that the HTML shows as `cid:…`.
    #[schema(value_type = Option<String>)]
    #[serde(borrow, alias = "contentId", alias = "inline_content_id")]
    pub(crate) content_id: Option<Text<'a>>,
    /// Refused: this server fetches nothing. Send the content.
    #[schema(value_type = Option<String>)]
    #[serde(borrow)]
    pub(crate) path: Option<Text<'a>>,
}

/// What a request says of its template.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct TemplateObject<'a> {
    #[serde(borrow, alias = "name")]
    pub(crate) id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) subject: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) html: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) text: Option<Text<'a>>,
    pub(crate) variables: Option<Map<String, Value>>,
}

/// What `PATCH /emails/{id}` changes.
#[derive(Deserialize, ToSchema, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateEmail {
    /// Passed over: the path says which.
    #[serde(default, rename = "id")]
    pub(crate) _id: Option<String>,
    /// The new time: ISO 8601, or a span as `in 1 min`.
    #[serde(alias = "scheduledAt")]
    pub(crate) scheduled_at: Option<String>,
}

/// A name and nothing else, or an object.
#[derive(Debug)]
pub(crate) struct TemplateRequest<'a>(pub(crate) TemplateObject<'a>);

/// One address or a list of them.
#[derive(Debug, Default)]
pub(crate) struct Many<'a>(pub(crate) Vec<Text<'a>>);

/// An object of strings, in the order given.
#[derive(Debug, Default)]
pub(crate) struct Pairs<'a>(pub(crate) Vec<(Text<'a>, Text<'a>)>);

/// Octets of a file as JSON has them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FileBytes<'a> {
    Base64(Cow<'a, str>),
    Octets(Vec<u8>),
}

impl Hash for FileBytes<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Base64(text) => text.hash(state),
            Self::Octets(octets) => octets.hash(state),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for TemplateRequest<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Either<'a> {
            type Value = TemplateRequest<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a template, or an object")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
                Ok(TemplateRequest(TemplateObject {
                    id: Some(Text(Cow::Owned(name.to_owned()))),
                    ..TemplateObject::default()
                }))
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Self::Value, M::Error> {
                let fields = serde::de::value::MapAccessDeserializer::new(map);
                TemplateObject::deserialize(fields).map(TemplateRequest)
            }
        }
        from.deserialize_any(Either(std::marker::PhantomData))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Many<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Either<'a> {
            type Value = Many<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Many(vec![Text(Cow::Borrowed(text))]))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Many(vec![Text(Cow::Owned(text.to_owned()))]))
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Self::Value, S::Error> {
                let mut all = Vec::new();
                while let Some(text) = seq.next_element()? {
                    all.push(text);
                }
                Ok(Many(all))
            }
        }
        from.deserialize_any(Either(std::marker::PhantomData))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Object<'a> {
            type Value = Pairs<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut all = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    all.push(pair);
                }
                Ok(Pairs(all))
            }
        }
        from.deserialize_map(Object(std::marker::PhantomData))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for FileBytes<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Either<'a> {
            type Value = FileBytes<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("base64 or a list of octets")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(FileBytes::Base64(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(FileBytes::Base64(Cow::Owned(text.to_owned())))
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Self::Value, S::Error> {
                let mut octets = Vec::new();
                while let Some(octet) = seq.next_element()? {
                    octets.push(octet);
                }
                Ok(FileBytes::Octets(octets))
            }
        }
        from.deserialize_any(Either(std::marker::PhantomData))
    }
}

/// One address, or a list of them.
#[derive(serde::Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "a shape for the OpenAPI document")]
pub(crate) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// Base64, or a list of octets.
#[derive(serde::Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "a shape for the OpenAPI document")]
pub(crate) enum FileContent {
    Base64(String),
    Octets(Vec<u8>),
}

/// The name of a template, or an object that names one or gives its texts.
#[derive(serde::Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "a shape for the OpenAPI document")]
pub(crate) enum TemplateChoice {
    Name(String),
    Object(TemplateShape),
}

/// A template of this server by its `id`, or one given inline.
#[derive(serde::Serialize, ToSchema)]
#[schema(as = Template)]
#[allow(dead_code, reason = "a shape for the OpenAPI document")]
pub(crate) struct TemplateShape {
    /// The name of a template that this server has.
    id: Option<String>,
    /// Inline: the subject.
    subject: Option<String>,
    /// Inline: the HTML.
    html: Option<String>,
    /// Inline: the plain text.
    text: Option<String>,
    /// What its variables stand for.
    variables: Option<Map<String, Value>>,
}
