//! Plots, as SVG: bars for rates, percentiles of latencies, space over time.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use crate::engines::{Known, Part};
use crate::report::{Report, median, spread};
use crate::rows::{ROWS, Row, Unit};

const SIZE: (u32, u32) = (900, 420);
const FONT: (&str, i32) = ("sans-serif", 15);
const TITLE: (&str, i32) = ("sans-serif", 20);

/// Rows whose percentiles are drawn.
const LATENCY_ROWS: [&str; 5] = [
    "get",
    "put-latency",
    "get-beside",
    "put-beside",
    "durable-32",
];

type Drawn = Result<(), Box<dyn Error>>;

/// Draws everything that there are numbers for; the names of the files.
///
/// # Errors
///
/// What could not be drawn or written, and why.
pub fn all(report: &Report, dir: &Path) -> Result<Vec<String>, String> {
    let mut files = Vec::new();
    let mut draw = |name: String, plot: &dyn Fn(&Path) -> Drawn| {
        plot(&dir.join(&name)).map_err(|e| format!("{name}: {e}"))?;
        files.push(name);
        Ok::<_, String>(())
    };
    for row in ROWS {
        let column = &row.columns[0];
        if column.unit == Unit::Rate && has(report, row, column.metric) {
            draw(format!("{}.svg", row.id), &|path| bars(report, row, path))?;
        }
    }
    for row in ROWS.iter().filter(|row| LATENCY_ROWS.contains(&row.id)) {
        if has(report, row, "p50_ns") {
            draw(format!("{}-percentiles.svg", row.id), &|path| {
                percentiles(report, row, path)
            })?;
        }
    }
    if !spaces(report).is_empty() {
        draw("space.svg".to_owned(), &|path| space(report, path))?;
    }
    Ok(files)
}

fn has(report: &Report, row: &Row, metric: &str) -> bool {
    let any = |known: &Known| !report.samples(row.id, known.name, metric).is_empty();
    report.engines().any(any)
}

fn colour(known: &Known) -> RGBColor {
    match known.part {
        Part::Kvs => RGBColor(0x1f, 0x77, 0xb4),
        Part::Peer => RGBColor(0xff, 0x7f, 0x0e),
        Part::Labelled => RGBColor(0xd6, 0xb0, 0x8c),
        Part::Ceiling => RGBColor(0x9a, 0x9a, 0x9a),
    }
}

/// A bar for every engine, with a line from the lowest to the highest round.
fn bars(report: &Report, row: &Row, path: &Path) -> Drawn {
    let metric = row.columns[0].metric;
    let all: Vec<(&Known, Vec<f64>)> = report
        .engines()
        .map(|known| (known, report.samples(row.id, known.name, metric)))
        .filter(|(_, samples)| !samples.is_empty())
        .map(|(known, samples)| (known, samples.iter().map(|x| x / 1e3).collect()))
        .collect();
    let most = all.iter().map(|(_, s)| spread(s).1).fold(0.0, f64::max) * 1.05;
    // The first of a table stands at the top.
    let name = |n: usize| all.iter().rev().nth(n).map_or("", |(known, _)| known.name);
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(row.title, TITLE)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(130)
        .build_cartesian_2d(0.0..most.max(1e-9), (0..all.len()).into_segmented())?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_desc("thousands a second")
        .y_labels(all.len())
        .y_label_formatter(&|at| match at {
            SegmentValue::CenterOf(n) | SegmentValue::Exact(n) => name(*n).to_owned(),
            SegmentValue::Last => String::new(),
        })
        .max_light_lines(1)
        .label_style(FONT)
        .draw()?;
    for (n, (known, samples)) in all.iter().rev().enumerate() {
        let middle = median(samples).unwrap_or(0.0);
        let (low, high) = spread(samples);
        let mut bar = Rectangle::new(
            [
                (0.0, SegmentValue::Exact(n)),
                (middle, SegmentValue::Exact(n + 1)),
            ],
            colour(known).filled(),
        );
        bar.set_margin(4, 4, 0, 0);
        chart.draw_series([bar])?;
        let line = [
            (low, SegmentValue::CenterOf(n)),
            (high, SegmentValue::CenterOf(n)),
        ];
        chart.draw_series([PathElement::new(line, BLACK.stroke_width(2))])?;
    }
    root.present()?;
    Ok(())
}

