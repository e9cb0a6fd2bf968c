//! The plots: error by round, and by site in the end, as PNG. Numbers in, pixels out; the font is
//! compiled in, so that the same results give the same bytes everywhere.

use std::sync::Once;

use anyhow::anyhow;
use plotters::coord::{CoordTranslate, Shift};
use plotters::drawing::DrawingAreaErrorKind;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::results::Results;

/// Pixels of a plot.
const SIZE: (u32, u32) = (960, 540);

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
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
];

/// Marks of the axis of rounds.
const ROUND_MARKS_MAX: usize = 11;

type Canvas<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

/// The mean over sites of every arm by round, on a logarithmic axis, and the mean fill for comparison.
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
    let fill = log(results.mean_fill.mean);
    let low = points().map(|(_, error)| error).fold(fill, f64::min) - 0.05;
    let high = points().map(|(_, error)| error).fold(fill, f64::max) + 0.05;
    let rounds = points().map(|(round, _)| round).fold(1.0, f64::max);
    draw(|canvas| {
        let mut chart = ChartBuilder::on(canvas)
            .caption(title, (FONT, TITLE))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(84)
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
        let dashes = [(0.0, fill), (rounds, fill)];
        chart
            .draw_series(DashedLineSeries::new(dashes, 6, 4, BLACK.stroke_width(1)))?
            .label("mean fill")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], BLACK));
        for (i, (name, points)) in curves.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let line =
                LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3);
            chart.draw_series(line)?.label(*name).legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2))
            });
        }
        Ok(legend(&mut chart)?)
    })
}

/// Every arm in the end at every site, side by side.
pub(crate) fn sites(title: &str, results: &Results) -> anyhow::Result<Vec<u8>> {
    let fill = &results.mean_fill;
    let ends = results.arms.iter().flat_map(|arm| arm.last().mse.iter());
    let high = ends.chain(&fill.mse).copied().fold(1e-9, f64::max) * 1.25;
    let count = results.sites.len();
    draw(|canvas| {
        let mut chart = ChartBuilder::on(canvas)
            .caption(title, (FONT, TITLE))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(84)
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
        for (i, arm) in results.arms.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let bars = arm.last().mse.iter().enumerate().map(|(site, error)| {
                let left = site as f64 + (1.0 - BARS) / 2.0 + width * i as f64;
                Rectangle::new([(left, 0.0), (left + width, *error)], colour.filled())
            });
            chart.draw_series(bars)?.label(&arm.name).legend(move |(x, y)| {
                Rectangle::new([(x, y - 5), (x + 18, y + 5)], colour.filled())
            });
        }
        let fills = fill.mse.iter().enumerate().map(|(site, error)| {
            let (left, right) =
                (site as f64 + (1.0 - BARS) / 2.0, site as f64 + (1.0 + BARS) / 2.0);
            PathElement::new([(left, *error), (right, *error)], BLACK.stroke_width(2))
        });
        let line = |(x, y)| PathElement::new([(x, y), (x + 18, y)], BLACK.stroke_width(2));
        chart.draw_series(fills)?.label("mean fill").legend(line);
        for (site, name) in results.sites.iter().enumerate() {
            let (x, y) = chart.backend_coord(&(site as f64 + 0.5, 0.0));
            let style = (FONT, TEXT).into_text_style(canvas).pos(Pos::new(HPos::Center, VPos::Top));
            canvas.draw(&Text::new(name.as_str(), (x, y + 8), style))?;
        }
        Ok(legend(&mut chart)?)
    })
}

fn legend<'a, B: DrawingBackend + 'a, C: CoordTranslate>(
    chart: &mut ChartContext<'a, B, C>,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let mut labels = chart.configure_series_labels();
    labels.label_font((FONT, TEXT)).background_style(WHITE.mix(0.85)).border_style(BLACK.mix(0.3));
    labels.position(SeriesLabelPosition::UpperRight).draw()
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
