//! Plots in text.

use crate::growth::median;
use crate::samples::{Quantity, Series};

const WIDTH: usize = 72;
const HEIGHT: usize = 8;
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Returns the lines of a plot of a quantity over time, from 0 to the largest value.
pub(crate) fn lines(series: &Series, quantity: Quantity) -> Vec<String> {
    let columns = columns(series, quantity);
    let Some(end) = series.samples.last() else {
        return Vec::new();
    };
    let largest = columns.iter().copied().fold(0.0, f64::max).max(1.0);
    let mut lines = vec![format!("{}, {}", series.name, quantity.name())];
    for row in (0..HEIGHT).rev() {
        let label = match row {
            row if row == HEIGHT - 1 => format!("{largest:8.1}"),
            0 => format!("{:8.1}", 0.0),
            _ => " ".repeat(8),
        };
        let cells = columns.iter().map(|value| block(value / largest, row));
        lines.push(format!("{label} │{}", cells.collect::<String>()));
    }
    lines.push(format!(
        "{:8} └{} {:.0} s",
        "",
        "─".repeat(columns.len()),
        end.seconds
    ));
    lines
}

/// Returns the medians of equal parts of the time.
fn columns(series: &Series, quantity: Quantity) -> Vec<f64> {
    let samples = &series.samples;
    let width = WIDTH.min(samples.len());
    (0..width)
        .map(|column| {
            let part =
                &samples[column * samples.len() / width..(column + 1) * samples.len() / width];
            median(part.iter().map(|sample| sample.get(quantity)).collect())
        })
        .collect()
}

/// Returns the character in a row, counted from the bottom, of a column that is filled to a fraction of the height.
fn block(fraction: f64, row: usize) -> char {
    let eighths = (fraction * (HEIGHT * 8) as f64).round() as usize;
    BLOCKS[eighths.saturating_sub(row * 8).min(8)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_filled_in_proportion() {
        let column = |fraction| -> String { (0..HEIGHT).map(|row| block(fraction, row)).collect() };
        assert_eq!(column(0.0), "        ");
        assert_eq!(column(1.0), "████████");
        assert_eq!(column(0.5), "████    ");
        assert_eq!(column(0.3), "██▃     ");
    }
}
