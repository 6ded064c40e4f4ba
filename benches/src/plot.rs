//! A plot of the warm runs as SVG: bars for each model, on a logarithmic axis, because models
//! differ by a factor of a thousand.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde_json::Value;

/// The peers in the order of their bars: name, label, and colours on light and dark background.
const PEERS: [(&str, &str, &str, &str); 4] = [
    ("Belljar", "Belljar (sandboxed)", "#1d5fd1", "#6ea8ff"),
    ("tract", "tract (native)", "#c77700", "#f0a63a"),
    ("onnxruntime", "onnxruntime (native)", "#3a8f5c", "#62c48b"),
    ("onnxruntime-web", "onnxruntime-web (WebAssembly in node)", "#8a8f98", "#9aa1ac"),
];

/// Sizes in pixels: the image, the margins around the bars, a bar with its gap, the gap between
/// models.
const WIDTH: f64 = 860.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 70.0;
const TOP: f64 = 96.0;
const BOTTOM: f64 = 52.0;
const BAR: f64 = 13.0;
const STEP: f64 = 15.0;
const GROUP: f64 = 16.0;

/// The bars of one model: its name, and a median in ms for each peer that ran it.
type Row = (String, Vec<(usize, f64)>);

/// The SVG of the table of warm runs in a results file.
pub(crate) fn plot(results: &Value) -> Result<String> {
    let rows = rows(results)?;
    let times = || rows.iter().flat_map(|(_, bars)| bars.iter().map(|(_, time)| *time));
    let low = times().fold(f64::INFINITY, f64::min).log10().floor();
    let high = times().fold(f64::NEG_INFINITY, f64::max).log10().ceil().max(low + 1.0);
    let bars: usize = rows.iter().map(|(_, bars)| bars.len()).sum();
    let inner = bars as f64 * STEP + rows.len() as f64 * GROUP;
    let height = TOP + inner + BOTTOM;
    let x = |time: f64| LEFT + (time.log10() - low) / (high - low) * (WIDTH - LEFT - RIGHT);

    let mut svg = String::new();
    head(&mut svg, height, results["quick"] == true)?;
    legend(&mut svg, &rows)?;
    for decade in low as i32..=high as i32 {
        let (at, bottom) = (x(10f64.powi(decade)), TOP + inner);
        writeln!(svg, r#"<path class="grid" d="M{at:.1} {TOP}V{bottom:.1}"/>"#)?;
        let (value, below) = (10f64.powi(decade), bottom + 18.0);
        writeln!(
            svg,
            r#"<text class="small" x="{at:.1}" y="{below:.1}" text-anchor="middle">{value}</text>"#
        )?;
    }
    let (middle, below) = ((LEFT + WIDTH - RIGHT) / 2.0, TOP + inner + 38.0);
    writeln!(
        svg,
        r#"<text class="small" x="{middle:.1}" y="{below:.1}" text-anchor="middle">milliseconds, logarithmic scale; less is better</text>"#
    )?;
    let mut y = TOP + GROUP / 2.0;
    for (model, bars) in &rows {
        let middle = y + bars.len() as f64 * STEP / 2.0 + 4.0;
        let right = LEFT - 12.0;
        let model = escaped(model);
        writeln!(svg, r#"<text x="{right}" y="{middle:.1}" text-anchor="end">{model}</text>"#)?;
        for (peer, time) in bars {
            let (end, text) = (x(*time), y + BAR - 3.0);
            let (width, after) = ((end - LEFT).max(1.0), end + 6.0);
            let strong = if *peer == 0 { " strong" } else { "" };
            let time = crate::report::digits(*time);
            writeln!(
                svg,
                r#"<rect class="p{peer}" x="{LEFT}" y="{y:.1}" width="{width:.1}" height="{BAR}"/><text class="small{strong}" x="{after:.1}" y="{text:.1}">{time}</text>"#
            )?;
            y += STEP;
        }
        y += GROUP;
    }
    writeln!(svg, r#"<path class="axis" d="M{LEFT} {TOP}V{:.1}"/>"#, TOP + inner)?;
    svg.push_str("</svg>\n");
    Ok(svg)
}

/// The fastest models first, in Belljar's order.
fn rows(results: &Value) -> Result<Vec<Row>> {
    let found = results.pointer("/tables/run/results").and_then(Value::as_array);
    let mut rows: Vec<Row> = Vec::new();
    for entry in found.context("these results have no table of warm runs")? {
        let text = |key: &str| entry[key].as_str().with_context(|| format!("no {key:?}"));
        let Some(peer) = PEERS.iter().position(|(name, ..)| text("peer").ok() == Some(name)) else {
            continue;
        };
        let time = entry["median"].as_f64().filter(|time| *time > 0.0);
        let bar = (peer, time.context("a median is not a positive number")?);
        match rows.iter_mut().find(|(model, _)| text("model").ok() == Some(model)) {
            Some((_, bars)) => bars.push(bar),
            None => rows.push((text("model")?.to_owned(), vec![bar])),
        }
    }
    for (_, bars) in &mut rows {
        bars.sort_by_key(|(peer, _)| *peer);
    }
    let first = |row: &Row| row.1.first().map_or(f64::NAN, |(_, time)| *time);
    rows.sort_by(|a, b| first(a).total_cmp(&first(b)));
    if rows.is_empty() {
        anyhow::bail!("the table of warm runs is empty");
    }
    Ok(rows)
}

fn head(svg: &mut String, height: f64, quick: bool) -> Result<()> {
    let title = "A warm run of each model, on one thread";
    writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" aria-label="{title}">"#
    )?;
    svg.push_str("<style>\n");
    svg.push_str("text{font:13px system-ui,\"DejaVu Sans\",sans-serif;fill:#1f2328}");
    svg.push_str(".title{font-size:16px;font-weight:600}.small{font-size:11px;fill:#59636e}");
    svg.push_str(".strong{font-weight:600;fill:#1f2328}.ground{fill:#fff}");
    svg.push_str(".grid{stroke:#d8dee4;fill:none}.axis{stroke:#59636e;fill:none}\n");
    for (at, (_, _, light, _)) in PEERS.iter().enumerate() {
        write!(svg, ".p{at}{{fill:{light}}}")?;
    }
    // The plot has a background, so that it is readable on any page.
    svg.push_str("\n@media (prefers-color-scheme:dark){text,.strong{fill:#e6edf3}");
    svg.push_str(".small{fill:#a3acb6}.strong{fill:#e6edf3}.ground{fill:#0d1117}");
    svg.push_str(".grid{stroke:#30363d}.axis{stroke:#a3acb6}");
    for (at, (_, _, _, dark)) in PEERS.iter().enumerate() {
        write!(svg, ".p{at}{{fill:{dark}}}")?;
    }
    svg.push_str("}\n</style>\n");
    writeln!(svg, r#"<rect class="ground" width="{WIDTH}" height="{height}" rx="8"/>"#)?;
    writeln!(svg, r#"<text class="title" x="20" y="32">{title}</text>"#)?;
    let below = "Median from the caller's tensors to the caller's tensors; \
                 for Belljar every run starts from pristine memory.";
    let quick = if quick { " Measured with --quick: too few rounds to quote." } else { "" };
    writeln!(svg, r#"<text class="small" x="20" y="51">{below}{quick}</text>"#)?;
    Ok(())
}

fn legend(svg: &mut String, rows: &[Row]) -> Result<()> {
    let mut x = 20.0;
    for (at, (_, label, ..)) in PEERS.iter().enumerate() {
        if !rows.iter().any(|(_, bars)| bars.iter().any(|(peer, _)| *peer == at)) {
            continue;
        }
        let text = x + 18.0;
        writeln!(
            svg,
            r#"<rect class="p{at}" x="{x:.0}" y="66" width="12" height="12"/><text class="small" x="{text:.0}" y="76">{label}</text>"#
        )?;
        // The approximate width of its letters at this size.
        x += 18.0 + label.chars().count() as f64 * 6.4 + 18.0;
    }
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_plot_has_bars_labels_and_an_axis() {
        let entry = |model: &str, peer: &str, median: f64| json!({ "model": model, "peer": peer, "median": median });
        let entries = [
            entry("slow & <old>", "Belljar", 150.0),
            entry("slow & <old>", "tract", 110.0),
            entry("quick", "Belljar", 0.5),
            entry("quick", "Belljar on a thread", 0.6),
        ];
        let svg = plot(&json!({ "tables": { "run": { "results": entries } } })).unwrap();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("<rect class=\"p0\"").count(), 3, "two bars and the legend");
        assert_eq!(svg.matches("<rect class=\"p2\"").count(), 0, "what did not run");
        assert!(svg.find("quick") < svg.find("slow &amp; &lt;old>"));
        for text in [">0.1<", ">1000<", "milliseconds", "logarithmic", "A warm run"] {
            assert!(svg.contains(text), "{text} is not in\n{svg}");
        }
        assert!(plot(&json!({})).is_err());
    }
}
