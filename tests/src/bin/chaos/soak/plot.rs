//! The plot of a soak: memory over time. Numbers in, pixels out; the font is compiled in.

use std::sync::Once;

use anyhow::anyhow;
use plotters::prelude::*;

use super::Sample;

/// Pixels of the plot.
const SIZE: (u32, u32) = (960, 480);

/// Bytes of a pixel: red, green, blue.
const PIXEL_BYTES: usize = 3;

/// The name under which the font is known to the library.
const FONT: &str = "sans-serif";

/// The height of letters, in pixels.
const TEXT: u32 = 15;

/// What is drawn: its name, its colour, and where in a sample it is.
type Line = (&'static str, RGBColor, fn(&Sample) -> f64);

/// The lines, in colours that people who see few of them tell apart (Okabe and Ito 2008).
const LINES: [Line; 3] = [
    ("coordinator", RGBColor(0, 114, 178), |s| s.coordinator_mib),
    ("agent, mean", RGBColor(213, 94, 0), |s| s.agent_mib),
    ("trainer, mean", RGBColor(0, 158, 115), |s| s.trainer_mib),
];

/// Memory over time as PNG.
///
/// # Errors
/// If drawing or encoding fails.
pub(super) fn plot(samples: &[Sample]) -> anyhow::Result<Vec<u8>> {
    static FONT_IS_KNOWN: Once = Once::new();
    FONT_IS_KNOWN.call_once(|| {
        // It fails on bytes that are no font, which these are; then drawing text says so.
        let _ = plotters::style::register_font(FONT, FontStyle::Normal, dejavu::sans::regular());
    });
    let (width, height) = SIZE;
    let mut pixels = vec![0; width as usize * height as usize * PIXEL_BYTES];
    draw(samples, &mut pixels).map_err(|error| anyhow!("cannot draw: {error}"))?;
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    writer.finish()?;
    Ok(file)
}

fn draw(samples: &[Sample], pixels: &mut [u8]) -> Result<(), Box<dyn std::error::Error>> {
    let minutes = samples.last().map_or(1.0, |s| s.hours * 60.0);
    let values = samples.iter().flat_map(|s| LINES.iter().map(move |(_, _, value)| value(s)));
    let high = values.fold(1.0, f64::max) * 1.2;
    let rounds = samples.last().map_or(0, |s| s.rounds);
    let canvas = BitMapBackend::with_buffer(pixels, SIZE).into_drawing_area();
    canvas.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&canvas)
        .caption(format!("memory over {rounds} rounds"), (FONT, TEXT + 3))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..minutes, 0.0..high)?;
    chart
        .configure_mesh()
        .label_style((FONT, TEXT))
        .max_light_lines(0)
        .x_desc("minutes")
        .y_desc("resident memory, MiB")
        .draw()?;
    for (name, colour, value) in LINES {
        let points = samples.iter().map(|s| (s.hours * 60.0, value(s)));
        let line = LineSeries::new(points, colour.stroke_width(2));
        chart
            .draw_series(line)?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .label_font((FONT, TEXT))
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    canvas.present()?;
    Ok(())
}
