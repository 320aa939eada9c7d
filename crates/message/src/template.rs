//! Subject, text and HTML as minijinja templates, compiled once, rendered for each recipient.
//!
//! A variable that is not given is an error, never an empty string. HTML is auto-escaped, text and
//! subject are not. Templates are a sender's code, and not every sender of a server is to be trusted
//! with all of it: there is no `include`, no file is opened while rendering, what one rendering
//! does and makes is bounded ([`FUEL`]), and so is how deep the parser and the compiler go into it
//! ([`OPERATORS_MAX`]). What a rendering makes may be nested as deep as its fuel allows, and takes as
//! much of the stack: a stranger's template is rendered on one of [`STACK_BYTES`]. Of minijinja's own
//! filters those are missing (`indent`, `pprint`, `chain`, `zip`) that would print what is not given.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, State, UndefinedBehavior, Value, filters};
use serde_json::{Map, Value as Json};

/// A template's text and where it came from.
#[derive(Debug, Clone)]
pub struct Source {
    name: String,
    text: String,
}

impl Source {
    /// A text given directly; `name` is what errors call it, such as `--subject`.
    #[must_use]
    pub fn inline(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
        }
    }

    /// Reads a UTF-8 file; errors will name it as given here.
    ///
    /// # Errors
    /// The file cannot be read, or is not UTF-8.
    pub fn file(path: &Path) -> Result<Self, TemplateError> {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Self { name, text }),
            Err(error) => Err(TemplateError::new(name, format!("cannot be read: {error}"))),
        }
    }
}

/// What is wrong, where in which template, and for which recipient.
///
/// Displayed as `FILE:LINE:COLUMN: row N: PROBLEM`, as far as known.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TemplateError {
    /// The template's file, or the name given to [`Source::inline`].
    pub file: String,
    /// From 1.
    pub line: Option<usize>,
    /// From 1, in characters.
    pub column: Option<usize>,
    /// The recipient's row in the list, where rendering was for one.
    pub row: Option<u64>,
    /// The variable that is not given, where that is the problem.
    pub variable: Option<String>,
    /// What is wrong, for people.
    pub problem: String,
}

impl TemplateError {
    fn new(file: String, problem: String) -> Self {
        Self {
            file,
            line: None,
            column: None,
            row: None,
            variable: None,
            problem,
        }
    }

    fn at_row(mut self, row: Option<u64>) -> Self {
        self.row = row;
        self
    }
}

impl std::error::Error for TemplateError {}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        if let Some(row) = self.row {
            write!(f, ": row {row}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// What a [`Template`] made for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Without control characters.
    pub subject: Option<String>,
    /// Plain text.
    pub text: Option<String>,
    /// HTML.
    pub html: Option<String>,
}

/// Subject, text and HTML, compiled; shared between threads as it is.
#[derive(Debug)]
pub struct Template {
    subject: Option<Compiled>,
    text: Option<Compiled>,
    html: Option<Compiled>,
}

impl Template {
    /// Compiles what is given.
    ///
    /// # Errors
    /// The first syntax error, with its place.
    pub fn load(
        subject: Option<Source>,
        text: Option<Source>,
        html: Option<Source>,
    ) -> Result<Self, TemplateError> {
        let compile =
            |source: Option<Source>, escape| source.map(|s| Compiled::new(s, escape)).transpose();
        Ok(Self {
            subject: compile(subject, AutoEscape::None)?,
            text: compile(text, AutoEscape::None)?,
            html: compile(html, AutoEscape::Html)?,
        })
    }

    /// The variables that the templates may look up, for a check against a list's columns before
    /// anything is sent. A static view: those in branches not taken are among them.
    #[must_use]
    pub fn variables(&self) -> BTreeSet<String> {
        let compiled = [&self.subject, &self.text, &self.html];
        compiled
            .into_iter()
            .flatten()
            .flat_map(Compiled::variables)
            .collect()
    }

    /// Renders for one recipient.
    ///
    /// * `row`: the recipient's place in the list; only errors use it.
    ///
    /// # Errors
    /// A variable that is not given, what else goes wrong in an expression, and a subject with a
    /// control character (header injection).
    pub fn render(
        &self,
        variables: &Map<String, Json>,
        row: Option<u64>,
    ) -> Result<Rendered, TemplateError> {
        self.render_value(&Value::from(Serde(variables)), row)
    }

