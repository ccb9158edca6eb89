//! Numbers as Redis reads them.

/// The integer that `text` is in its shortest form: no plus, no leading zero, no blank.
#[must_use]
pub fn integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [] | [b'0', _, ..] => return None,
        [b'0'] if negative => return None,
        _ => {}
    }
    // Towards the negative side, which reaches one further.
    let mut value: i64 = 0;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_sub(i64::from(digit))?;
    }
    match negative {
        true => Some(value),
        false => value.checked_neg(),
    }
}

/// The finite or infinite float that `text` is.
#[must_use]
pub fn float(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    let value: f64 = text.parse().ok()?;
    (!value.is_nan()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_shortest_form_is_an_integer() {
        for n in [0, 1, -1, 10, 99, i64::MAX, i64::MIN, i64::MIN + 1] {
            assert_eq!(integer(n.to_string().as_bytes()), Some(n));
        }
        for bad in [
            "",
            "-",
            "+1",
            "01",
            "-0",
            "-01",
            " 1",
            "1 ",
            "1a",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999",
            "0x1",
            "1.0",
        ] {
            assert_eq!(integer(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn what_is_no_number_is_no_float() {
        assert_eq!(float(b"3.5"), Some(3.5));
        assert_eq!(float(b"-1e3"), Some(-1000.0));
        assert_eq!(float(b"inf"), Some(f64::INFINITY));
        for bad in [&b"nan"[..], b"", b" 1", b"1 ", b"1x", b"\xff"] {
            assert_eq!(float(bad), None, "{bad:?}");
        }
    }
}
