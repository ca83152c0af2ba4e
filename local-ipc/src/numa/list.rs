//! The lists of numbers in sysfs: `0-3,8,10-11`.

/// The numbers of a list, ascending and without repeats. `None` for anything that is no such list
/// or has a number of `limit` or more; so a list never takes more than `limit` numbers of memory.
pub(super) fn parse(text: &str, limit: u32) -> Option<Vec<u32>> {
    let text = text.trim();
    let mut numbers = Vec::new();
    if text.is_empty() {
        return Some(numbers);
    }
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        // Ascending, so that no text, however long, makes the list longer than `limit`.
        let after = numbers.last().map_or(0, |last| last + 1);
        if first < after || last < first || last >= limit {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// A number in digits alone: no sign, no space.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// The same form for people: runs are joined.
pub(super) fn format(numbers: &[u32]) -> String {
    let mut parts: Vec<String> = Vec::new();
    for run in numbers.chunk_by(|a, b| a + 1 == *b) {
        parts.push(match run {
            [one] => one.to_string(),
            [first, .., last] => format!("{first}-{last}"),
            [] => continue,
        });
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_written_in_the_same_form() {
        for (text, numbers) in [
            ("", &[][..]),
            ("0", &[0]),
            ("0-1", &[0, 1]),
            ("0-2,5,7-8", &[0, 1, 2, 5, 7, 8]),
        ] {
            assert_eq!(parse(text, 16).as_deref(), Some(numbers), "{text}");
            assert_eq!(format(numbers), text);
        }
        assert_eq!(parse("0-1\n", 16), Some(vec![0, 1]));
    }

    #[test]
    fn what_is_no_list_or_out_of_bounds_is_refused() {
        for text in [
            "x",
            "-",
            "1-",
            "-1",
            "3-1",
            "0,0",
            "5,1",
            "0-15,15",
            "16",
            "0-16",
            "+1",
            "0, 1",
            ",",
            "0-4294967295",
            "99999999999999999999",
            "1-2-3",
            "0\u{0}",
        ] {
            assert_eq!(parse(text, 16), None, "{text:?}");
        }
    }
}
