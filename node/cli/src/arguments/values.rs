//! Values of the command line that need more than a name.

use std::time::Duration;

/// The longest time that can be given. A typing error should not wait for ever.
const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// A time with its unit: `500ms`, `10s`, `2m`, `1h`. A bare number means seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => {
            return Err(format!(
                "{unit:?} is no unit of time: use ms, s, m or h, as in 10s"
            ));
        }
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{text:?} is no time: write it as 500ms, 10s or 2m"))?;
    let time = Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())?;
    if time.is_zero() || time > MAX_TIME {
        return Err(format!("{text:?} is out of range: from 1ms to 24h"));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_carry_their_unit() {
        for (text, expected) in [
            ("500ms", Duration::from_millis(500)),
            ("10s", Duration::from_secs(10)),
            ("7", Duration::from_secs(7)),
            ("1.5m", Duration::from_secs(90)),
            ("1h", Duration::from_secs(3600)),
        ] {
            assert_eq!(duration(text), Ok(expected), "{text}");
        }
        for bad in ["", "s", "ten", "-1s", "0", "10 s", "5d", "999h", "1.2.3s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
