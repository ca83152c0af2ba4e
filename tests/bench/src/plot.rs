//! The table as a picture: one bar for each comparison, as SVG.
//!
//! A bar says how many times as fast as the other Weft is, on a logarithmic scale around 1: to the
//! right it is faster. A tick on a bar is what it should at least reach. The colour tells how the cores
//! lay to each other.

use std::fmt::Write;

use crate::machine::Placement;
use crate::report::Report;

/// Pixels of a bar with the gap below it.
const STEP: f64 = 15.0;
const BAR: f64 = 11.0;
/// Pixels for the words on the left, and for all of it.
const LEFT: f64 = 690.0;
const WIDTH: f64 = 1290.0;
/// About as many of a letter, rather too many.
const LETTER: f64 = 6.5;
const TOP: f64 = 64.0;
/// The ends of the scale. What lies beyond ends there, and its figure is told all the same.
const SCALE: [f64; 2] = [0.05, 1000.0];
const MARKS: [f64; 8] = [0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 100.0, 1000.0];

/// The table as a picture.
#[must_use]
pub fn svg(report: &Report) -> String {
    let bars: Vec<Bar<'_>> = bars(report);
    let height = TOP + STEP * bars.len() as f64 + 12.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"20\" font-size=\"15\">How many times as fast as others Weft's local channels are</text>\n"
    );
    legend(&mut svg, report);
    for mark in MARKS {
        let (x, heavy) = (place(mark), mark == 1.0);
        let colour = if heavy { "#444" } else { "#ddd" };
        line(
            &mut svg,
            &format!(
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{:.1}\" stroke=\"{colour}\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#444\">{mark} ×</text>",
                height - 8.0,
                TOP - 6.0
            ),
        );
    }
    for (index, bar) in bars.iter().enumerate() {
        bar.draw(&mut svg, TOP + 4.0 + STEP * index as f64);
    }
    svg.push_str("</svg>\n");
    svg
}

/// One comparison.
struct Bar<'a> {
    title: &'a str,
    other: &'a str,
    placement: Placement,
    speed: f64,
    asked: Option<f64>,
    met: bool,
}

/// In the order of the table, placements of one comparison one below the other.
fn bars(report: &Report) -> Vec<Bar<'_>> {
    let mut bars: Vec<Bar<'_>> = Vec::new();
    for group in &report.groups {
        for row in &group.rows {
            for filled in &row.against {
                let bar = Bar {
                    title: row.title,
                    other: &filled.other,
                    placement: group.placement,
                    speed: filled.bar.as_speed(filled.ratio),
                    asked: filled.bar.at_least.map(|asked| filled.bar.as_speed(asked)),
                    met: filled.met,
                };
                let same = |old: &Bar<'_>| old.title == bar.title && old.other == bar.other;
                let at = bars.iter().rposition(same).map_or(bars.len(), |at| at + 1);
                bars.insert(at, bar);
            }
        }
    }
    bars
}

impl Bar<'_> {
    fn draw(&self, svg: &mut String, y: f64) {
        let (one, end) = (place(1.0), place(self.speed));
        let (x, width) = (one.min(end), (end - one).abs());
        let (text, colour) = (y + BAR - 2.0, colour(self.placement));
        let words = escape(&format!("{} — {}", self.title, self.other));
        line(
            svg,
            &format!(
                "<text x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\">{words}</text>\
                 <rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>",
                LEFT - 8.0
            ),
        );
        if let Some(asked) = self.asked {
            let x = place(asked);
            line(
                svg,
                &format!(
                    "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#c00\" stroke-width=\"2\"/>",
                    y - 1.0,
                    y + BAR + 1.0
                ),
            );
        }
        let (missed, weight) = if self.met {
            ("", "normal")
        } else {
            (" missed", "bold")
        };
        let after = end.max(one).max(self.asked.map_or(0.0, place)) + 5.0;
        line(
            svg,
            &format!(
                "<text x=\"{after:.1}\" y=\"{text:.1}\" font-weight=\"{weight}\">{}{missed}</text>",
                number(self.speed)
            ),
        );
    }
}

fn legend(svg: &mut String, report: &Report) {
    let mut x = 8.0;
    for group in &report.groups {
        let words = format!("cores {}", group.placement.words());
        line(
            svg,
            &format!(
                "<rect x=\"{x}\" y=\"32\" width=\"{BAR}\" height=\"{BAR}\" fill=\"{}\"/>\
                 <text x=\"{}\" y=\"42\">{}</text>",
                colour(group.placement),
                x + 16.0,
                escape(&words)
            ),
        );
        x += 40.0 + LETTER * words.chars().count() as f64;
    }
    line(
        svg,
        &format!(
            "<line x1=\"{x}\" x2=\"{x}\" y1=\"31\" y2=\"44\" stroke=\"#c00\" stroke-width=\"2\"/>\
             <text x=\"{}\" y=\"42\">at least</text>",
            x + 6.0
        ),
    );
}

fn line(svg: &mut String, text: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(svg, "{text}");
}

fn colour(placement: Placement) -> &'static str {
    match placement {
        Placement::Near => "#2a6fbb",
        Placement::Far => "#e08a1e",
        Placement::Siblings => "#5b9e4d",
        Placement::OneCore => "#888888",
    }
}

/// Where on the scale a factor lies.
fn place(factor: f64) -> f64 {
    let [low, high] = SCALE;
    let share = (factor.clamp(low, high) / low).ln() / (high / low).ln();
    // Room for the figure behind the longest bar.
    LEFT + share * (WIDTH - LEFT - 90.0)
}

fn number(factor: f64) -> String {
    match factor {
        10.0.. => format!("{factor:.0}"),
        _ => format!("{factor:.2}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_is_even_in_factors_and_has_ends() {
        let step = place(10.0) - place(1.0);
        assert!((place(100.0) - place(10.0) - step).abs() < 1e-9);
        assert!((place(1.0) - place(0.1) - step).abs() < 1e-9);
        assert_eq!(place(1e9), place(SCALE[1]));
        assert_eq!(place(0.0), LEFT);
    }

    #[test]
    fn what_means_something_to_xml_is_escaped() {
        assert_eq!(escape("a < b & c"), "a &lt; b &amp; c");
    }
}
