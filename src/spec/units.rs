//! Quantities with units: times, shares and rates. Text goes in; whole numbers of the smallest unit come out, or nothing
//! where the text is no such quantity. It never rounds up: digits beyond the smallest unit are dropped.

use std::time::Duration;

use super::diag::Diagnostic;
use super::fields::{Errors, text};
use super::yaml::Tree;

/// `10s`, `200ms`, `1m`; in milliseconds, a day at most.
pub(super) fn duration_ms(tree: &Tree, what: &str, errors: &mut Errors) -> Option<u64> {
    let form = "a time such as 10s or 200ms";
    read(tree, what, form, errors, |t| duration_us(t).map(|us| us / 1000).filter(|ms| *ms <= 86_400_000))
}

/// The same, outside a lab file.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    duration_us(text.trim()).map(Duration::from_micros)
}

/// What [`parse_delay_us`] takes.
pub const DELAY: &str = "a time such as 10ms, a minute at most";
/// What [`parse_share_ppm`] takes.
pub const SHARE: &str = "a share from 0% to 100%";
/// What [`parse_rate_bps`] takes.
pub const RATE: &str = "a rate such as 100mbit or 64kbit";

/// The delay of a link, in microseconds, a minute at most.
pub(super) fn delay_us(tree: &Tree, what: &str, errors: &mut Errors) -> Option<u64> {
    read(tree, what, DELAY, errors, parse_delay_us)
}

/// `0.1%`; in millionths.
pub(super) fn share_ppm(tree: &Tree, what: &str, errors: &mut Errors) -> Option<u32> {
    read(tree, what, SHARE, errors, parse_share_ppm)
}

/// `100mbit`; in bits a second. Units as in tc(8): `bit`, `kbit`, `mbit`, `gbit`, `tbit` by thousands.
pub(super) fn rate_bps(tree: &Tree, what: &str, errors: &mut Errors) -> Option<u64> {
    read(tree, what, RATE, errors, parse_rate_bps)
}

/// `10ms`, at most a minute, in microseconds.
#[must_use]
pub fn parse_delay_us(text: &str) -> Option<u64> {
    duration_us(text).filter(|us| *us <= 60_000_000)
}

/// `0.1%`, in millionths.
#[must_use]
pub fn parse_share_ppm(text: &str) -> Option<u32> {
    let ppm = scaled(text.strip_suffix('%')?.trim_end(), 10_000)?;
    u32::try_from(ppm).ok().filter(|ppm| *ppm <= 1_000_000)
}

/// `100mbit`, in bits a second, 8 at least.
#[must_use]
pub fn parse_rate_bps(text: &str) -> Option<u64> {
    parse_rate(text).filter(|bps| *bps >= 8)
}

fn read<T>(
    tree: &Tree,
    what: &str,
    form: &str,
    errors: &mut Errors,
    parse: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let value = text(tree, what, errors)?;
    let parsed = parse(value.value.trim());
    if parsed.is_none() {
        let title = format!("{what} must be {form}, not `{}`", value.value);
        errors.push(Diagnostic::new("wrong-value", tree.span, title));
    }
    parsed
}

fn parse_rate(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let scale = match unit.to_ascii_lowercase().as_str() {
        "bit" => 1,
        "kbit" => 1_000,
        "mbit" => 1_000_000,
        "gbit" => 1_000_000_000,
        "tbit" => 1_000_000_000_000,
        _ => return None,
    };
    scaled(number, scale)
}

fn duration_us(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let scale = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" | "min" => 60_000_000,
        _ => return None,
    };
    scaled(number, scale)
}

fn split(text: &str) -> Option<(&str, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(digits);
    Some((number, unit.trim()))
}

/// A decimal number times `scale`, cut to a whole one.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits_only = whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit());
    if !digits_only || whole.len() + fraction.len() == 0 {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
    let digits = u32::try_from(fraction.len()).ok().filter(|d| *d <= 9)?;
    let fraction = if fraction.is_empty() { 0 } else { fraction.parse::<u64>().ok()? };
    let part = u128::from(fraction) * u128::from(scale) / u128::from(10u64.pow(digits));
    whole.checked_mul(scale)?.checked_add(u64::try_from(part).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [("10s", 10_000_000), ("200ms", 200_000), ("1.5s", 1_500_000), ("1m", 60_000_000)];
        for (text, us) in cases.into_iter().chain([("2 s", 2_000_000), ("0.25ms", 250), ("7us", 7)]) {
            assert_eq!(duration_us(text), Some(us), "{text}");
        }
        for text in ["10", "s", "", "-1s", "1h2", "99999999999999999999s", "1.2.3s"] {
            assert_eq!(duration_us(text), None, "{text}");
        }
    }

    #[test]
    fn rates() {
        let cases = [("100mbit", 100_000_000), ("1.5Gbit", 1_500_000_000), ("64 kbit", 64_000), ("8bit", 8)];
        for (text, bps) in cases {
            assert_eq!(parse_rate(text), Some(bps), "{text}");
        }
        for text in ["100", "mbit", "1mb", "1mbps", "-1mbit"] {
            assert_eq!(parse_rate(text), None, "{text}");
        }
    }

    #[test]
    fn shares() {
        assert_eq!(scaled("0.1", 10_000), Some(1_000));
        assert_eq!(scaled("33.3333", 10_000), Some(333_333));
        assert_eq!(scaled("100", 10_000), Some(1_000_000));
        assert_eq!(scaled("x", 10_000), None);
    }
}