/// p50, p99, p99.9 and the longest of every engine, on a logarithmic axis.
fn percentiles(report: &Report, row: &Row, path: &Path) -> Drawn {
    const METRICS: [(&str, &str, RGBColor); 4] = [
        ("p50_ns", "p50", RGBColor(0x2c, 0xa0, 0x2c)),
        ("p99_ns", "p99", RGBColor(0x1f, 0x77, 0xb4)),
        ("p999_ns", "p99.9", RGBColor(0xff, 0x7f, 0x0e)),
        ("max_ns", "max", RGBColor(0xd6, 0x27, 0x28)),
    ];
    let all: Vec<(&Known, Vec<f64>)> = report
        .engines()
        .map(|known| {
            let of = |metric| median(&report.samples(row.id, known.name, metric));
            let values = METRICS.iter().filter_map(|(metric, _, _)| of(metric));
            (known, values.map(|ns| ns.max(1.0) / 1e3).collect())
        })
        .filter(|(_, values): &(_, Vec<f64>)| values.len() == METRICS.len())
        .collect();
    let low = all.iter().map(|(_, v)| v[0]).fold(f64::INFINITY, f64::min);
    let high = all.iter().map(|(_, v)| v[3]).fold(0.001, f64::max);
    let name = |n: usize| all.iter().rev().nth(n).map_or("", |(known, _)| known.name);
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(row.title, TITLE)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(130)
        .build_cartesian_2d(
            (low * 0.7..high * 1.5).log_scale(),
            (0..all.len()).into_segmented(),
        )?;
    chart
        .configure_mesh()
        .x_desc("µs")
        .x_label_formatter(&|us| format!("{us}"))
        .y_labels(all.len())
        .y_label_formatter(&|at| match at {
            SegmentValue::CenterOf(n) | SegmentValue::Exact(n) => name(*n).to_owned(),
            SegmentValue::Last => String::new(),
        })
        .max_light_lines(1)
        .label_style(FONT)
        .draw()?;
    for (m, (_, label, colour)) in METRICS.iter().enumerate() {
        let points = all.iter().rev().enumerate();
        chart
            .draw_series(points.map(|(n, (_, values))| {
                Circle::new((values[m], SegmentValue::CenterOf(n)), 5, colour.filled())
            }))?
            .label(*label)
            .legend(|(x, y)| Circle::new((x, y), 5, colour.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .label_font(FONT)
        .draw()?;
    root.present()?;
    Ok(())
}

/// The line of space of every engine, of its first round.
fn spaces(report: &Report) -> Vec<(&'static Known, Vec<[f64; 2]>)> {
    report
        .engines()
        .filter_map(|known| {
            let outcomes = report.outcomes("overwrite", known.name);
            let points = outcomes.first()?.series.get("space")?.clone();
            (!points.is_empty()).then_some((known, points))
        })
        .collect()
}

fn space(report: &Report, path: &Path) -> Drawn {
    let all = spaces(report);
    let points = || all.iter().flat_map(|(_, points)| points);
    let longest = points().map(|p| p[0]).fold(0.001, f64::max);
    let most = points().map(|p| p[1]).fold(1.0, f64::max);
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Disk space while overwriting 5 N at random", TITLE)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(60)
        // The names stand to the right of all lines.
        .build_cartesian_2d(0.0..longest * 1.25, 0.0..most * 1.05)?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_desc("allocated blocks / data")
        .max_light_lines(1)
        .label_style(FONT)
        .draw()?;
    for (n, (known, points)) in all.iter().enumerate() {
        let colour = Palette99::pick(n).to_rgba();
        let width = if known.part == Part::Kvs { 3 } else { 1 };
        chart
            .draw_series(LineSeries::new(
                points.iter().map(|p| (p[0], p[1])),
                colour.stroke_width(width),
            ))?
            .label(known.name)
            .legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(width))
            });
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .label_font(FONT)
        .draw()?;
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engines::KNOWN;
    use crate::job::Outcome;
    use crate::rows::{Scale, Size};
    use crate::run::{Plan, Run};

    #[test]
    fn every_plot_is_drawn_and_names_the_engines() {
        let mut report = Report::new(&Plan {
            scale: Scale::new(Size::Test, None),
            engines: KNOWN.iter().collect(),
            rows: Vec::new(),
            rounds: 1,
            dir: std::env::temp_dir(),
        });
        for (row, engine) in [
            ("fill", "kvs"),
            ("put-latency", "lmdb"),
            ("overwrite", "redb"),
        ] {
            let mut outcome = Outcome::default();
            for metric in ["ops_per_s", "p50_ns", "p99_ns", "p999_ns", "max_ns"] {
                outcome.set(metric, 1234.0);
            }
            let line = vec![[0.0, 1.0], [1.0, 2.0]];
            outcome.series.insert("space".to_owned(), line);
            report.runs.push(Run {
                row: row.to_owned(),
                engine: engine.to_owned(),
                round: 0,
                outcome: Some(outcome),
                failed: None,
            });
        }
        let dir = tempfile::tempdir().unwrap();
        let files = all(&report, dir.path()).unwrap();
        let expected = [
            "fill.svg",
            "overwrite.svg",
            "put-latency.svg",
            "put-latency-percentiles.svg",
            "space.svg",
        ];
        assert_eq!(files, expected);
        for (file, engine) in [("fill.svg", "kvs"), ("space.svg", "redb")] {
            let text = std::fs::read_to_string(dir.path().join(file)).unwrap();
            assert!(
                text.contains(engine) && text.ends_with("</svg>\n"),
                "{file}"
            );
        }
    }
}
