//! The plots: error by round, and by site in the end, as PNG. Numbers in, pixels out; the font is
//! compiled in, so that the same results give the same bytes everywhere.

use std::sync::Once;

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::results::{PerSite, Results};

/// Pixels of a plot.
const SIZE: (u32, u32) = (1120, 540);

/// Pixels around a plot, and right of it, where the legend is.
const MARGIN: u32 = 12;
const LEGEND: u32 = 172;

/// Pixels below and left of a plot, for what its axes say.
const BELOW: u32 = 44;
const LEFT: u32 = 84;

/// Bytes of a pixel: red, green, blue.
const PIXEL_BYTES: usize = 3;

/// The name under which the font is known to the library.
const FONT: &str = "sans-serif";

/// The height of letters, in pixels.
const TEXT: u32 = 16;
const TITLE: u32 = 20;

/// The part of a site's room that its bars take.
const BARS: f64 = 0.8;

/// Colours that people who see few of them tell apart, too (Okabe and Ito 2008).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
    RGBColor(240, 228, 66),
];

/// The baselines that are drawn, and their lines: dash and gap in pixels. Black on the screen costs a
/// factor of ten in error, and would leave no room for the others.
const LINES: [(&str, i32, i32); 4] =
    [("mean", 4000, 1), ("mirror", 12, 5), ("harmonic", 6, 4), ("biharmonic", 2, 3)];

/// Marks of the axis of rounds.
const ROUND_MARKS_MAX: usize = 11;

/// The legend's keys: how wide, where the first is and how far apart, in pixels.
const KEY: i32 = 26;
const LEGEND_TOP: i32 = 52;
const LEGEND_ROW: i32 = 22;

/// How the legend shows what is drawn.
#[derive(Clone, Copy)]
enum Key {
    Line(RGBColor),
    Bar(RGBColor),
    /// Dash and gap in pixels.
    Dashes(i32, i32),
}

type Canvas<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

/// The mean over sites of every arm by round, on a logarithmic axis, and baselines for comparison.
pub(crate) fn curves(title: &str, results: &Results) -> anyhow::Result<Vec<u8>> {
    // A logarithm needs something above 0.
    let log = |error: f64| error.max(1e-9).log10();
    let curves: Vec<(&str, Vec<(f64, f64)>)> = results
        .arms
        .iter()
        .map(|arm| {
            let points = arm.curve.iter().map(|(r, scores)| (f64::from(*r), log(scores.mean)));
            (arm.name.as_str(), points.collect())
        })
        .collect();
    let points = || curves.iter().flat_map(|(_, points)| points.iter().copied());
    let heights = || points().map(|(_, error)| error).chain(lines(results).map(|l| log(l.1.mean)));
    let low = heights().fold(f64::INFINITY, f64::min) - 0.05;
    let high = heights().fold(f64::NEG_INFINITY, f64::max) + 0.05;
    let rounds = points().map(|(round, _)| round).fold(1.0, f64::max);
    draw(|canvas| {
        let mut chart = ChartBuilder::on(canvas)
            .caption(title, (FONT, TITLE))
            .margin(MARGIN)
            .margin_right(LEGEND)
            .x_label_area_size(BELOW)
            .y_label_area_size(LEFT)
            .build_cartesian_2d(0.0..rounds, low..high)?;
        chart
            .configure_mesh()
            .label_style((FONT, TEXT))
            .max_light_lines(0)
            .x_labels((rounds as usize + 1).min(ROUND_MARKS_MAX))
            .x_label_formatter(&|round| format!("{round:.0}"))
            .x_desc("round")
            .y_desc("error: masked MSE, mean over sites")
            .y_label_formatter(&|error| format!("{:.4}", 10_f64.powf(*error)))
            .draw()?;
        let mut keys = Vec::new();
        for (i, (name, points)) in curves.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let line =
                LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3);
            chart.draw_series(line)?;
            keys.push((*name, Key::Line(colour)));
        }
        for (name, fill, dash, gap) in lines(results) {
            let ends = [(0.0, log(fill.mean)), (rounds, log(fill.mean))];
            let line = DashedPathElement::new(ends, dash, gap, BLACK.stroke_width(1));
            chart.draw_series([line])?;
            keys.push((name, Key::Dashes(dash, gap)));
        }
        legend(canvas, &keys)
    })
}

/// The baselines that are drawn: name, scores, dash and gap.
fn lines(results: &Results) -> impl Iterator<Item = (&str, &PerSite, i32, i32)> {
    results.baselines.iter().filter_map(|baseline| {
        let (_, dash, gap) = LINES.into_iter().find(|(name, ..)| *name == baseline.name)?;
        Some((baseline.name.as_str(), &baseline.scores, dash, gap))
    })
}

