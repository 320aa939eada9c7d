//! Charts as inline SVG; colours come from the page's style sheet by class.

use std::fmt::Write;

/// Width of every chart in its own units.
const WIDTH: f64 = 880.0;
/// Width left for the labels of rows.
const LABEL_WIDTH: f64 = 210.0;
/// Width left for the values behind bars.
const VALUE_WIDTH: f64 = 110.0;
/// Height of a row, of which the bar takes most.
const ROW_HEIGHT: f64 = 38.0;
const BAR_HEIGHT: f64 = 24.0;

/// A part of a row: class and value.
pub(super) type Part = (&'static str, f64);

/// A row of a bar chart.
pub(super) struct Row {
    pub(super) label: String,
    pub(super) parts: Vec<Part>,
    /// Written behind the bar.
    pub(super) value: String,
}

/// Horizontal bars, each made of parts, to one scale from nought.
pub(super) fn bars(title: &str, rows: &[Row]) -> String {
    let sum = |row: &Row| row.parts.iter().map(|(_, value)| value).sum::<f64>();
    let most = rows.iter().map(sum).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - LABEL_WIDTH - VALUE_WIDTH) / most;
    let height = rows.len() as f64 * ROW_HEIGHT;
    let mut svg = open(title, height);
    for (index, row) in rows.iter().enumerate() {
        let top = index as f64 * ROW_HEIGHT + (ROW_HEIGHT - BAR_HEIGHT) / 2.0;
        let middle = top + BAR_HEIGHT / 2.0;
        text(
            &mut svg,
            LABEL_WIDTH - 14.0,
            middle,
            "end",
            "label",
            &row.label,
        );
        let mut left = LABEL_WIDTH;
        for (class, value) in &row.parts {
            // A value that is not nought shows.
            let width = if *value > 0.0 {
                (value * scale).max(1.5)
            } else {
                0.0
            };
            let _ = write!(
                svg,
                r#"<rect class="{class}" x="{left:.1}" y="{top:.1}" width="{width:.1}" height="{BAR_HEIGHT}" rx="2"/>"#
            );
            left += width;
        }
        text(&mut svg, left + 10.0, middle, "start", "value", &row.value);
    }
    svg.push_str("</svg>");
    svg
}

/// A line of a line chart.
pub(super) struct Line {
    pub(super) class: &'static str,
    pub(super) label: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// Lines from nought to the most that any of them reaches, on both axes.
pub(super) fn lines(title: &str, x_unit: &str, lines: &[Line]) -> String {
    let (left, right, top, bottom, height) = (64.0, 24.0, 26.0, 34.0, 330.0);
    let points = || lines.iter().flat_map(|line| &line.points);
    let x_max = points()
        .map(|point| point.0)
        .fold(f64::MIN_POSITIVE, f64::max);
    let y_max = points()
        .map(|point| point.1)
        .fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| left + value / x_max * (WIDTH - left - right);
    let y = |value: f64| height - bottom - value / y_max * (height - top - bottom);
    let mut svg = open(title, height);
    for step in ticks(y_max) {
        let (at, to) = (y(step), WIDTH - right);
        let _ = write!(svg, r#"<path class="grid" d="M{left} {at:.1}H{to}"/>"#);
        text(&mut svg, left - 10.0, at, "end", "tick", &step.to_string());
    }
    for step in ticks(x_max) {
        let label = format!("{step} {x_unit}");
        text(
            &mut svg,
            x(step),
            height - bottom + 18.0,
            "middle",
            "tick",
            &label,
        );
    }
    for line in lines {
        let mut path = String::new();
        for (index, point) in line.points.iter().enumerate() {
            let command = if index == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{command}{:.1} {:.1}", x(point.0), y(point.1));
        }
        let class = line.class;
        let _ = write!(svg, r#"<path class="line {class}-line" d="{path}"/>"#);
        if let Some(last) = line.points.last() {
            let (x, y) = (x(last.0), y(last.1));
            let _ = write!(
                svg,
                r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="4"/>"#
            );
            text(&mut svg, x - 2.0, y - 14.0, "middle", "value", &line.label);
        }
    }
    svg.push_str("</svg>");
    svg
}

/// Round numbers up to `most`, four to eight of them.
fn ticks(most: f64) -> Vec<f64> {
    let power = 10f64.powf((most / 4.0).log10().floor());
    let step = [5.0, 2.0, 1.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| most / step >= 4.0)
        .unwrap_or(power);
    (0..)
        .map(|index| f64::from(index) * step)
        .take_while(|tick| *tick <= most * 1.001)
        .collect()
}

fn open(title: &str, height: f64) -> String {
    format!(
        r#"<svg viewBox="0 0 {WIDTH} {height:.0}" role="img" aria-label="{title}"><title>{title}</title>"#
    )
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, class: &str, words: &str) {
    let _ = write!(
        svg,
        r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" dominant-baseline="central">{words}</text>"#
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_end_at_the_most() {
        assert_eq!(ticks(1000.0), [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
        assert_eq!(ticks(12.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
        assert_eq!(ticks(0.5).len(), 6);
    }
}
