//! Text of which a part came from outside, made fit to be kept and shown: bounded, and with nothing in
//! it that steers a terminal.

/// One line of at most `bytes_max` bytes; what is cut off is told by an ellipsis.
pub fn line(text: &str, bytes_max: usize) -> String {
    fit(text, bytes_max, |_| false)
}

/// The same of a text of several lines.
pub fn lines(text: &str, bytes_max: usize) -> String {
    fit(text, bytes_max, |c| c == '\n')
}

fn fit(text: &str, bytes_max: usize, is_kept: impl Fn(char) -> bool) -> String {
    const ELLIPSIS: char = '…';
    let plain = |c: char| match c {
        c if is_kept(c) || !c.is_control() => c,
        c if c.is_whitespace() => ' ',
        _ => char::REPLACEMENT_CHARACTER,
    };
    let mut fitted = String::new();
    // What does not fit whole makes room for the ellipsis.
    let mut room_for_more = 0;
    for c in text.chars().map(plain) {
        if fitted.len() + c.len_utf8() > bytes_max {
            fitted.truncate(room_for_more);
            fitted.push(ELLIPSIS);
            return fitted;
        }
        fitted.push(c);
        if fitted.len() + ELLIPSIS.len_utf8() <= bytes_max {
            room_for_more = fitted.len();
        }
    }
    fitted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_or_ends_a_line_is_taken_out() {
        assert_eq!(line("a\u{1b}[31mb\tc\nd\u{9b}é", 99), "a\u{fffd}[31mb c d\u{fffd}é");
        assert_eq!(lines("a\r\nb\u{7}", 99), "a \nb\u{fffd}");
    }

    #[test]
    fn a_text_has_at_most_so_many_bytes_and_says_that_it_was_cut() {
        assert_eq!(line("sixteen letters.", 16), "sixteen letters.");
        assert_eq!(line("sixteen letters.", 15), "sixteen lett…");
        for max in 3..30 {
            let cut = line("éééééééééééééééé", max);
            assert!(cut.len() <= max && cut.ends_with('…') && cut.len() + 2 > max, "{max}: {cut}");
        }
    }
}
