//! The files in `test-images`, which `make.py` there makes with Pillow, and damaged ones.

use tract_onnx::prelude::Tensor;

use crate::testing::{Case, case, row, tensor};

macro_rules! file {
    ($name:literal) => {
        include_bytes!(concat!("../../../test-images/", $name)).as_slice()
    };
}

/// Two rows of two pixels: red, green, blue, white.
const PPM: &[u8] = b"P6 2 2 255\n\xff\x00\x00\x00\xff\x00\x00\x00\xff\xff\xff\xff";

fn decoder(file: &[u8]) -> Case {
    case("ImageDecoder").input(row(file))
}

fn pixels(channels: usize, bytes: &[u8]) -> Tensor {
    tensor(&[2, 2, channels], bytes)
}

/// The pixels of a PPM or PGM file that Pillow wrote, with a single channel copied to all.
fn pillow(file: &[u8]) -> Tensor {
    let mut parts = file.splitn(4, u8::is_ascii_whitespace);
    let mut part = || std::str::from_utf8(parts.next().unwrap()).unwrap();
    let (kind, width, height) = (part(), part().parse().unwrap(), part().parse().unwrap());
    let bytes = parts.next().unwrap().strip_prefix(b"255\n").unwrap();
    let copies = if kind == "P5" { 3 } else { 1 };
    let bytes: Vec<u8> = bytes.iter().flat_map(|byte| vec![*byte; copies]).collect();
    tensor(&[height, width, 3], &bytes)
}

/// All files that are decoded.
const FILES: &[&[u8]] = &[
    file!("rgb.ppm"),
    file!("plain.tiff"),
    file!("packbits.tiff"),
    file!("lzw.tiff"),
    file!("deflate.tiff"),
    file!("differences.tiff"),
    file!("alpha.tiff"),
    file!("rgb.bmp"),
    file!("alpha.bmp"),
    file!("rgb.png"),
    file!("lossless.webp"),
    file!("lossless-alpha.webp"),
    file!("gray.pgm"),
    file!("gray.tiff"),
    file!("gray16.tiff"),
    file!("gray-palette.tiff"),
    file!("gray-palette.bmp"),
    file!("lossy.webp"),
    file!("lossy-alpha.webp"),
    file!("jpeg.jpg"),
    file!("progressive.jpg"),
];

#[test]
fn image_decoder_makes_rgb_bgr_or_gray() {
    let rgb = [255u8, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255];
    decoder(PPM).gives(pixels(3, &rgb));
    let bgr = [0u8, 0, 255, 0, 255, 0, 255, 0, 0, 255, 255, 255];
    decoder(PPM).text("pixel_format", "BGR").gives(pixels(3, &bgr));
    decoder(PPM).text("pixel_format", "Grayscale").gives(pixels(1, &[76, 150, 29, 255]));
    let gray = b"P5 2 2 255\n\x01\x02\x03\x04";
    decoder(gray).gives(pixels(3, &[1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]));
    decoder(gray).text("pixel_format", "Grayscale").gives(pixels(1, &[1, 2, 3, 4]));
}

#[test]
fn image_decoder_reads_files_without_loss_exactly() {
    for file in &FILES[..12] {
        decoder(file).gives(pillow(file!("rgb.ppm")));
    }
    for file in &FILES[12..17] {
        decoder(file).gives(pillow(file!("gray.pgm")));
    }
    decoder(file!("many.tiff")).gives(pillow(file!("many.pgm")));
}

#[test]
fn image_decoder_decodes_webp_with_loss_as_libwebp_does() {
    decoder(file!("lossy.webp")).gives(pillow(file!("lossy.ppm")));
    decoder(file!("lossy-alpha.webp")).gives(pillow(file!("lossy-alpha.ppm")));
}

#[test]
fn image_decoder_decodes_jpeg_within_3_of_libjpeg() {
    for (file, expected) in [
        (file!("jpeg.jpg"), file!("jpeg.ppm")),
        (file!("progressive.jpg"), file!("progressive.ppm")),
    ] {
        let (found, expected) = (&decoder(file).outputs_at_run_time()[0], pillow(expected));
        assert_eq!(found.shape(), expected.shape());
        let bytes = |tensor: &Tensor| {
            tensor.to_plain_array_view::<u8>().unwrap().iter().copied().collect::<Vec<u8>>()
        };
        let (found, expected) = (bytes(found), bytes(&expected));
        let differences = found.iter().zip(&expected).map(|(one, other)| one.abs_diff(*other));
        assert!(differences.max() <= Some(3));
    }
}

#[test]
fn image_decoder_reads_text_bitmaps_and_other_maxima() {
    let gray = |file: &[u8]| decoder(file).text("pixel_format", "Grayscale");
    gray(b"P1\n# a bitmap\n2 2\n10 01").gives(pixels(1, &[0, 255, 255, 0]));
    gray(b"P4 2 2\n\x80\x40").gives(pixels(1, &[0, 255, 255, 0]));
    gray(b"P2 2 2 3 0 1\n2 3").gives(pixels(1, &[0, 85, 170, 255]));
    gray(b"P5 2 2 65535\n\x00\x00\x00\xff\x80\x00\xff\xff").gives(pixels(1, &[0, 1, 128, 255]));
    decoder(b"P3 1 1 255 1 2 3").gives(tensor(&[1, 1, 3], &[1u8, 2, 3]));
}

