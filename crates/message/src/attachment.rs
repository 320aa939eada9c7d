//! Files that travel with a message (RFC 2183), encoded once when they are read.
//!
//! An [`Attachment`] is its finished MIME part; a run of a million messages copies it a million
//! times and encodes it once. Cloning shares the bytes.

use bytes::Bytes;

use crate::encode::push_base64;
use crate::header::{HeaderError, HeaderWriter, check_value};

/// Why something cannot be attached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachmentError {
    /// A file name with a control character.
    #[error(transparent)]
    FileName(#[from] HeaderError),
    /// A media type that is not `type/subtype`, both tokens (RFC 2045 §5.1).
    #[error("{0:?} is not a media type")]
    MediaType(String),
    /// A content id that is empty, too long, or has other characters than an address may.
    #[error("{0:?} is not a content id")]
    ContentId(String),
}

/// One file, as an attachment or to be shown within the HTML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The part: its header fields, the empty line, the encoded body.
    part: Bytes,
    is_inline: bool,
}

impl Attachment {
    /// A file to keep; its media type follows from the name's extension.
    ///
    /// * `file_name`: what the reader will see; directories before it are dropped.
    ///
    /// # Errors
    /// [`AttachmentError::FileName`].
    pub fn new(file_name: &str, data: &[u8]) -> Result<Self, AttachmentError> {
        Self::typed(file_name, media_type(file_name), data)
    }

    /// A file to keep, of the media type given.
    ///
    /// # Errors
    /// [`AttachmentError::FileName`], [`AttachmentError::MediaType`].
    pub fn typed(file_name: &str, media_type: &str, data: &[u8]) -> Result<Self, AttachmentError> {
        Self::build(file_name, media_type, None, data)
    }

    /// An image for the HTML to show as `<img src="cid:CONTENT_ID">` (RFC 2392).
    ///
    /// # Errors
    /// [`AttachmentError::FileName`], [`AttachmentError::ContentId`].
    pub fn inline(content_id: &str, file_name: &str, data: &[u8]) -> Result<Self, AttachmentError> {
        let valid = (1..=200).contains(&content_id.len())
            && content_id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.@".contains(&b));
        if !valid {
            return Err(AttachmentError::ContentId(content_id.to_owned()));
        }
        Self::build(file_name, media_type(file_name), Some(content_id), data)
    }

    fn build(
        file_name: &str,
        media_type: &str,
        content_id: Option<&str>,
        data: &[u8],
    ) -> Result<Self, AttachmentError> {
        if !is_media_type(media_type) {
            return Err(AttachmentError::MediaType(media_type.to_owned()));
        }
        let file_name = file_name.rsplit(['/', '\\']).next().unwrap_or("");
        check_value("Content-Disposition", file_name)?;
        let mut part = Vec::with_capacity(data.len() / 57 * 78 + 512);
        let mut field = HeaderWriter::begin(&mut part, "Content-Type");
        field.token(sendable_type(media_type).as_bytes());
        field.end();
        part.extend_from_slice(b"Content-Transfer-Encoding: base64\r\n");
        if let Some(id) = content_id {
            part.extend_from_slice(format!("Content-ID: <{id}>\r\n").as_bytes());
        }
        let mut field = HeaderWriter::begin(&mut part, "Content-Disposition");
        field.token(if content_id.is_some() {
            b"inline"
        } else {
            b"attachment"
        });
        if !file_name.is_empty() {
            field.parameter("filename", file_name);
        }
        field.end();
        part.extend_from_slice(b"\r\n");
        push_base64(data, &mut part);
        Ok(Self {
            part: part.into(),
            is_inline: content_id.is_some(),
        })
    }

    pub(crate) fn part(&self) -> &[u8] {
        &self.part
    }

    pub(crate) fn is_inline(&self) -> bool {
        self.is_inline
    }
}

/// Composite types must not be in base64 (RFC 2046 §5.2.1): they travel as plain files.
fn sendable_type(media_type: &str) -> &str {
    let is_composite = ["message/", "multipart/"].iter().any(|prefix| {
        media_type
            .get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    });
    if is_composite {
        "application/octet-stream"
    } else {
        media_type
    }
}

