//! Curves over time as SVG: one panel above the other, all with the same scales.

use anyhow::{Context, Result};
use std::{fmt::Write as _, fs, path::Path};

const WIDTH: f64 = 1000.0;
const PANEL: f64 = 130.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 46.0;

/// What happened to one stream around one event.
#[derive(Debug, Clone)]
pub struct Panel {
    pub title: String,
    /// When each datagram arrived, microseconds, and when it happened, on the same clock.
    pub arrivals: Vec<u64>,
    pub event: u64,
    /// What is promised or expected, datagrams a second: the top of the scale.
    pub rate: f64,
}

/// Draws arrivals in bins of `bin_us` from `before_us` before the event until `after_us` after it.
pub fn draw(file: &Path, title: &str, panels: &[Panel], bin_us: u64, before_us: u64, after_us: u64) -> Result<()> {
    #[expect(clippy::cast_precision_loss, reason = "pixels")]
    let height = TOP + PANEL * panels.len() as f64 + 30.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"22\" font-size=\"16\">{}</text>\n",
        escape(title)
    );
    let mut top = TOP;
    for panel in panels {
        one(&mut svg, panel, top, bin_us, before_us, after_us)?;
        top += PANEL;
    }
    axis(&mut svg, top, before_us, after_us)?;
    svg.push_str("</svg>\n");
    fs::write(file, svg).with_context(|| file.display().to_string())
}

#[expect(clippy::cast_precision_loss, reason = "pixels")]
fn x(at_us: u64, before_us: u64, after_us: u64) -> f64 {
    LEFT + (WIDTH - LEFT - 20.0) * at_us as f64 / (before_us + after_us) as f64
}

#[expect(clippy::cast_precision_loss, reason = "pixels")]
fn one(svg: &mut String, panel: &Panel, top: f64, bin_us: u64, before_us: u64, after_us: u64) -> Result<()> {
    let height = PANEL - 40.0;
    let base = top + 20.0 + height;
    let full = panel.rate * bin_us as f64 / 1e6 * 1.25;
    let at = |x: f64, count: f64| format!("{x:.1},{:.1}", base - height * (count / full).min(1.0));
    let points: Vec<String> = bins(panel, bin_us, before_us, after_us)
        .iter()
        .enumerate()
        .map(|(i, n)| at(x(i as u64 * bin_us + bin_us / 2, before_us, after_us), *n as f64))
        .collect();
    let event = x(before_us, before_us, after_us);
    write!(
        svg,
        "<text x=\"{LEFT}\" y=\"{:.1}\">{}</text>\n\
         <line x1=\"{LEFT}\" y1=\"{base:.1}\" x2=\"{:.1}\" y2=\"{base:.1}\" stroke=\"#999\"/>\n\
         <line x1=\"{event:.1}\" y1=\"{:.1}\" x2=\"{event:.1}\" y2=\"{base:.1}\" stroke=\"#c00\" stroke-dasharray=\"4 3\"/>\n\
         <text x=\"8\" y=\"{:.1}\">{:.0}/s</text>\n<text x=\"8\" y=\"{base:.1}\">0</text>\n\
         <polyline fill=\"none\" stroke=\"#06c\" stroke-width=\"1.3\" points=\"{}\"/>\n",
        top + 12.0,
        escape(&panel.title),
        WIDTH - 20.0,
        top + 20.0,
        base - height / 1.25,
        panel.rate,
        points.join(" ")
    )?;
    Ok(())
}

fn axis(svg: &mut String, top: f64, before_us: u64, after_us: u64) -> Result<()> {
    let step = [100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000];
    let step = step.into_iter().find(|s| (before_us + after_us) / s <= 12).unwrap_or(30_000_000);
    let mut at = before_us % step;
    while at <= before_us + after_us {
        #[expect(clippy::cast_precision_loss, reason = "seconds on an axis")]
        let seconds = (at as f64 - before_us as f64) / 1e6;
        writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{seconds:+.1} s</text>",
            x(at, before_us, after_us),
            top + 6.0
        )?;
        at += step;
    }
    Ok(())
}

fn bins(panel: &Panel, bin_us: u64, before_us: u64, after_us: u64) -> Vec<u32> {
    let from = panel.event.saturating_sub(before_us);
    let mut bins = vec![0; usize::try_from((before_us + after_us) / bin_us).unwrap_or_default()];
    for at in &panel.arrivals {
        let bin = at.checked_sub(from).and_then(|since| usize::try_from(since / bin_us).ok());
        if let Some(count) = bin.and_then(|b| bins.get_mut(b)) {
            *count += 1;
        }
    }
    bins
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_counted_by_bin_around_the_event() {
        let panel = Panel { title: "<x>".into(), arrivals: vec![50, 100, 149, 150, 199, 200, 1000], event: 150, rate: 1.0 };
        assert_eq!(bins(&panel, 50, 50, 50), [2, 2]);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.svg");
        draw(&file, "a & b", &[panel.clone(), panel], 50, 50, 50).unwrap();
        let svg = fs::read_to_string(file).unwrap();
        assert_eq!((svg.matches("<polyline").count(), svg.contains("&lt;x&gt;"), svg.contains("a &amp; b")), (2, true, true));
    }
}
