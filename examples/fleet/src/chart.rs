//! The day as a picture.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use crate::{Day, SETTLED};

/// A point for this many seconds: the most exchanges in any one of them.
const SPAN: usize = 60;

/// Draws exchanges a second over the day.
pub(crate) fn draw(path: &Path, days: &[(&str, Day)]) -> Result<(), Box<dyn Error>> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let peaks = |day: &Day| -> Vec<u32> {
        let settled = day.exchanges.iter().enumerate().map(|(at, count)| if at < SETTLED { 0 } else { *count });
        settled.collect::<Vec<_>>().chunks(SPAN).map(|span| span.iter().max().copied().unwrap_or_default()).collect()
    };
    let root = SVGBackend::new(path, (1200, 500)).into_drawing_area();
    root.fill(&WHITE)?;
    // The ways differ by powers of ten.
    let highest = days.iter().flat_map(|(_, day)| peaks(day)).max().unwrap_or(1).max(10);
    let mut chart = ChartBuilder::on(&root)
        .margin(20)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(0_f64..24_f64, (1_f64..f64::from(highest)).log_scale())?;
    chart.configure_mesh().x_desc("hour").y_desc("exchanges a second, the most in each minute").draw()?;
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
