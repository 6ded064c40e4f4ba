"""Makes the images of tests/command_line/pictures.rs and the values that they must become, by Pillow and numpy.

    python3 -m pip install pillow==13.0.0 numpy
    python3 tests/pictures/make.py

Writes the images, and cases.json: for each run the model, the image, the flags, and the values of the
tensor, with how far each may be off. JPEG leaves the rounding of its transforms and the interpolation
of colours open, so decoders differ by a few of 255 there; a PNG has one right value.
"""
import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).parent
RNG = np.random.default_rng(15)
CASES = []


def scene(width, height):
    y, x = np.mgrid[0:height, 0:width].astype(float)
    red = 127 + 90 * np.sin(x / 4) + 20 * np.cos(y / 3)
    green = 127 + 90 * np.cos((x + y) / 7)
    blue = 200.0 * ((x // 6 + y // 5) % 2) + 20
    pixels = np.stack([red, green, blue], -1) + RNG.normal(0, 4, (height, width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def save(name, image, **options):
    image.save(HERE / name, **options)
    return HERE / name


def case(name, flags, values, model="u8", off=0.0):
    """`u8` takes height, width, RGB as bytes; the others planes of f32, f16, or one gray plane."""
    values = np.asarray(values)
    if model == "u8":
        values = values[None]
    elif model == "gray":
        values = values[None, None]
    else:
        values = values.transpose(2, 0, 1)[None]
    digits = 17 if model == "f16" else 9
    flat = [float(f"{value:.{digits}g}") for value in values.ravel().tolist()]
    flat = [int(value) if value == int(value) else value for value in flat]
    CASES.append({"image": name, "model": model, "flags": flags.split(), "off": off,
                  "shape": list(values.shape), "values": flat})


def rgb(path):
    return np.asarray(Image.open(path).convert("RGB"))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(name, width, height, bits, color, rows, interlaced=0):
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    (HERE / name).write_bytes(b"\x89PNG\r\n\x1a\n" + content)


image = scene(23, 17)
pixels = np.asarray(image)
png = save("rgb.png", image)

# What a PNG may be.
case("rgb.png", "", pixels)
save("alpha.png", Image.fromarray(np.dstack([pixels, RNG.integers(0, 256, (17, 23), np.uint8)])))
case("alpha.png", "", pixels)
gray = image.convert("L")
case(save("gray.png", gray).name, "", rgb(HERE / "gray.png"))
case("gray.png", "--scale 1", np.asarray(gray), "gray")
case(save("gray-alpha.png", gray.convert("LA")).name, "", rgb(HERE / "gray-alpha.png"))
case(save("palette.png", image.quantize(13), transparency=3).name, "", rgb(HERE / "palette.png"))
case(save("bits.png", gray.convert("1")).name, "", rgb(HERE / "bits.png"))
deep = RNG.integers(0, 65536, (5, 7, 3)).astype(">u2")
raw_png("deep.png", 7, 5, 16, 2, b"".join(b"\0" + row.tobytes() for row in deep))
case("deep.png", "", deep >> 8)
passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
parts = [pixels[top::down, left::right] for left, top, right, down in passes]
rows = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
raw_png("interlaced.png", 23, 17, 8, 2, rows, 1)
assert (rgb(HERE / "interlaced.png") == pixels).all()
case("interlaced.png", "", pixels)

# What a JPEG may be.
for name, source, options in [
    ("444.jpg", image, {"subsampling": 0}),
    ("422.jpg", image, {"subsampling": 1}),
    ("420.jpg", image, {"subsampling": 2}),
    ("progressive.jpg", image, {"progressive": True}),
    ("restarts.jpg", image, {"restart_marker_blocks": 1}),
    ("gray.jpg", gray, {}),
    ("cmyk.jpg", image.convert("CMYK"), {}),
    ("in-rgb.jpg", image, {"keep_rgb": True}),
]:
    path = save(name, source, quality=90, **options)
    case(name, "", rgb(path), off=4)
# A colour every 16 pixels: the last one stands alone at the right edge.
case(save("edge.jpg", scene(40, 9), quality=90).name, "", rgb(HERE / "edge.jpg"), off=4)

# How a camera was held.
for orientation in range(1, 9):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(f"held-{orientation}.png", image, exif=exif)
    case(path.name, "", np.asarray(ImageOps.exif_transpose(Image.open(path))))
path = save("held-6.jpg", image, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
            quality=90)
case("held-6.jpg", "", np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB")), off=4)
case("held-6.jpg", "--ignore-orientation", rgb(path), off=4)

# Sizes. The versions of Pillow do rows and columns in another order: one of 255.
for width, height in [(23, 17), (9, 5), (46, 34), (60, 4), (3, 40), (1, 1), (23, 8), (8, 17)]:
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    case("rgb.png", f"--resize {width}x{height}", np.asarray(resized), off=1)


def shorter(image, side):
    """As torchvision.transforms.Resize(side)."""
    width, height = image.size
    size = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
    return image.resize(size, Image.Resampling.BILINEAR)


def middle(image, width, height):
    """As torchvision.transforms.CenterCrop((height, width))."""
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


case("rgb.png", "--resize 12", np.asarray(shorter(image, 12)), off=1)
case("rgb.png", "--resize 12 --center-crop 9", np.asarray(middle(shorter(image, 12), 9, 9)), off=1)
for width, height in [(20, 16), (21, 15), (22, 14), (23, 17), (1, 1)]:
    case("rgb.png", f"--center-crop {width}x{height}", np.asarray(middle(image, width, height)))
case("rgb.png", "--resize 10x10 --fit crop", np.asarray(middle(shorter(image, 10), 10, 10)), off=1)
case("rgb.png", "--resize 10x10 --fit stretch",
     np.asarray(image.resize((10, 10), Image.Resampling.BILINEAR)), off=1)

# The declared size, 12x8, and the values of floats.
small = np.asarray(image.resize((12, 8), Image.Resampling.BILINEAR)) / 255
case("rgb.png", "", small, "sized", off=1 / 255 + 1e-6)
tall = image.resize((12, int(12 * 17 / 23)), Image.Resampling.BILINEAR)
case("rgb.png", "--fit crop", np.asarray(middle(tall, 12, 8)) / 255, "sized", off=1 / 255 + 1e-6)
mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
case("rgb.png", "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225", (pixels / 255 - mean) / std,
     "f32", off=1e-6)
case("rgb.png", "--channels bgr --scale 1 --mean -1,2,3.5 --std 2", (pixels[..., ::-1] - [-1, 2, 3.5]) / 2,
     "f32")
case("rgb.png", "--scale 2/255 --mean 1", pixels / 127.5 - 1, "f32", off=1e-6)
case("rgb.png", "", (pixels / 255).astype(np.float16), "f16")
case("rgb.png", "--scale 1", np.asarray(gray), "gray")

lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in CASES)
(HERE / "cases.json").write_text(f"[\n{lines}\n]\n")
