//! The two plots of a workload: throughput of each subject with its range, and latency by
//! percentile.

use std::path::{Path, PathBuf};

use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::canvas::Canvas;
use crate::{
    error::{BenchError, Result},
    outcome::{Latency, Run, latency},
    statistics::Spread,
    summary::{Group, Row},
    units::{show_bytes_rate, show_nanos},
};

/// Pixels of a plot.
const SIZE: (u32, u32) = (1000, 560);

/// Pixels around it.
const MARGIN: i32 = 16;

/// Characters of a line below the title.
const LINE_CHARS: usize = 105;

/// Pixels of a line of text.
const LINE_PIXELS: i32 = 19;

/// Nines of the furthest percentile that is drawn.
const NINES_MAX: f64 = 5.0;

/// Points of a curve between two nines.
const POINTS_PER_NINE: u32 = 20;

/// One per subject, in order; told apart without colours as well by their lightness.
const COLORS: [RGBColor; 6] = [
    RGBColor(0, 90, 156),
    RGBColor(213, 94, 0),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(110, 110, 110),
];

/// Which latency is drawn: the longest way that was measured.
const DRAWN: [&str; 3] = [latency::END_TO_END, latency::ACK, latency::ROUND_TRIP];

/// A bar.
struct Bar {
    label: String,
    spread: Spread,
    color: RGBColor,
}

/// A percentile as a tool tells it.
type Told = fn(&Latency) -> Option<u64>;