#[test]
fn image_decoder_reads_bmp_files_of_few_colors_and_of_16_bits() {
    let file = |bits: u8, compression: u8, rest: &[u8], rows: &[u8]| {
        let mut file = vec![0; 54];
        file[..2].copy_from_slice(b"BM");
        (file[10], file[14], file[18]) = (54 + rest.len() as u8, 40, 2);
        // A negative height: the first row is the top one.
        file[22..26].copy_from_slice(&(-2i32).to_le_bytes());
        (file[26], file[28], file[30]) = (1, bits, compression);
        file[46] = if bits < 16 { 2 } else { 0 };
        [&file, rest, rows].concat()
    };
    let palette = [3, 2, 1, 0, 6, 5, 4, 0];
    let expected = pixels(3, &[1, 2, 3, 4, 5, 6, 4, 5, 6, 1, 2, 3]);
    let rows = [0x40, 0, 0, 0, 0x80, 0, 0, 0];
    decoder(&file(1, 0, &palette, &rows)).gives(expected.clone());
    let rows = [0x01, 0, 0, 0, 0x10, 0, 0, 0];
    decoder(&file(4, 0, &palette, &rows)).gives(expected);
    decoder(&file(4, 0, &palette, &[0x02, 0, 0, 0, 0, 0, 0, 0])).fails("colour 2");
    let rows = [0x00, 0x7c, 0xe0, 0x03, 0x1f, 0x00, 0x10, 0x42];
    let expected = pixels(3, &[255, 0, 0, 0, 255, 0, 0, 0, 255, 131, 131, 131]);
    decoder(&file(16, 0, &[], &rows)).gives(expected);
    // Masks for 5, 6 and 5 bits.
    let masks = [0, 0xf8, 0, 0, 0xe0, 7, 0, 0, 0x1f, 0, 0, 0];
    let rows = [0x00, 0xf8, 0xe0, 0x07, 0x1f, 0x00, 0xff, 0xff];
    let expected = pixels(3, &[255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255]);
    decoder(&file(16, 3, &masks, &rows)).gives(expected);
    decoder(&file(8, 1, &palette, &rows)).fails("run-length");
}

#[test]
fn image_decoder_refuses_files_that_it_cannot_decode() {
    decoder(b"\0\0\0\x0cjP  \r\n\x87\n").fails("JPEG 2000");
    decoder(b"\xff\x4f\xff\x51").fails("JPEG 2000");
    decoder(b"GIF89a").fails("BMP, JPEG, PNG");
    decoder(&[]).fails("BMP, JPEG, PNG");
    decoder(PPM).text("pixel_format", "YUV").fails("YUV");
    decoder(file!("animation.webp")).fails("animations");
    case("ImageDecoder").input(tensor(&[1, 3], b"P6 ")).fails("2 dimensions");
}

/// A file decoded in one way, which is quicker than in all.
fn decoded(file: &[u8]) -> Result<usize, String> {
    use belljar_pixels::{DecodeError, Format, decode};

    let format = Format::of(file).ok_or("unknown")?;
    match decode(format, file, super::ROOM) {
        Ok(picture) => Ok(picture.pixels.bytes.len()),
        Err(DecodeError::File(why) | DecodeError::TooLarge(why)) => Err(why),
    }
}

#[test]
fn image_decoder_refuses_files_that_are_cut_off() {
    for file in FILES {
        assert!(decoded(file).is_ok());
        // The last chunk of a PNG file has twelve bytes, and is not needed.
        for len in 0..file.len() - 12 {
            let kind = &file[..4];
            assert!(decoded(&file[..len]).is_err(), "{kind:?} of {len} bytes is decoded");
        }
    }
}

#[test]
fn image_decoder_survives_damaged_files() {
    for file in FILES {
        for at in 0..file.len() {
            for damage in [0x01, 0x80, 0xff] {
                let mut file = file.to_vec();
                file[at] ^= damage;
                // Pixels that are wrong, or an error.
                let _ = decoded(&file);
            }
        }
    }
}

#[test]
fn image_decoder_refuses_sizes_that_files_cannot_hold() {
    let with = |file: &[u8], at: usize, bytes: &[u8]| {
        let mut file = file.to_vec();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    decoder(b"P6 60000 60000 255\n").fails("cut off");
    decoder(b"P6 70000 1 255\n").fails("70000x1");
    decoder(b"P6 0 1 255\n").fails("0x1");
    decoder(b"P6 99999999999999999999999999 1 255\n").fails("sides");
    let large = [0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0];
    decoder(&with(file!("rgb.bmp"), 18, &large)).fails("cut off");
    // The entries of a directory have twelve bytes, of which the last four are the value.
    for file in [file!("plain.tiff"), file!("lzw.tiff"), file!("deflate.tiff")] {
        let directory = u32::from_le_bytes(*file[4..].first_chunk().unwrap()) as usize;
        let wide = with(file, directory + 2 + 8, &large[..4]);
        let huge = with(&wide, directory + 2 + 12 + 8, &large[..4]);
        decoder(&huge).fails("can hold");
        let tall = with(file, directory + 2 + 12 + 8, &large[..4]);
        assert!(decoded(&tall).is_err());
    }
    // WebP declares its size in the image: 16383 by 16383 pixels take more than is allowed.
    let lossy = with(file!("lossy.webp"), 26, &[0xff, 0x3f, 0xff, 0x3f]);
    decoder(&lossy).fails("are allowed");
    let lossless = with(file!("lossless.webp"), 21, &[0xfe, 0xbf, 0xff, 0x0f]);
    decoder(&lossless).fails("are allowed");
}
