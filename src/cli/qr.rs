//! QR codes of links, drawn here: a web service that draws them would see the secret.

use qrcodegen::{QrCode, QrCodeEcc};

use crate::proto::base64url;

/// Light modules around the code, by its standard.
const QUIET: i32 = 4;

/// A picture that a browser shows: `data:image/svg+xml;base64,…`; none if the text is too long for any code.
pub(crate) fn data_uri(text: &str) -> Option<String> {
    Some(format!("data:image/svg+xml;base64,{}", base64url::encode_standard(svg(&code(text)?).as_bytes())))
}

/// A drawing for a terminal with light letters on a dark ground, two rows of modules in each line.
pub(crate) fn half_blocks(text: &str) -> Option<String> {
    let code = code(text)?;
    let range = -QUIET..code.size() + QUIET;
    let mut drawing = String::new();
    for y in range.clone().step_by(2) {
        drawing.extend(range.clone().map(|x| match (code.get_module(x, y), code.get_module(x, y + 1)) {
            (false, false) => '█',
            (false, true) => '▀',
            (true, false) => '▄',
            (true, true) => ' ',
        }));
        drawing.push('\n');
    }
    Some(drawing)
}

/// The smallest code, with as much error correction as fits into it.
fn code(text: &str) -> Option<QrCode> {
    QrCode::encode_text(text, QrCodeEcc::Low).ok()
}

fn svg(code: &QrCode) -> String {
    let (size, width) = (code.size(), code.size() + 2 * QUIET);
    let mut path = String::new();
    for (x, y) in (0..size).flat_map(|y| (0..size).map(move |x| (x, y))).filter(|&(x, y)| code.get_module(x, y)) {
        path += &format!("M{},{}h1v1h-1z", x + QUIET, y + QUIET);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {width}\" shape-rendering=\"crispEdges\">\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/><path d=\"{path}\"/></svg>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_fits_a_terminal_of_80_columns() {
        let link = format!("tg://proxy?port=65535&secret={}&server=255.255.255.255", "7g".repeat(50));
        let drawing = half_blocks(&link).unwrap();
        let widths: Vec<_> = drawing.lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|&width| width == widths[0] && width <= 80), "{widths:?}");
        assert_eq!(widths.len(), widths[0].div_ceil(2));
        assert!(drawing.lines().next().unwrap().chars().all(|c| c == '█'));
    }

    #[test]
    fn a_text_that_fits_no_code_has_none() {
        let long = "x".repeat(5000);
        assert_eq!((half_blocks(&long), data_uri(&long)), (None, None));
    }
}
