//! The JSON that clients send, in the shape of Resend's API, borrowed from the body.
//!
//! An unknown field is a mistake and named: a misspelt `scheduled_at` would otherwise send mail at
//! once. Nothing here is checked beyond its type; `compose` does that, where it can name the field.
//!
//! A list ends where it is longer than what is taken, and variables stay text until they are needed:
//! three octets of JSON can ask for two hundred of memory.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};

use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Files, and header fields of one's own, of one message.
pub(crate) const MANY_MAX: usize = 100;
/// Labels of one message.
pub(crate) const TAGS_MAX: usize = 50;
/// Addresses of one field; what a message may have of them is the engine's to say.
const ADDRESSES_MAX: usize = 1 << 15;

/// A list of at most so many.
#[derive(Debug)]
pub(crate) struct Few<T, const MOST: usize>(pub(crate) Vec<T>);

impl<T, const MOST: usize> std::ops::Deref for Few<T, MOST> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Few<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct List<T, const MOST: usize>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for List<T, MOST> {
            type Value = Few<T, MOST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<S: SeqAccess<'de>>(self, seq: S) -> Result<Self::Value, S::Error> {
                listed(seq, MOST).map(Few)
            }
        }
        from.deserialize_seq(List(std::marker::PhantomData))
    }
}

/// The items of a list, of which there may be `most`.
fn listed<'de, T: Deserialize<'de>, S: SeqAccess<'de>>(
    mut seq: S,
    most: usize,
) -> Result<Vec<T>, S::Error> {
    let mut all = Vec::new();
    while let Some(item) = seq.next_element()? {
        if all.len() == most {
            return Err(too_many(most));
        }
        all.push(item);
    }
    Ok(all)
}

fn too_many<E: Error>(most: usize) -> E {
    E::custom(format_args!("at most {most} are taken"))
}

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
    #[schema(value_type = Option<Vec<FileRequest>>)]
    pub(crate) attachments: Option<Few<FileRequest<'a>, MANY_MAX>>,
    /// Labels to find it by later.
    #[serde(borrow)]
    #[schema(value_type = Option<Vec<TagRequest>>)]
    pub(crate) tags: Option<Few<TagRequest<'a>, TAGS_MAX>>,
    /// Not before this: ISO 8601, or a span as `in 1 min`.
    #[schema(value_type = Option<String>, example = "in 1 min")]
    #[serde(borrow, alias = "scheduledAt")]
    pub(crate) scheduled_at: Option<Text<'a>>,
    /// What makes subject, HTML and text: the name of a template here, or one given inline.
    #[schema(value_type = Option<TemplateChoice>)]
    #[serde(borrow)]
    pub(crate) template: Option<TemplateRequest<'a>>,
    /// What the template's variables stand for, in at most 1 MiB; those in `template` come first.
    #[schema(value_type = Option<Map<String, Value>>)]
    #[serde(borrow)]
    pub(crate) variables: Option<&'a RawValue>,
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
    #[serde(borrow)]
    pub(crate) variables: Option<&'a RawValue>,
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

            fn visit_seq<S: SeqAccess<'de>>(self, seq: S) -> Result<Self::Value, S::Error> {
                listed(seq, ADDRESSES_MAX).map(Many)
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
                    if all.len() == MANY_MAX {
                        return Err(too_many(MANY_MAX));
                    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_ends_where_it_is_longer_than_what_is_taken() {
        let list = |item: &str, count: usize| vec![item; count].join(",");
        for (field, open, item, close, most) in [
            ("attachments", '[', "{}", ']', MANY_MAX),
            ("tags", '[', r#"{"name":"a"}"#, ']', TAGS_MAX),
            ("headers", '{', r#""a":"b""#, '}', MANY_MAX),
            ("to", '[', r#""a@b.example""#, ']', ADDRESSES_MAX),
        ] {
            let body = |count| format!("{{\"{field}\":{open}{}{close}}}", list(item, count));
            let (enough, more) = (body(most), body(most + 1));
            assert!(serde_json::from_str::<SendRequest<'_>>(&enough).is_ok());
            let error = serde_json::from_str::<SendRequest<'_>>(&more).unwrap_err();
            let words = format!("at most {most} are taken");
            assert!(error.to_string().starts_with(&words), "{field}: {error}");
        }
    }
}
