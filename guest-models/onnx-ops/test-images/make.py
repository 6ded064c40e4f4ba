"""Makes the image files next to it, which the tests decode, with Pillow (13.0.0):

    python3 make.py

`rgb.ppm` and `gray.pgm` are what the files without loss contain; `lossy.ppm` and `jpeg.ppm` are what
Pillow decodes from the WebP and JPEG files with the same names.
"""

from pathlib import Path

import numpy as np
from PIL import Image

here = Path(__file__).parent
rng = np.random.default_rng(20)
width, height = 21, 13
# Flat parts with noise between them, so that the compressions find strings of all kinds.
noise = rng.integers(0, 256, (height, width, 3), np.uint8)
noise[2:6] = noise[2, 3]
noise[7:, 10:] = noise[7:, :1]
rgb = Image.fromarray(noise)
gray = rgb.convert("L")
rgba = rgb.convert("RGBA")
rgba.putalpha(gray)
y, x = np.mgrid[:height, :width]
smooth = Image.fromarray(np.stack([x * 12, y * 19, 255 - x * 6 - y * 9], -1).astype(np.uint8))


def save(image, name, **options):
    image.save(here / name, **options)


save(rgb, "rgb.ppm")
save(gray, "gray.pgm")
for name, compression in [
    ("plain", None), ("packbits", "packbits"), ("lzw", "tiff_lzw"), ("deflate", "tiff_adobe_deflate"),
]:
    save(rgb, f"{name}.tiff", compression=compression)
save(rgb, "differences.tiff", compression="tiff_lzw", tiffinfo={317: 2, 278: 4})
save(rgba, "alpha.tiff")
save(gray, "gray.tiff")
wide = Image.fromarray(np.asarray(gray, np.uint16) * 256 + np.arange(width, dtype=np.uint16))
save(wide, "gray16.tiff", compression="tiff_lzw", tiffinfo={317: 2})
# All lengths of codes, and a full table of strings.
many = Image.fromarray(rng.integers(0, 40, (100, 100), np.uint8) * 6)
save(many, "many.pgm")
save(many, "many.tiff", compression="tiff_lzw")
colors = gray.convert("P")
save(colors, "gray-palette.tiff")
save(colors, "gray-palette.bmp")
save(rgb, "rgb.bmp")
save(rgba, "alpha.bmp")
save(rgb, "rgb.png")
save(rgb, "lossless.webp", lossless=True)
save(rgba, "lossless-alpha.webp", lossless=True, exact=True)
save(smooth, "lossy.webp", quality=80)
save(smooth, "jpeg.jpg", quality=90, subsampling=2)
frames = [rgb, smooth]
save(frames[0], "animation.webp", save_all=True, append_images=frames[1:], lossless=True)
save(smooth.convert("RGB"), "progressive.jpg", quality=90, progressive=True)
for name, file in [("lossy", "lossy.webp"), ("jpeg", "jpeg.jpg"), ("progressive", "progressive.jpg")]:
    save(Image.open(here / file).convert("RGB"), f"{name}.ppm")
lossy_alpha = smooth.convert("RGBA")
lossy_alpha.putalpha(gray)
save(lossy_alpha, "lossy-alpha.webp", quality=80, exact=True)
save(Image.open(here / "lossy-alpha.webp").convert("RGB"), "lossy-alpha.ppm")