    pub(crate) fn render_value(
        &self,
        variables: &Value,
        row: Option<u64>,
    ) -> Result<Rendered, TemplateError> {
        let render = |part: &Option<Compiled>| {
            part.as_ref()
                .map(|compiled| compiled.render(variables))
                .transpose()
                .map_err(|error| error.at_row(row))
        };
        let rendered = Rendered {
            subject: render(&self.subject)?,
            text: render(&self.text)?,
            html: render(&self.html)?,
        };
        if let (Some(compiled), Some(subject)) = (&self.subject, &rendered.subject)
            && let Err(error) = crate::header::check_value("Subject", subject)
        {
            let error = TemplateError::new(compiled.file.clone(), error.to_string());
            return Err(error.at_row(row));
        }
        Ok(rendered)
    }
}

/// A URI that differs from recipient to recipient, such as the one to unsubscribe with.
#[derive(Debug)]
pub struct UriTemplate(Compiled);

impl UriTemplate {
    /// Compiles it. `{{ email | urlencode }}` is the way to put a variable into a query.
    ///
    /// # Errors
    /// A syntax error, with its place.
    pub fn load(source: Source) -> Result<Self, TemplateError> {
        Compiled::new(source, AutoEscape::None).map(Self)
    }

    /// The variables that it may look up.
    #[must_use]
    pub fn variables(&self) -> BTreeSet<String> {
        self.0.variables().collect()
    }

    pub(crate) fn render(
        &self,
        variables: &Value,
        row: Option<u64>,
    ) -> Result<String, TemplateError> {
        self.0.render(variables).map_err(|error| error.at_row(row))
    }

    /// An error about what was rendered, with this template's name.
    pub(crate) fn error(&self, problem: String, row: Option<u64>) -> TemplateError {
        TemplateError::new(self.0.file.clone(), problem).at_row(row)
    }
}

/// One template in an environment of its own.
#[derive(Debug)]
struct Compiled {
    file: String,
    environment: Environment<'static>,
}

/// What one rendering may use up: one for an instruction, and one for each 64 octets that it makes,
/// so at most some 20 ms and 13 MB.
const FUEL: u64 = 200_000;

/// The stack on which a stranger's template is to be rendered. A value in a value costs four
/// instructions, and at most 2 KiB of the stack to print, compare or drop; so 100 MiB are reached.
pub const STACK_BYTES: usize = 256 << 20;

/// Operators in one tag, brackets and keywords of expressions included. The parser calls itself for
/// each, unguarded where one follows the other, as in `-----1` and `a.b.c`.
const OPERATORS_MAX: usize = 500;

/// The same for `elif`, in a whole template.
const ELIFS_MAX: usize = 250;

/// The name of the one template of each environment.
const NAME: &str = "template";

impl Compiled {
    fn new(source: Source, escape: AutoEscape) -> Result<Self, TemplateError> {
        check_depth(&source)?;
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_debug(true);
        environment.set_fuel(Some(FUEL));
        forbid_filters_on_undefined(&mut environment);
        environment.set_auto_escape_callback(move |_| escape.clone());
        environment
            .add_template_owned(NAME, source.text.clone())
            .map_err(|error| describe(&source.name, &source.text, &error))?;
        Ok(Self {
            file: source.name,
            environment,
        })
    }

    fn template(&self) -> minijinja::Template<'_, '_> {
        self.environment
            .get_template(NAME)
            .expect("added when it was made")
    }

    fn render(&self, variables: &Value) -> Result<String, TemplateError> {
        let template = self.template();
        template
            .render(variables)
            .map_err(|error| describe(&self.file, template.source(), &error))
    }

