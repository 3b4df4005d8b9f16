//! Names with letters beyond ASCII, as DNS and TLS write them (RFC 3492): `bücher.example` is `xn--bcher-kva.example`.

/// Parameters of RFC 3492 section 5.
const BASE: u32 = 36;
const T_MIN: u32 = 1;
const T_MAX: u32 = 26;
const SKEW: u32 = 38;
const DAMP: u32 = 700;
const INITIAL_BIAS: u32 = 72;
const INITIAL_N: u32 = 0x80;

/// The name in ASCII: labels in lower case, those with other letters encoded. None if it is too long for that.
pub(super) fn host(name: &str) -> Option<String> {
    let label = |label: &str| {
        let label = label.to_lowercase();
        if label.is_ascii() { Some(label) } else { Some(format!("xn--{}", encode(&label)?)) }
    };
    // Full stops of other scripts divide labels too (RFC 3490 section 3.1).
    let labels: Option<Vec<_>> = name.split(['.', '\u{3002}', '\u{ff0e}', '\u{ff61}']).map(label).collect();
    Some(labels?.join("."))
}

/// RFC 3492 section 6.3.
fn encode(label: &str) -> Option<String> {
    let mut text: String = label.chars().filter(char::is_ascii).collect();
    let basic = u32::try_from(text.len()).ok()?;
    if basic > 0 {
        text.push('-');
    }
    let (mut n, mut delta, mut bias, mut done) = (INITIAL_N, 0u32, INITIAL_BIAS, basic);
    let total = u32::try_from(label.chars().count()).ok()?;
    while done < total {
        let next = label.chars().map(u32::from).filter(|&c| c >= n).min()?;
        delta = delta.checked_add((next - n).checked_mul(done + 1)?)?;
        n = next;
        for c in label.chars().map(u32::from) {
            if c < n {
                delta = delta.checked_add(1)?;
            }
            if c == n {
                write(&mut text, delta, bias)?;
                bias = adapt(delta, done + 1, done == basic);
                delta = 0;
                done += 1;
            }
        }
        delta = delta.checked_add(1)?;
        n += 1;
    }
    Some(text)
}

/// A number as generalized integer with variable digits.
fn write(text: &mut String, number: u32, bias: u32) -> Option<()> {
    let mut q = number;
    for k in (BASE..).step_by(BASE as usize) {
        let t = k.saturating_sub(bias).clamp(T_MIN, T_MAX);
        if q < t {
            break;
        }
        text.push(char::from_digit(t + (q - t) % (BASE - t), BASE).map(digit)?);
        q = (q - t) / (BASE - t);
    }
    text.push(char::from_digit(q, BASE).map(digit)?);
    Some(())
}

/// Letters stand before figures here: `0` to `9`, then `a` to `z`, becomes `a` to `z`, then `0` to `9`.
fn digit(c: char) -> char {
    let value = c.to_digit(BASE).unwrap_or(0);
    let byte = if value < 26 { b'a'.wrapping_add(value as u8) } else { b'0'.wrapping_add((value - 26) as u8) };
    char::from(byte)
}

/// RFC 3492 section 6.1.
fn adapt(delta: u32, points: u32, is_first: bool) -> u32 {
    let mut delta = if is_first { delta / DAMP } else { delta / 2 };
    delta += delta / points;
    let mut k = 0;
    while delta > (BASE - T_MIN) * T_MAX / 2 {
        delta /= BASE - T_MIN;
        k += BASE;
    }
    k + (BASE - T_MIN + 1) * delta / (delta + SKEW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_as_dns_has_them() {
        for (name, ascii) in [
            ("example.com", "example.com"),
            ("Bücher.example", "xn--bcher-kva.example"),
            ("пример.испытание", "xn--e1afmkfd.xn--80akhbyknj4f"),
            ("яндекс.рф", "xn--d1acpjx3f.xn--p1ai"),
            ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
            ("مثال.إختبار", "xn--mgbh0fb.xn--kgbechtv"),
            ("faß。de", "xn--fa-hia.de"),
        ] {
            assert_eq!(host(name).as_deref(), Some(ascii), "{name}");
        }
    }

    #[test]
    fn no_name_is_too_odd() {
        for name in ["", ".", "\u{10ffff}".repeat(5000).as_str(), "a\u{80}"] {
            assert!(host(name).is_none_or(|ascii| ascii.is_ascii()), "{}", name.len());
        }
    }
}