fn is_media_type(text: &str) -> bool {
    let is_token = |token: &str| {
        (1..=127).contains(&token.len())
            && token
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
    };
    text.split_once('/')
        .is_some_and(|(top, sub)| is_token(top) && is_token(sub))
}

/// What people attach; anything else is `application/octet-stream`.
fn media_type(file_name: &str) -> &'static str {
    const TYPES: &[(&str, &str)] = &[
        ("7z", "application/x-7z-compressed"),
        ("avif", "image/avif"),
        ("bmp", "image/bmp"),
        ("css", "text/css"),
        ("csv", "text/csv"),
        ("doc", "application/msword"),
        (
            "docx",
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        ),
        ("epub", "application/epub+zip"),
        ("gif", "image/gif"),
        ("gz", "application/gzip"),
        ("htm", "text/html"),
        ("html", "text/html"),
        ("ics", "text/calendar"),
        ("jpeg", "image/jpeg"),
        ("jpg", "image/jpeg"),
        ("json", "application/json"),
        ("md", "text/markdown"),
        ("mp3", "audio/mpeg"),
        ("mp4", "video/mp4"),
        ("odp", "application/vnd.oasis.opendocument.presentation"),
        ("ods", "application/vnd.oasis.opendocument.spreadsheet"),
        ("odt", "application/vnd.oasis.opendocument.text"),
        ("ogg", "audio/ogg"),
        ("pdf", "application/pdf"),
        ("png", "image/png"),
        ("ppt", "application/vnd.ms-powerpoint"),
        (
            "pptx",
            "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        ),
        ("rtf", "application/rtf"),
        ("svg", "image/svg+xml"),
        ("tar", "application/x-tar"),
        ("tif", "image/tiff"),
        ("tiff", "image/tiff"),
        ("txt", "text/plain"),
        ("vcf", "text/vcard"),
        ("wav", "audio/wav"),
        ("webm", "video/webm"),
        ("webp", "image/webp"),
        ("xls", "application/vnd.ms-excel"),
        (
            "xlsx",
            "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        ),
        ("xml", "application/xml"),
        ("zip", "application/zip"),
    ];
    let extension = file_name.rsplit_once('.').map_or("", |(_, e)| e);
    TYPES
        .iter()
        .find(|(known, _)| extension.eq_ignore_ascii_case(known))
        .map_or("application/octet-stream", |(_, media_type)| media_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(file_name: &str) -> String {
        let attachment = Attachment::new(file_name, b"x").unwrap();
        let text = String::from_utf8(attachment.part().to_vec()).unwrap();
        text.split("\r\n\r\n").next().unwrap().to_owned()
    }

    #[test]
    fn the_type_follows_from_the_name_and_directories_are_dropped() {
        for (name, media_type, shown) in [
            ("a.pdf", "application/pdf", "filename=\"a.pdf\""),
            ("/tmp/b.PNG", "image/png", "filename=\"b.PNG\""),
            (
                "C:\\x\\c.eml",
                "application/octet-stream",
                "filename=\"c.eml\"",
            ),
            ("d\"e", "application/octet-stream", "filename=\"d\\\"e\""),
            ("é.txt", "text/plain", "filename*=utf-8''%C3%A9.txt"),
        ] {
            let head = head(name);
            assert!(head.contains(media_type) && head.contains(shown), "{head}");
        }
    }

    #[test]
    fn rfc2231_a_long_name_goes_in_pieces() {
        let head = head(&"é".repeat(60));
        assert!(head.contains("filename*0*=utf-8''%C3%A9") && head.contains("filename*1*=%C3"));
        assert!(head.lines().all(|line| line.len() <= 78), "{head}");
    }

    #[test]
    fn what_would_break_the_part_is_refused() {
        assert!(Attachment::new("a\r\nX: y", b"").is_err());
        assert!(Attachment::typed("a", "text/plain\r\nX: y", b"").is_err());
        assert!(Attachment::typed("a", "text", b"").is_err());
        assert!(Attachment::inline("a>\r\nX: y", "a.png", b"").is_err());
        assert!(Attachment::inline("", "a.png", b"").is_err());
    }
}
