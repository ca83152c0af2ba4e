//! "Did you mean": the nearest known name to one that is not known.

/// The candidate that a person most likely meant, or none if nothing is near.
///
/// Near means: equal but for case, a prefix, or at most a third of the letters typed wrong.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let lower = word.to_lowercase();
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let other = candidate.to_lowercase();
            // `Put` stands for `kv.Put`: the last part of a dotted name counts as the name.
            let last = other.rsplit('.').next().unwrap_or(&other);
            let distance = edits(&lower, &other).min(edits(&lower, last));
            let prefix =
                lower.len() >= 2 && (other.starts_with(&lower) || last.starts_with(&lower));
            let limit = (lower.chars().count() / 3).max(1);
            (prefix || distance <= limit).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A sentence to append to an error, or nothing.
pub(crate) fn did_you_mean<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> String {
    nearest(word, candidates).map_or_else(String::new, |near| format!("; did you mean `{near}`?"))
}

/// How many letters have to be put in, taken out, changed or swapped with their neighbour.
fn edits(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_miss_finds_the_name_and_nonsense_finds_none() {
        let messages = ["Put", "Get", "Delete", "Scan", "Count", "Digest"];
        assert_eq!(nearest("Dleete", messages), Some("Delete"));
        assert_eq!(nearest("put", messages), Some("Put"));
        assert_eq!(nearest("Cuont", messages), Some("Count"));
        assert_eq!(nearest("Dig", messages), Some("Digest"));
        assert_eq!(nearest("Subscribe", messages), None);
        assert_eq!(nearest("pit", ["kv.Put", "kv.Get"]), Some("kv.Put"));
    }
}