/// A curve: nines and milliseconds.
struct Curve {
    subject: String,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

/// Draws throughput into `stem-throughput` and latency into `stem-latency`, each as SVG and PNG,
/// where they were measured. Which files were made.
///
/// # Errors
/// A file cannot be written, or a histogram is damaged.
pub fn write(group: &Group<'_>, dir: &Path, stem: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let bars = bars(group);
    if !bars.is_empty() {
        let name = format!("{stem}-throughput");
        files.push(svg(dir, &name, |area| throughput(area, group, &bars))?);
        files.push(png(dir, &name, |area| throughput(area, group, &bars))?);
    }
    let (measured, curves) = curves(group)?;
    if !curves.is_empty() {
        let name = format!("{stem}-latency");
        files.push(svg(dir, &name, |area| latencies(area, group, measured, &curves))?);
        files.push(png(dir, &name, |area| latencies(area, group, measured, &curves))?);
    }
    Ok(files)
}

type Area<B> = DrawingArea<B, Shift>;

fn svg<F>(dir: &Path, name: &str, draw: F) -> Result<PathBuf>
where
    F: FnOnce(Area<SVGBackend<'_>>) -> Result<()>,
{
    let path = dir.join(format!("{name}.svg"));
    let mut text = String::new();
    draw(SVGBackend::with_string(&mut text, SIZE).into_drawing_area())?;
    std::fs::write(&path, text).map_err(BenchError::io(format!("writing {}", path.display())))?;
    Ok(path)
}

fn png<F>(dir: &Path, name: &str, draw: F) -> Result<PathBuf>
where
    F: FnOnce(Area<&mut Canvas>) -> Result<()>,
{
    let path = dir.join(format!("{name}.png"));
    let mut canvas = Canvas::new(SIZE);
    draw((&mut canvas).into_drawing_area())?;
    canvas.write(&path)?;
    Ok(path)
}

fn bars(group: &Group<'_>) -> Vec<Bar> {
    type Figure = fn(&Run) -> Option<f64>;
    let figures: [(&str, Figure); 2] = [
        ("written", |run| run.produced.map(|t| t.bytes_per_s)),
        ("read", |run| run.consumed.map(|t| t.bytes_per_s)),
    ];
    let mut bars = Vec::new();
    for (what, figure) in figures {
        for (row, color) in group.rows.iter().zip(COLORS.iter().cycle()) {
            if let Some(spread) = row.spread(figure) {
                bars.push(Bar { label: format!("{} {what}", row.subject), spread, color: *color });
            }
        }
    }
    bars
}

/// Which latency, and its curve for each subject that has it.
fn curves(group: &Group<'_>) -> Result<(&'static str, Vec<Curve>)> {
    for name in DRAWN {
        let mut curves = Vec::new();
        for (row, color) in group.rows.iter().zip(COLORS.iter().cycle()) {
            let points = points(row, name)?;
            if !points.is_empty() {
                curves.push(Curve { subject: row.subject.to_owned(), color: *color, points });
            }
        }
        if !curves.is_empty() {
            return Ok((name, curves));
        }
    }
    Ok((DRAWN[0], Vec::new()))
}

/// All rounds together where there are histograms; the medians of what is told otherwise.
fn points(row: &Row<'_>, name: &str) -> Result<Vec<(f64, f64)>> {
    let told: Vec<&Latency> = row.runs.iter().filter_map(|run| run.latencies.get(name)).collect();
    if told.iter().any(|latency| latency.histogram.is_empty()) {
        let percentiles: [(f64, Told); 4] = [
            (0.5, |l| Some(l.p50_ns)),
            (0.9, |l| l.p90_ns),
            (0.99, |l| Some(l.p99_ns)),
            (0.999, |l| Some(l.p999_ns)),
        ];
        let point = |(quantile, pick): &(f64, Told)| {
            let values: Vec<f64> = told.iter().filter_map(|l| Some(pick(l)? as f64)).collect();
            Some((nines(*quantile), Spread::of(&values)?.median / 1e6))
        };
        return Ok(percentiles.iter().filter_map(point).filter(|(_, ms)| *ms > 0.0).collect());
    }
    let mut rounds = told.iter();
    let Some(first) = rounds.next() else { return Ok(Vec::new()) };
    let mut all = first.histogram()?;
    for round in rounds {
        let added = all.add(round.histogram()?);
        added.map_err(|e| BenchError::Usage(format!("histograms of {name} differ: {e}")))?;
    }
    // Past the last record there is nothing to tell.
    let furthest = (all.len() as f64).log10().min(NINES_MAX);
    let steps = (furthest * f64::from(POINTS_PER_NINE)) as u32;
    let at = |step: u32| f64::from(step) / f64::from(POINTS_PER_NINE);
    let point = |x: f64| (x, all.value_at_quantile(1.0 - 10f64.powf(-x)).max(1) as f64 / 1e6);
    Ok((0..=steps).map(|step| point(at(step))).collect())
}

/// 0.9 is one nine, 0.99 two.
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

fn throughput<B>(area: Area<B>, group: &Group<'_>, bars: &[Bar]) -> Result<()>
where
    B: DrawingBackend,
{
    let draw = || -> std::result::Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        area.fill(&WHITE)?;
        let title = format!("{}: payload per second, median and range", group.workload.name);
        let rest = headed(&area, group, &title)?;
        let most = bars.iter().map(|bar| bar.spread.max).fold(0.0, f64::max).max(1.0);
        let mut chart = ChartBuilder::on(&rest)
            .x_label_area_size(34)
            .y_label_area_size(92)
            .build_cartesian_2d((0..bars.len() as i32 - 1).into_segmented(), 0.0..most * 1.12)?;
        let label = |at: &SegmentValue<i32>| match at {
            SegmentValue::CenterOf(i) => {
                usize::try_from(*i).ok().and_then(|i| bars.get(i)).map_or("", |bar| &bar.label)
            }
            _ => "",
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .x_labels(bars.len())
            .x_label_formatter(&|at| label(at).to_owned())
            .y_label_formatter(&|rate| show_bytes_rate(*rate))
            .label_style(text(15))
            .draw()?;
        chart.draw_series(bars.iter().enumerate().map(|(i, bar)| {
            let i = i as i32;
            let corners =
                [(SegmentValue::Exact(i), 0.0), (SegmentValue::Exact(i + 1), bar.spread.median)];
            let mut rectangle = Rectangle::new(corners, bar.color.filled());
            rectangle.set_margin(0, 0, 26, 26);
            rectangle
        }))?;
        for (i, Bar { spread, .. }) in bars.iter().enumerate() {
            let x = SegmentValue::CenterOf(i as i32);
            let range = vec![(x.clone(), spread.min), (x.clone(), spread.max)];
            let value = show_bytes_rate(spread.median);
            let above = text(16).pos(Pos::new(HPos::Center, VPos::Bottom));
            chart.draw_series([PathElement::new(range, BLACK.stroke_width(2))])?;
            chart.draw_series([
                EmptyElement::at((x, spread.max)) + Text::new(value, (0, -5), above)
            ])?;
        }
        area.present()
    };
    draw().map_err(|e| BenchError::Failed(format!("drawing throughput: {e}")))
}

fn latencies<B>(area: Area<B>, group: &Group<'_>, name: &str, curves: &[Curve]) -> Result<()>
where
    B: DrawingBackend,
{
    let draw = || -> std::result::Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        area.fill(&WHITE)?;
        let title = format!("{}: latency ({name}) by percentile, all rounds", group.workload.name);
        let rest = headed(&area, group, &title)?;
        let values = || curves.iter().flat_map(|curve| &curve.points).map(|(_, ms)| *ms);
        let least = values().fold(f64::INFINITY, f64::min) / 1.5;
        let most = values().fold(0.0, f64::max) * 1.5;
        let furthest = curves.iter().flat_map(|curve| &curve.points).map(|(x, _)| *x);
        let furthest = furthest.fold(1.0, f64::max);
        let mut chart = ChartBuilder::on(&rest)
            .x_label_area_size(34)
            .y_label_area_size(92)
            .build_cartesian_2d(0.0..furthest, (least..most).log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(BLACK.mix(0.05))
            .x_labels(NINES_MAX as usize + 1)
            .x_label_formatter(&|x| show_percentile(*x))
            .y_label_formatter(&|ms| show_nanos((ms * 1e6) as u64))
            .label_style(text(15))
            .draw()?;
        for Curve { subject, color, points } in curves {
            let style = color.stroke_width(3);
            chart
                .draw_series(LineSeries::new(points.iter().copied(), style))?
                .label(subject)
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.2))
            .label_font(text(15))
            .draw()?;
        area.present()
    };
    draw().map_err(|e| BenchError::Failed(format!("drawing latency: {e}")))
}

/// Title and what was measured, and the area below.
fn headed<B: DrawingBackend>(
    area: &Area<B>,
    group: &Group<'_>,
    title: &str,
) -> std::result::Result<Area<B>, DrawingAreaErrorKind<B::ErrorType>> {
    area.draw_text(title, &text(20), (MARGIN, MARGIN / 2))?;
    let mut y = MARGIN / 2 + 28;
    for line in wrapped(&group.workload.line(), LINE_CHARS) {
        area.draw_text(&line, &text(15).color(&BLACK.mix(0.65)), (MARGIN, y))?;
        y += LINE_PIXELS;
    }
    Ok(area.margin(y + 8, MARGIN / 2, MARGIN / 2, 2 * MARGIN))
}

fn text(pixels: i32) -> TextStyle<'static> {
    ("sans-serif", pixels).into_font().color(&BLACK)
}

/// Lines of at most `chars` characters, broken behind commas where there are any.
fn wrapped(text: &str, chars: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for part in text.split_inclusive(", ") {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if !line.is_empty() && line.chars().count() + part.trim_end().chars().count() > chars {
            lines.push(part.to_owned());
        } else {
            line.push_str(part);
        }
    }
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
}

/// `99.9 %` at three nines, nothing between them.
fn show_percentile(nines: f64) -> String {
    let whole = nines.round();
    if (nines - whole).abs() > 1e-6 {
        return String::new();
    }
    let decimals = (whole as usize).saturating_sub(2);
    format!("{:.decimals$} %", 100.0 * (1.0 - 10f64.powf(-whole)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::sample;

    #[test]
    fn percentiles_are_shown_at_whole_nines() {
        let shown: Vec<String> = [0.0, 1.0, 2.0, 3.0, 4.0, 2.5].map(show_percentile).into();
        assert_eq!(shown, ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", ""]);
        assert!((nines(0.999) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn curves_are_made_of_histograms_or_of_what_is_told() {
        let document = sample();
        let groups = Group::all(&document);
        let (name, curves) = curves(&groups[0]).unwrap();
        assert_eq!((name, curves.len()), (latency::ACK, 2));
        let (ours, theirs) = (&curves[0].points, &curves[1].points);
        // 1 to 1000 us, evenly, three times.
        let (x, ms) = ours[POINTS_PER_NINE as usize];
        assert!((x - 1.0).abs() < 1e-9 && (ms - 0.9).abs() < 0.01, "{x} {ms}");
        assert!(ours.windows(2).all(|pair| pair[0].1 <= pair[1].1));
        let told: Vec<f64> = theirs.iter().map(|(_, ms)| *ms).collect();
        assert_eq!(told, [4.0, 9.0, 20.0], "the 90th is not told");
        assert!(super::curves(&groups[1]).unwrap().1.is_empty());
    }

    #[test]
    fn both_kinds_of_files_are_made_and_have_what_was_measured() {
        let dir = tempfile::tempdir().unwrap();
        let document = sample();
        let groups = Group::all(&document);
        let files = write(&groups[0], dir.path(), "a").unwrap();
        let names: Vec<_> =
            files.iter().map(|f| f.file_name().unwrap().to_str().unwrap()).collect();
        let expected = ["a-throughput.svg", "a-throughput.png", "a-latency.svg", "a-latency.png"];
        assert_eq!(names, expected);
        let text = std::fs::read_to_string(&files[0]).unwrap();
        for shown in ["riverrun written", "kafka written", "1.00 GB/s", "250 MB/s", "saturating"] {
            assert!(text.contains(shown), "{shown} is not in the plot of throughput");
        }
        let text = std::fs::read_to_string(&files[2]).unwrap();
        for shown in ["riverrun", "kafka", "99.9 %", "(ack)"] {
            assert!(text.contains(shown), "{shown} is not in the plot of latency");
        }
        for file in [&files[1], &files[3]] {
            assert_eq!(std::fs::read(file).unwrap()[..4], *b"\x89PNG");
        }
        let files = write(&groups[1], dir.path(), "b").unwrap();
        assert_eq!(files.len(), 2, "no latency was measured");
    }

    #[test]
    fn lines_are_broken_behind_commas() {
        assert_eq!(wrapped("aa, bb, cc", 7), ["aa, bb,", "cc"]);
        assert_eq!(wrapped("longer than that", 3), ["longer than that"]);
    }
}
