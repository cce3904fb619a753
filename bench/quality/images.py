# SPDX-License-Identifier: Apache-2.0
"""The images of the quality bench: 20 photographs, 5 documents (3 are drawn here), 3 textures.

Photographs and textures are files that packages of PyPI carry (named by sha256, found without
importing the package): all photographs of scikit-image and scikit-learn, Grace Hopper of
matplotlib, the author of mahotas. scikit-image's horse, a silhouette, counts as one. Each is
cropped to its centre square and resized to 224x224, as bench/features/make_features.py does it.
"""
import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import make_features

PAPER, INK, SIDE = "#fbfaf6", "#20242a", 448

PHOTOGRAPHS = dict(make_features.IMAGES, **{
    "camera": ("skimage", "data/camera.png",
        "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a"),
    "cell": ("skimage", "data/cell.png",
        "8d23a7fb81f7cc877cd09f330357fc7f595651306e84e17252f6e0a1b3f61515"),
    "coins": ("skimage", "data/coins.png",
        "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba"),
    "horse": ("skimage", "data/horse.png",
        "c7fb60789fe394c485f842291ea3b21e50d140f39d6dcb5fb9917cc178225455"),
    "hubble": ("skimage", "data/hubble_deep_field.jpg",
        "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4"),
    "ihc": ("skimage", "data/ihc.png",
        "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef"),
    "microaneurysms": ("skimage", "data/microaneurysms.png",
        "a1e1be59aa447f8ce082f7fa809997ab369a2b137cb6c4202abc647c7ccf6456"),
    "moon": ("skimage", "data/moon.png",
        "78739619d11f7eb9c165bb5d2efd4772cee557812ec847532dbb1d92ef71f577"),
    "motorcycle-left": ("skimage", "data/motorcycle_left.png",
        "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179"),
    "motorcycle-right": ("skimage", "data/motorcycle_right.png",
        "5fc913ae870e42a4b662314bc904d1786bcad8e2f0b9b67dba5a229406357797"),
    "retina": ("skimage", "data/retina.jpg",
        "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6"),
    "hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg",
        "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130"),
    "luispedro": ("mahotas", "demos/data/luispedro.jpg",
        "27e7af47501a4e9a06e4d8bd8b834bd773fe7b187baef2f47e120c663524bed1"),
})
SCANS = {
    "page": ("skimage", "data/page.png",
        "341a6f0a61557662b02734a9b6e56ec33a915b2c41886b97509dedf2a43b47a3"),
    "text": ("skimage", "data/text.png",
        "bd84aa3a6e3c9887850d45d606c96b2e59433fbef50338570b63c319e668e6d1"),
}
TEXTURES = {
    "brick": ("skimage", "data/brick.png",
        "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf"),
    "grass": ("skimage", "data/grass.png",
        "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89"),
    "gravel": ("skimage", "data/gravel.png",
        "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12"),
}

LETTER = """Dear reader,

the parcel that you sent on Monday has
arrived. Two of the three books are in
good order; the third one has a torn
cover, and its last eight pages are gone.

Would you look whether another copy is
to be had? We should like to keep the
first two in any case, and can send the
third one back this week.

With kind regards
the library"""
BILL = (("Item", "Pieces", "Each", "Sum"), ("Chair, oak", "4", "89.00", "356.00"),
        ("Table, oak", "1", "410.00", "410.00"), ("Lamp", "2", "35.50", "71.00"),
        ("Carpet", "1", "120.00", "120.00"), ("Delivery", "1", "25.00", "25.00"),
        ("Total", "", "", "982.00"))
QUARTERS = (("Q1", 62, "#4c78c8"), ("Q2", 85, "#2f9e5b"), ("Q3", 47, "#d98a2b"),
            ("Q4", 108, "#b5495b"))


def canvas():
    image = Image.new("RGB", (SIDE, SIDE), PAPER)
    return image, ImageDraw.Draw(image)


def letter():
    image, draw = canvas()
    draw.multiline_text((36, 36), LETTER, INK, ImageFont.load_default(20), spacing=8)
    return image


def bill():
    """A table with rules, numbers at the right."""
    image, draw = canvas()
    draw.text((24, 24), "Bill 2041", INK, ImageFont.load_default(34))
    font = ImageFont.load_default(19)
    for i, row in enumerate(BILL):
        y = 96 + 46 * i
        draw.line((24, y - 10, SIDE - 24, y - 10), INK, 3 if i in (1, len(BILL) - 1) else 1)
        for text, x, anchor in zip(row, (24, 240, 330, SIDE - 24), ("la", "ra", "ra", "ra")):
            draw.text((x, y), text, INK, font, anchor=anchor)
    return image


def slide():
    """A heading, bars with labels, a sentence."""
    image, draw = canvas()
    draw.rectangle((0, 0, SIDE, 76), "#27364d")
    draw.text((24, 20), "Visitors per quarter", "#ffffff", ImageFont.load_default(32))
    font = ImageFont.load_default(20)
    for i, (name, value, colour) in enumerate(QUARTERS):
        x = 48 + 98 * i
        draw.rectangle((x, 360 - 2 * value, x + 60, 360), colour)
        draw.text((x + 30, 352 - 2 * value), str(value), INK, font, anchor="mb")
        draw.text((x + 30, 368), name, INK, font, anchor="ma")
    draw.line((32, 360, SIDE - 32, 360), INK, 2)
    draw.text((32, 408), "The fourth quarter was the best so far.", INK, font)
    return image


def load():
    """(names, kinds, pixels [28, 3, 224, 224] as the encoder takes them)."""
    made = []
    for kind, sources in (("photograph", PHOTOGRAPHS), ("document", SCANS), ("texture", TEXTURES)):
        for name, source in sources.items():
            made.append((name, kind, Image.open(io.BytesIO(make_features.packaged(*source)))))
    made += [(draw.__name__, "document", draw()) for draw in (letter, bill, slide)]
    pixels = [np.asarray(make_features.square(image), np.float32) for _name, _kind, image in made]
    pixels = (np.stack(pixels) / np.float32(255) - make_features.MEAN) / make_features.DEVIATION
    return ([name for name, _kind, _image in made], [kind for _name, kind, _image in made],
            np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
