//! Images: how large they are, and a small copy where one is asked for.

use std::io::Cursor;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::{ImageReader, Limits};
use serde_json::json;

use super::{Analysis, TEXT_BYTES_MAX, Wishes};

/// The largest copy, in pixels of its longer side.
const COPY_PIXELS_MAX: u32 = 512;
/// The largest image that is decoded, and what decoding may take.
const PIXELS_MAX: u32 = 20_000;
const DECODED_BYTES_MAX: u64 = 192 << 20;
/// The longest data URL: it stands in the text for the model.
const URL_BYTES_MAX: usize = TEXT_BYTES_MAX - 1024;

pub(super) fn analyse(document: &[u8], wishes: &Wishes) -> Result<Analysis, String> {
    let reader = || {
        let mut reader = ImageReader::new(Cursor::new(document));
        let mut limits = Limits::default();
        limits.max_image_width = Some(PIXELS_MAX);
        limits.max_image_height = Some(PIXELS_MAX);
        limits.max_alloc = Some(DECODED_BYTES_MAX);
        reader.limits(limits);
        reader.with_guessed_format().map_err(|error| error.to_string())
    };
    let format = reader()?.format().ok_or("its format is unknown")?;
    let (width, height) = reader()?.into_dimensions().map_err(|error| error.to_string())?;
    let name = format.extensions_str().first().copied().unwrap_or_default();
    let mut text = format!("Image: {name}, {width} × {height} pixels.");
    let mut data = json!({"format": name, "width": width, "height": height});
    if let Some(pixels) = wishes.copy_pixels {
        let image = reader()?.decode().map_err(|error| error.to_string())?;
        let url = copy(&image, pixels.clamp(1, COPY_PIXELS_MAX))?;
        text.push_str(&format!("\nA small copy of it: {url}"));
        data["copy"] = url.into();
    }
    Ok(Analysis { kind: "image".to_owned(), text, data })
}

/// A copy as a data URL, as small as it has to be.
fn copy(image: &image::DynamicImage, pixels: u32) -> Result<String, String> {
    let mut pixels = pixels;
    loop {
        let small = match image.width().max(image.height()) > pixels {
            true => image.thumbnail(pixels, pixels),
            false => image.clone(),
        };
        let mut jpeg = Vec::new();
        JpegEncoder::new_with_quality(&mut jpeg, 70)
            .encode_image(&small.to_rgb8())
            .map_err(|error| error.to_string())?;
        let url = format!("data:image/jpeg;base64,{}", STANDARD.encode(&jpeg));
        if url.len() <= URL_BYTES_MAX {
            return Ok(url);
        }
        pixels = pixels * 3 / 4;
    }
}

#[cfg(test)]
mod tests {
    use image::{ImageFormat, RgbImage};

    use super::*;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let noise = RgbImage::from_fn(width, height, |x, y| {
            let n = x.wrapping_mul(2_654_435_761).wrapping_add(y.wrapping_mul(40_503)) >> 3;
            image::Rgb([n as u8, (n >> 8) as u8, (n >> 16) as u8])
        });
        let mut png = Cursor::new(Vec::new());
        noise.write_to(&mut png, ImageFormat::Png).unwrap();
        png.into_inner()
    }

    #[test]
    fn images_are_measured_and_copied_where_asked() {
        let document = png(600, 300);
        let plain = analyse(&document, &Wishes::default()).unwrap();
        assert_eq!(plain.data, json!({"format": "png", "width": 600, "height": 300}));
        assert!(!plain.text.contains("data:"));
        for pixels in [64, 9_999] {
            let wishes = Wishes { copy_pixels: Some(pixels), ..Wishes::default() };
            let copied = analyse(&document, &wishes).unwrap();
            assert!(copied.text.len() < TEXT_BYTES_MAX);
            let url = copied.data["copy"].as_str().unwrap();
            let jpeg = STANDARD.decode(url.split_once(',').unwrap().1).unwrap();
            let copy = image::load_from_memory(&jpeg).unwrap();
            assert!(
                copy.width() <= pixels && copy.width() == 2 * copy.height(),
                "{}",
                copy.width()
            );
        }
    }

    #[test]
    fn images_that_claim_to_be_huge_are_not_decoded() {
        let mut document = png(8, 8);
        // The width in the header, and the header's checksum.
        document[16..20].copy_from_slice(&100_000_u32.to_be_bytes());
        let crc = crc_of(&document[12..29]);
        document[29..33].copy_from_slice(&crc.to_be_bytes());
        let wishes = Wishes { copy_pixels: Some(64), ..Wishes::default() };
        assert!(analyse(&document, &wishes).is_err());
        assert!(analyse(b"", &wishes).is_err());
    }

    fn crc_of(bytes: &[u8]) -> u32 {
        let step = |crc: u32, byte: &u8| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
        };
        !bytes.iter().fold(!0, step)
    }
}
