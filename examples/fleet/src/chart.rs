//! Draws the chart of the day.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use crate::{Day, RESTART_END};

/// The number of seconds per point. A point is the maximum rate in this time.
const SPAN: usize = 60;

/// Draws the exchanges per second over the day.
pub(crate) fn draw(path: &Path, days: &[(&str, Day)]) -> Result<(), Box<dyn Error>> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let peaks = |day: &Day| -> Vec<u32> {
        let counts = day.exchanges.iter().enumerate().map(|(at, count)| if at < RESTART_END { 0 } else { *count });
        counts.collect::<Vec<_>>().chunks(SPAN).map(|span| span.iter().max().copied().unwrap_or_default()).collect()
    };
    let root = SVGBackend::new(path, (1200, 500)).into_drawing_area();
    root.fill(&WHITE)?;
    // A logarithmic scale: the policies differ by powers of ten.
    let highest = days.iter().flat_map(|(_, day)| peaks(day)).max().unwrap_or(1).max(10);
    let mut chart = ChartBuilder::on(&root)
        .margin(20)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(0_f64..24_f64, (1_f64..f64::from(highest)).log_scale())?;
    chart.configure_mesh().x_desc("hour").y_desc("exchanges per second, maximum of each minute").draw()?;
    for ((name, day), color) in days.iter().zip([GREEN, BLUE, RED]) {
        let points = peaks(day).into_iter().enumerate().map(|(minute, peak)| {
            let minute = u32::try_from(minute).unwrap_or_default();
            (f64::from(minute) / 60.0, f64::from(peak).max(1.0))
        });
        chart
            .draw_series(LineSeries::new(points, color))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color));
    }
    chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw()?;
    root.present()?;
    Ok(())
}
