# SPDX-License-Identifier: Apache-2.0
"""The same array as another .npy file: big-endian, Fortran order, bfloat16 as its own type, or a wider type that the
command converts back to the same values. float64 is put a little beside the fp32 value, so that the conversion has to
round. A signalling NaN stays fp32: widened it is a quiet one, and does not come back."""
import numpy as np

CONVERTED = ("tokens", "hidden", "scores", "cu", "groups", "roles", "sizes")


def dressed(rng, name, array):
    kind = str(rng.choice(["swapped", "fortran", "wide"]))
    if kind == "swapped" and array.dtype.itemsize > 1:
        return array.astype(array.dtype.newbyteorder(">"))
    if kind == "wide" and name in CONVERTED and array.dtype in (np.float32, np.int32, np.uint8):
        if array.dtype != np.float32:
            return array.astype(np.int64)
        same = array.astype(np.float64)
        if same.astype(np.float32).tobytes() != array.tobytes():
            return array
        wide = same * (1 + 2.0 ** -27)
        return np.where(wide.astype(np.float32) == array, wide, same)
    if kind == "wide" and array.dtype == np.uint16:
        return array.view("V2")
    return np.asfortranarray(array)
