//! Folding a type's shape over several lines where one would be too long.

/// How wide a line may be before it is folded, in characters.
const WIDTH: usize = 96;

/// How much deeper each level stands.
const STEP: usize = 2;

/// Folds a shape such as `Scan { prefix: string, limit: u32 }`. Its first line begins at column
/// `indent`; a group in brackets that does not fit gets a line for each of its members.
pub(crate) fn fold(shape: &str, indent: usize) -> String {
    let mut out = String::new();
    fold_into(&mut out, shape, indent, indent);
    out
}

/// Writes `text`, which begins at `column`, in a line that itself begins at `indent`.
///
/// It calls itself once for each level, and the depth of a schema is bounded; what stands beside
/// each other is a loop, since a hostile service may describe very many variants.
fn fold_into(out: &mut String, mut text: &str, indent: usize, mut column: usize) {
    while column + text.chars().count() > WIDTH {
        let Some((before, group, after)) = first_group(text) else {
            break;
        };
        let (open, inner) = group.split_at(1);
        let (inner, close) = inner.split_at(inner.len() - 1);
        out.push_str(before);
        out.push_str(open);
        let deeper = indent + STEP;
        for member in members(inner) {
            newline(out, deeper);
            fold_into(out, member, deeper, deeper);
            out.push(',');
        }
        newline(out, indent);
        out.push_str(close);
        text = after;
        column = indent + 1;
    }
    out.push_str(text);
}

fn newline(out: &mut String, indent: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n(' ', indent));
}

/// The text before the first bracket, the whole group in that bracket, and what follows it.
///
/// A bracket without its partner is no group: shapes come from services, which may write anything.
fn first_group(text: &str) -> Option<(&str, &str, &str)> {
    let start = text.find(['{', '['])?;
    let mut depth = 0usize;
    for (position, c) in text[start..].char_indices() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => {
                depth -= 1;
                if depth == 0 {
                    let end = start + position + 1;
                    return Some((&text[..start], &text[start..end], &text[end..]));
                }
            }
            _ => {}
        }
    }
    None
}

/// The members of a group: what its outermost commas part.
fn members(inner: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0usize;
    inner
        .split(move |c| {
            match c {
                '{' | '[' => depth += 1,
                '}' | ']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ',' && depth == 0
        })
        .map(str::trim)
        .filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_that_fits_stays_on_its_line() {
        for shape in [
            "Ping {}",
            "Scan { prefix: string, after: string?, limit: u32 }",
            "u64",
        ] {
            assert_eq!(fold(shape, 2), shape);
        }
    }

    #[test]
    fn a_long_shape_gets_a_line_for_each_member_and_folds_only_what_is_too_long() {
        let shape = "Reply { entries: [{ key: string, value: bytes }], more: bool, \
                     peers: [{ node: string, address: string, connected: bool, channels: u32, \
                     since_the_beginning: u64 }]? }";
        let expected = "\
Reply {
    entries: [{ key: string, value: bytes }],
    more: bool,
    peers: [
      {
        node: string,
        address: string,
        connected: bool,
        channels: u32,
        since_the_beginning: u64,
      },
    ]?,
  }";
        assert_eq!(fold(shape, 2), expected);
    }

    #[test]
    fn nothing_is_lost_whatever_the_brackets() {
        let long = "x".repeat(100);
        for shape in [
            format!("A {{ {long}"),
            format!("}} ]{long}"),
            format!("A: {{\"B\": {long}}} | {{\"C\": [u8; 4]}} | \"D\""),
            format!("[{long}, [], {{}}]"),
        ] {
            let letters = |text: &str| -> String {
                text.chars()
                    .filter(|c| !c.is_whitespace() && *c != ',')
                    .collect()
            };
            assert_eq!(letters(&fold(&shape, 0)), letters(&shape), "{shape}");
        }
    }
}