/// Every arm in the end at every site, side by side, and baselines as lines across.
pub(crate) fn sites(title: &str, results: &Results) -> anyhow::Result<Vec<u8>> {
    let ends = results.arms.iter().flat_map(|arm| arm.last().mse.iter());
    let fills = lines(results).flat_map(|(_, fill, ..)| &fill.mse);
    let high = ends.chain(fills).copied().fold(1e-9, f64::max) * 1.05;
    let count = results.sites.len();
    draw(|canvas| {
        let mut chart = ChartBuilder::on(canvas)
            .caption(title, (FONT, TITLE))
            .margin(MARGIN)
            .margin_right(LEGEND)
            .x_label_area_size(BELOW)
            .y_label_area_size(LEFT)
            .build_cartesian_2d(0.0..count as f64, 0.0..high)?;
        chart
            .configure_mesh()
            .label_style((FONT, TEXT))
            .disable_x_mesh()
            .max_light_lines(0)
            .x_labels(0)
            .y_desc("error: masked MSE")
            .y_label_formatter(&|error| format!("{error:.4}"))
            .draw()?;
        let width = BARS / results.arms.len() as f64;
        let mut keys = Vec::new();
        for (i, arm) in results.arms.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let bars = arm.last().mse.iter().enumerate().map(|(site, error)| {
                let left = site as f64 + (1.0 - BARS) / 2.0 + width * i as f64;
                Rectangle::new([(left, 0.0), (left + width, *error)], colour.filled())
            });
            chart.draw_series(bars)?;
            keys.push((arm.name.as_str(), Key::Bar(colour)));
        }
        for (name, fill, dash, gap) in lines(results) {
            let fills = fill.mse.iter().enumerate().map(|(site, error)| {
                let (left, right) =
                    (site as f64 + (1.0 - BARS) / 2.0, site as f64 + (1.0 + BARS) / 2.0);
                let ends = [(left, *error), (right, *error)];
                DashedPathElement::new(ends, dash, gap, BLACK.stroke_width(2))
            });
            chart.draw_series(fills)?;
            keys.push((name, Key::Dashes(dash, gap)));
        }
        for (site, name) in results.sites.iter().enumerate() {
            let (x, y) = chart.backend_coord(&(site as f64 + 0.5, 0.0));
            let style = (FONT, TEXT).into_text_style(canvas).pos(Pos::new(HPos::Center, VPos::Top));
            canvas.draw(&Text::new(name.as_str(), (x, y + 8), style))?;
        }
        legend(canvas, &keys)
    })
}

/// The legend, beside the plot, where it hides no line. The library's own is drawn within the plot alone.
fn legend(canvas: &Canvas<'_>, keys: &[(&str, Key)]) -> anyhow::Result<()> {
    let (left, right) = ((SIZE.0 - LEGEND) as i32 + 10, (SIZE.0 - LEGEND) as i32 + 10 + KEY);
    for (row, (name, key)) in keys.iter().enumerate() {
        let y = LEGEND_TOP + LEGEND_ROW * row as i32;
        match *key {
            Key::Line(colour) => {
                canvas.draw(&PathElement::new([(left, y), (right, y)], colour.stroke_width(2)))?;
                canvas.draw(&Circle::new(((left + right) / 2, y), 3, colour.filled()))?;
            }
            Key::Bar(colour) => {
                canvas.draw(&Rectangle::new([(left, y - 5), (right, y + 5)], colour.filled()))?;
            }
            Key::Dashes(dash, gap) => {
                let ends = [(left, y), (right, y)];
                let line = DashedPathElement::new(ends, dash, gap, BLACK.stroke_width(2));
                canvas.draw(&line)?;
            }
        }
        let style = (FONT, TEXT).into_text_style(canvas).pos(Pos::new(HPos::Left, VPos::Center));
        canvas.draw(&Text::new(*name, (right + 8, y), style))?;
    }
    Ok(())
}

/// A picture as PNG.
fn draw(paint: impl FnOnce(&Canvas<'_>) -> anyhow::Result<()>) -> anyhow::Result<Vec<u8>> {
    static FONT_IS_KNOWN: Once = Once::new();
    FONT_IS_KNOWN.call_once(|| {
        // It fails on bytes that are no font, which these are; then drawing text says so.
        let _ = plotters::style::register_font(FONT, FontStyle::Normal, dejavu::sans::regular());
    });
    let (width, height) = SIZE;
    let mut pixels = vec![0; width as usize * height as usize * PIXEL_BYTES];
    {
        let canvas = BitMapBackend::with_buffer(&mut pixels, SIZE).into_drawing_area();
        canvas.fill(&WHITE).map_err(|error| anyhow!("cannot draw: {error}"))?;
        paint(&canvas)?;
        canvas.present().map_err(|error| anyhow!("cannot draw: {error}"))?;
    }
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    writer.finish()?;
    Ok(file)
}
