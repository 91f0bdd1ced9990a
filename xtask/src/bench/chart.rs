//! The charts of a report, as SVG.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{IntoSegmentedCoord as _, SegmentValue};
use plotters::prelude::*;

/// Width and height in pixels.
const SIZE: (u32, u32) = (720, 380);
const MARGIN: u32 = 12;
/// A palette for all kinds of colour vision (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
];

/// A line or a set of bars: its name and its values.
pub(super) struct Series<T> {
    pub(super) name: String,
    pub(super) values: Vec<T>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn drawn(draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        draw(&area)?;
        area.present().map_err(failed)?;
    }
    Ok(text)
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

/// Draws groups of bars: one group for each of `labels`, with one bar for each series.
pub(super) fn bars(title: &str, unit: &str, labels: &[String], series: &[Series<f64>]) -> Result<String> {
    let top = series.iter().flat_map(|series| &series.values).copied().fold(0.0, f64::max) * 1.1;
    drawn(|area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 18))
            .margin(MARGIN)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d((0..labels.len()).into_segmented(), 0.0..top.max(f64::MIN_POSITIVE))
            .map_err(failed)?;
        let label = |place: &SegmentValue<usize>| match place {
            SegmentValue::CenterOf(index) => labels.get(*index).cloned().unwrap_or_default(),
            SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(labels.len())
            .x_label_formatter(&label)
            .y_desc(unit)
            .y_label_formatter(&|value| super::report::short(*value))
            .draw()
            .map_err(failed)?;
        // Widths in pixels of a group, and of a bar in it.
        let (width, _) = chart.plotting_area().dim_in_pixel();
        let group = f64::from(width) / labels.len().max(1) as f64;
        let bar = (group * 0.8 / series.len().max(1) as f64).min(60.0);
        for (number, (Series { name, values }, colour)) in
            series.iter().zip(COLOURS.iter().cycle()).enumerate()
        {
            let shift = ((number as f64 - series.len() as f64 / 2.0) * bar) as i32;
            let rectangles = values.iter().enumerate().map(|(index, &value)| {
                let plot = chart.plotting_area();
                let (x, y) = plot.map_coordinate(&(SegmentValue::CenterOf(index), value));
                let (_, bottom) = plot.map_coordinate(&(SegmentValue::CenterOf(index), 0.0));
                [(x + shift, y), (x + shift + bar as i32 - 2, bottom)]
            });
            for corners in rectangles {
                area.draw(&Rectangle::new(corners, colour.filled())).map_err(failed)?;
            }
            if series.len() > 1 {
                // An empty series that only adds an entry to the legend.
                chart
                    .draw_series(std::iter::empty::<Rectangle<(SegmentValue<usize>, f64)>>())
                    .map_err(failed)?
                    .label(name)
                    .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], colour.filled()));
            }
        }
        legend(&mut chart, series.len())
    })
}

/// Draws lines over a logarithmic x axis.
pub(super) fn lines(
    title: &str,
    (x_unit, y_unit): (&str, &str),
    series: &[Series<(f64, f64)>],
) -> Result<String> {
    let points = || series.iter().flat_map(|series| &series.values);
    let left = points().map(|&(x, _)| x).fold(f64::INFINITY, f64::min).max(1.0);
    let right = points().map(|&(x, _)| x).fold(left * 2.0, f64::max);
    let top = points().map(|&(_, y)| y).fold(0.0, f64::max) * 1.15;
    drawn(|area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 18))
            .margin(MARGIN)
            .x_label_area_size(44)
            .y_label_area_size(70)
            .build_cartesian_2d((left..right).log_scale(), 0.0..top.max(f64::MIN_POSITIVE))
            .map_err(failed)?;
        chart
            .configure_mesh()
            .x_desc(x_unit)
            .y_desc(y_unit)
            .x_label_formatter(&|value| super::report::short(*value))
            .y_label_formatter(&|value| super::report::short(*value))
            .draw()
            .map_err(failed)?;
        for (Series { name, values }, colour) in series.iter().zip(COLOURS.iter().cycle()) {
            let style = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(values.iter().copied(), style).point_size(3))
                .map_err(failed)?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], style));
        }
        legend(&mut chart, series.len())
    })
}

fn legend<'a, C: CoordTranslate>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, C>,
    series: usize,
) -> Result<()> {
    if series < 2 {
        return Ok(());
    }
    chart
        .configure_series_labels()
        .border_style(BLACK.mix(0.3))
        .background_style(WHITE.mix(0.8))
        .position(SeriesLabelPosition::UpperRight)
        .draw()
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_show_names_and_values() {
        let series = |name: &str, values: [f64; 2]| Series { name: name.to_owned(), values: values.into() };
        let labels = ["one".to_owned(), "two".to_owned()];
        let bars = bars("Bars", "pps", &labels, &[series("a", [1.0, 2.0]), series("b", [3.0, 4.0])]).unwrap();
        for word in ["<svg", "Bars", "pps", "one", "two", "#0072B2", "#E69F00"] {
            assert!(bars.contains(word), "{word} is missing");
        }
        let series = Series { name: "a".to_owned(), values: vec![(1.0, 5.0), (1000.0, 7.0)] };
        let lines = lines("Lines", ("flows", "ns"), &[series]).unwrap();
        for word in ["<svg", "Lines", "flows", "ns"] {
            assert!(lines.contains(word), "{word} is missing");
        }
        assert!(super::bars("Nothing", "", &[], &[]).is_ok());
    }
}
