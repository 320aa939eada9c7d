//! Templates that the operator put into a folder, by name.
//!
//! `welcome.subject`, `welcome.txt` and `welcome.html` (also with `.j2` after it) make the template
//! `welcome`. All are compiled when the folder is read; a mistake in one is reported with its place
//! and the old set stays in force.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use message::{Source, Template, TemplateError};

/// Why a folder of templates cannot be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplatesError {
    /// The folder cannot be read.
    #[error("the folder {0} cannot be read")]
    Folder(PathBuf, #[source] std::io::Error),
    /// A file of it cannot be read, or is not UTF-8.
    #[error("the template {0} cannot be read")]
    File(PathBuf, #[source] std::io::Error),
    /// A template is wrong.
    #[error("{0}")]
    Template(#[from] TemplateError),
}

/// Templates by name; replaced as a whole by [`Templates::reload`].
#[derive(Debug, Default)]
pub struct Templates {
    named: ArcSwap<HashMap<Box<str>, Arc<Template>>>,
}

impl Templates {
    /// Reads a folder; `None` is the empty set.
    ///
    /// # Errors
    /// See [`TemplatesError`].
    pub fn load(folder: Option<&Path>) -> Result<Self, TemplatesError> {
        let templates = Self::default();
        templates.reload(folder)?;
        Ok(templates)
    }

    /// Reads the folder again.
    ///
    /// # Errors
    /// See [`TemplatesError`]; what was loaded before stays.
    pub fn reload(&self, folder: Option<&Path>) -> Result<(), TemplatesError> {
        let named = folder.map(read).transpose()?.unwrap_or_default();
        self.named.store(Arc::new(named));
        Ok(())
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Template>> {
        self.named.load().get(name).cloned()
    }
}

fn read(folder: &Path) -> Result<HashMap<Box<str>, Arc<Template>>, TemplatesError> {
    let failed = |error| TemplatesError::Folder(folder.to_owned(), error);
    // Subject, text, HTML.
    let mut files: BTreeMap<Box<str>, [Option<PathBuf>; 3]> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let stem = name.strip_suffix(".j2").unwrap_or(name);
        let Some((name, part)) = stem.rsplit_once('.').and_then(|(name, ending)| {
            let part = ["subject", "txt", "html"]
                .iter()
                .position(|e| *e == ending)?;
            Some((name, part))
        }) else {
            continue;
        };
        files.entry(name.into()).or_default()[part] = Some(path.clone());
    }
    let compile = |(name, [subject, text, html]): (Box<str>, [Option<PathBuf>; 3])| {
        let source = |path: Option<PathBuf>| path.map(|path| Source::file(&path)).transpose();
        let subject = subject.map(|path| one_line(&path)).transpose()?;
        let template = Template::load(subject, source(text)?, source(html)?)?;
        Ok((name, Arc::new(template)))
    };
    files.into_iter().map(compile).collect()
}

/// A file's text without the end of its line, which editors add.
fn one_line(path: &Path) -> Result<Source, TemplatesError> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| TemplatesError::File(path.to_owned(), error))?;
    let text = text.trim_end_matches(['\r', '\n']);
    Ok(Source::inline(path.display().to_string(), text))
}