    fn variables(&self) -> impl Iterator<Item = String> {
        let globals: BTreeSet<_> = self
            .environment
            .globals()
            .map(|(name, _)| name.to_owned())
            .collect();
        let variables = self.template().undeclared_variables(false);
        variables.into_iter().filter(move |v| !globals.contains(v))
    }
}

/// Refuses what would take the parser too deep. What is no template is left to the parser.
fn check_depth(source: &Source) -> Result<(), TemplateError> {
    let (mut operators, mut elifs) = (0, 0);
    for (token, span) in
        tokenize(&source.text, false, SyntaxConfig::default()).map_while(Result::ok)
    {
        match token {
            Token::VariableStart | Token::BlockStart => operators = 0,
            Token::Ident("elif") => elifs += 1,
            _ if is_operator(&token) => operators += 1,
            _ => {}
        }
        let problem = match () {
            () if operators > OPERATORS_MAX => "a tag with over 500 operators",
            () if elifs > ELIFS_MAX => "over 250 `elif`",
            () => continue,
        };
        return Err(TemplateError {
            line: Some(span.start_line.into()),
            ..TemplateError::new(source.name.clone(), problem.to_owned())
        });
    }
    Ok(())
}

/// Whether a token may take the parser one step deeper: all but names, values and what separates
/// them.
fn is_operator(token: &Token<'_>) -> bool {
    match token {
        Token::Ident(name) => ["not", "and", "or", "if", "else", "is", "in"].contains(name),
        Token::Str(_)
        | Token::String(_)
        | Token::Int(_)
        | Token::Int128(_)
        | Token::Float(_)
        | Token::Comma
        | Token::Colon
        | Token::Assign => false,
        _ => true,
    }
}

/// Minijinja's strict mode leaves it to each filter what to do with a value that is not given;
/// these would take it for an empty string.
fn forbid_filters_on_undefined(environment: &mut Environment<'_>) {
    let escape = |state: &mut State, value: &Value| {
        given(value)?;
        filters::escape(state, value)
    };
    environment.add_filter("escape", escape);
    environment.add_filter("e", escape);
    environment.add_filter("urlencode", |value: &Value| {
        given(value)?;
        filters::urlencode(value)
    });
    for name in ["indent", "pprint", "chain", "zip"] {
        environment.remove_filter(name);
    }
}

/// An error that names the variable, for a value that is undefined.
fn given(value: &Value) -> Result<(), minijinja::Error> {
    match value.is_undefined() {
        true => i64::try_from(value.clone()).map(|_| ()),
        false => Ok(()),
    }
}

fn describe(file: &str, source: &str, error: &minijinja::Error) -> TemplateError {
    let variable = error.detail().and_then(undefined_variable);
    let problem = match (variable, error.detail()) {
        (Some(variable), _) => format!("the variable {variable} is not given"),
        (None, Some(detail)) => format!("{}: {detail}", error.kind()),
        (None, None) => error.kind().to_string(),
    };
    TemplateError {
        file: file.to_owned(),
        line: error.line(),
        column: error.range().and_then(|range| {
            let excerpt = source.get(range.clone())?;
            let within = variable.and_then(|variable| excerpt.find(variable));
            column(source, range.start + within.unwrap_or(0))
        }),
        row: None,
        variable: variable.map(str::to_owned),
        problem,
    }
}

/// The name in "`name` is undefined".
fn undefined_variable(detail: &str) -> Option<&str> {
    let before = detail.split("` is undefined").next()?;
    let name = before.rsplit_once('`')?.1;
    (before.len() < detail.len()).then_some(name)
}

/// Characters from the line's start, from 1.
fn column(source: &str, at: usize) -> Option<usize> {
    let before = source.get(..at)?;
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Some(before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn variables(json: &Json) -> Map<String, Json> {
        json.as_object().unwrap().clone()
    }

    fn template(subject: &str, text: &str, html: &str) -> Result<Template, TemplateError> {
        Template::load(
            Some(Source::inline("subject.txt", subject)),
            Some(Source::inline("text.txt", text)),
            Some(Source::inline("page.html", html)),
        )
    }

    #[test]
    fn html_is_escaped_and_the_rest_is_not() {
        let template = template("Hi {{ name }}", "{{ name }}!", "<b>{{ name }}</b>").unwrap();
        let rendered = template
            .render(&variables(&json!({"name": "A & B"})), None)
            .unwrap();
        assert_eq!(rendered.subject.as_deref(), Some("Hi A & B"));
        assert_eq!(rendered.text.as_deref(), Some("A & B!"));
        assert_eq!(rendered.html.as_deref(), Some("<b>A &amp; B</b>"));
    }

    #[test]
    fn a_template_that_never_ends_or_grows_without_end_is_stopped() {
        let doubling = format!("{{% set x = name %}}{}", "{% set x = x ~ x %}".repeat(50));
        let captured = format!(
            "{{% set x = name %}}{}",
            "{% set x %}{{ x }}{{ x }}{% endset %}".repeat(50)
        );
        for text in [
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "{% for i in range(99999) %}{{ name }}{% endfor %}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{{ name * 999999999 }}",
            "{{ name | replace('a', name) | replace('a', name) }}",
            &doubling,
            &captured,
        ] {
            let template = template("", text, "").unwrap();
            let name = "a".repeat(10_000);
            let result = template.render(&variables(&json!({ "name": name })), None);
            assert!(result.is_err(), "{text:.60}");
        }
    }

    #[test]
    fn a_template_as_deep_as_may_be_compiles_and_a_deeper_one_is_refused() {
        let chains: [fn(usize) -> String; 12] = [
            |n| format!("{{{{ {}1 }}}}", "-".repeat(n)),
            |n| format!("{{{{ {}1 }}}}", "not ".repeat(n)),
            |n| format!("{{{{ 1{} }}}}", "+1".repeat(n)),
            |n| format!("{{{{ x{} }}}}", "~x".repeat(n)),
            |n| format!("{{{{ x{} }}}}", ".a".repeat(n)),
            |n| format!("{{{{ x{} }}}}", "[0]".repeat(n)),
            |n| format!("{{{{ x{} }}}}", "()".repeat(n)),
            |n| format!("{{{{ x{} }}}}", "|e".repeat(n)),
            |n| format!("{{{{ x{} }}}}", " if x else x".repeat(n)),
            |n| format!("{{{{ x{} }}}}", "**x".repeat(n)),
            |n| format!("{{{{ x{} }}}}", " is defined".repeat(n)),
            |n| format!("{{% if x %}}{}{{% endif %}}", "{% elif x %}".repeat(n)),
        ];
        for chain in chains {
            let allowed = (0..=OPERATORS_MAX)
                .rev()
                .find(|n| template("", &chain(*n), "").is_ok());
            assert!(allowed.is_some_and(|n| n >= 249), "{:.40}", chain(3));
            let error = template("", &chain(200_000), "").unwrap_err();
            assert!(error.problem.contains("over "), "{error}");
        }
        let wide = format!("{{{{ [{}] }}}}", "1, name, 'x', ".repeat(10_000));
        assert!(template("", &wide, "").is_ok());
    }

    #[test]
    fn values_nested_as_deep_as_fuel_allows_fit_the_stack_for_strangers() {
        let nested = |count| format!("{{% set x = 1 %}}{}", "{% set x = [x] %}".repeat(count));
        let texts = [
            ("{{ x }}", 40_000, true),
            ("{{ x == [x] }}", 40_000, true),
            ("{{ {x: 1} | length }}", 40_000, true),
            ("", 60_000, false),
        ];
        let rendering = move || {
            for (then, depth, fits) in texts {
                let template = template("", &(nested(depth) + then), "").unwrap();
                let rendered = template.render(&Map::new(), None);
                assert_eq!(rendered.is_ok(), fits, "{then} {rendered:.200?}");
            }
        };
        let stack = std::thread::Builder::new().stack_size(STACK_BYTES);
        stack.spawn(rendering).unwrap().join().unwrap();
    }

    #[test]
    fn an_unknown_variable_is_an_error_with_its_place_and_row() {
        for (text, line, column, variable) in [
            ("a\nbé {{ nam }}", 2, 7, "nam"),
            ("{% if gone %}x{% endif %}", 1, 7, "gone"),
            ("{% if name == gone %}x{% endif %}", 1, 15, "gone"),
            ("{{ name }}{{ lost | upper }}", 1, 21, "lost"),
            ("{% for x in list %}{% endfor %}", 1, 13, "list"),
            ("{{ who.name }}", 1, 4, "who"),
            ("{{ lost | urlencode }}", 1, 11, "lost"),
            ("{{ lost | escape }}", 1, 11, "lost"),
            ("{{ lost | e }}", 1, 11, "lost"),
            ("{{ lost ~ name }}", 1, 4, "lost"),
            ("{{ lost + 1 }}", 1, 4, "lost"),
        ] {
            let template = template("s", text, "h").unwrap();
            let error = template
                .render(&variables(&json!({"name": "n"})), Some(17))
                .unwrap_err();
            assert_eq!(error.file, "text.txt");
            assert_eq!(error.variable.as_deref(), Some(variable), "{error}");
            assert_eq!(
                (error.line, error.column),
                (Some(line), Some(column)),
                "{error}"
            );
            assert_eq!(
                error.to_string(),
                format!("text.txt:{line}:{column}: row 17: the variable {variable} is not given")
            );
        }
    }

    #[test]
    fn what_may_be_missing_can_say_so() {
        let text = "{{ nick | default('you') }}{% if x is defined %}no{% endif %}";
        let rendered = template("s", text, "h").unwrap().render(&Map::new(), None);
        assert_eq!(rendered.unwrap().text.as_deref(), Some("you"));
        for gone in ["indent", "pprint", "chain", "zip"] {
            let template = template("s", &format!("{{{{ a | {gone} }}}}"), "h");
            assert!(template.and_then(|t| t.render(&Map::new(), None)).is_err());
        }
    }

    #[test]
    fn a_syntax_error_has_its_place() {
        let error = template("s", "t", "ok\n  {% if %}").unwrap_err();
        assert_eq!(error.file, "page.html");
        assert_eq!((error.line, error.row), (Some(2), None));
        assert!(error.column.is_some(), "{error}");
    }

    #[test]
    fn a_variable_cannot_inject_a_header_through_the_subject() {
        let template = template("Hi {{ name }}", "t", "h").unwrap();
        let bad = variables(&json!({"name": "x\r\nBcc: evil@example.com"}));
        let error = template.render(&bad, Some(3)).unwrap_err();
        assert_eq!((error.file.as_str(), error.row), ("subject.txt", Some(3)));
        assert!(error.problem.contains("Subject"), "{error}");
    }

    #[test]
    fn variables_are_known_before_rendering() {
        let template = template(
            "{{ a }}",
            "{% if b %}{{ range(3) }}{% endif %}",
            "{{ c.d }}",
        );
        let names: Vec<_> = template.unwrap().variables().into_iter().collect();
        assert_eq!(names, ["a", "b", "c"]);
    }

    #[test]
    fn a_template_is_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Template>();
        shared::<UriTemplate>();
    }
}
