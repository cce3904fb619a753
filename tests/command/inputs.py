# SPDX-License-Identifier: Apache-2.0
"""inputs.py TAILCUT: what the command reads: pipes, other types, byte orders and memory orders; and how it refuses the rest."""
import os
import resource
import struct
import subprocess
import sys
import threading

import numpy as np

from command import COMMAND, case, good, main, refused, run, saved, tokens

PRUNE = ["prune", "--cls-mean", "--kept", "kept.npy", "--out", "out.npy", "--scores", "scores.npy", "--tokens"]


def results():
    return [np.load(name).tobytes() for name in ("kept.npy", "out.npy", "scores.npy")]


def told(name):
    """What a run says of the file. Scores that are NaN are another matter."""
    lines = good(*PRUNE, name).splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("tailcut: warning: segment"))


def expected(x):
    np.save("plain.npy", x)
    assert told("plain.npy") == ""
    return results()


def same_as(x, name, array, said):
    """`array` saved gives the results of x, and says so once."""
    want = expected(x)
    np.save(name, array)
    text = told(name)
    assert text == f"tailcut: {name}: {said}\n", text
    assert results() == want


@case
def pipes():
    """A FIFO, a pipe on standard input, a redirected file and process substitution give what the file gives."""
    x = tokens(3000, 64)
    want = expected(x)
    data = saved(x)
    good(*PRUNE, "-", data=data)
    assert results() == want
    with open("plain.npy", "rb") as stream:
        good(*PRUNE, "-", stdin=stream)
    assert results() == want
    os.mkfifo("fifo")

    def feed():
        with open("fifo", "wb") as stream:
            for at in range(0, len(data), 10007):  # pieces of an odd size
                stream.write(data[at:at + 10007])
                stream.flush()
    writer = threading.Thread(target=feed)
    writer.start()
    good(*PRUNE, "fifo")
    writer.join()
    assert results() == want
    subprocess.run(["bash", "-c", f"'{COMMAND}' {' '.join(PRUNE)} <(cat plain.npy)"], check=True)
    assert results() == want


@case
def small_files_on_pipes():
    """Offsets, roles, reference and scores come in by a pipe too."""
    x, cu = tokens(), np.array([0, 5, 5, 24], np.int32)
    np.save("x.npy", x)
    np.save("cu.npy", cu)
    good("prune", "--tokens", "x.npy", "--cls", "-", "--counts", "a.npy", data=saved(x[0]))
    good("prune", "--tokens", "x.npy", "--cls-mean", "--cu-seqlens", "-", "--counts", "b.npy", data=saved(cu))
    assert len(np.load("b.npy")) == 3
    good("prune-seq", "--hidden", "x.npy", "--roles", "-", "--counts", "c.npy", data=saved(np.full(24, 3, np.uint8)))
    good("cut", "--scores", "-", "--counts", "d.npy", data=saved(x[:, 0]))


@case
def bad_pipes():
    """Streams that are cut, empty, too long, or claim what never comes."""
    data = saved(tokens())
    for n in (0, 3, 8, 9, 11, 40, 127, 128, 129, len(data) - 1):
        refused(1, ["(standard input)"], *PRUNE, "-", data=data[:n])
    refused(1, ["more than 1536 bytes"], *PRUNE, "-", data=data + b"x")
    refused(1, ["standard input", "empty"], *PRUNE, "-", data=b"")
    refused(2, ["--cls", "--tokens", "-"], "prune", "--tokens", "-", "--cls", "-", data=data)


@case
def hostile_claims():
    """A header that claims 4 PB on a pipe takes no memory before the data comes; in a file it is refused at once."""
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000000), }"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    hostile = b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode() + bytes(3 << 20)

    def little_memory():
        resource.setrlimit(resource.RLIMIT_AS, (256 << 20, 256 << 20))
    limit = {} if "ASAN_OPTIONS" in os.environ else {"preexec_fn": little_memory}  # ASan's shadow is larger than any limit
    refused(1, ["has 3145728 bytes", "4000000000000000"], *PRUNE, "-", data=hostile, **limit)
    with open("hostile.npy", "wb") as stream:
        stream.write(hostile)
    refused(1, ["hostile.npy", "has 3145728 bytes"], *PRUNE, "hostile.npy")


@case
def float64_features():
    """Rounded as astype rounds; what overflows is said."""
    x = tokens().astype(np.float64) * 1.00000001
    same_as(x.astype(np.float32), "x.npy", x, "float64 converted to float32")
    x[3, 4], x[5, 5], x[6, 6] = 1e300, -3.4028236e38, np.inf
    with np.errstate(over="ignore"):
        same_as(x.astype(np.float32), "y.npy", x, "float64 converted to float32; 2 became infinite")


@case
def memory_order():
    """Fortran order of two and three dimensions, with and without a type to convert."""
    x = tokens()
    same_as(x, "x.npy", np.asfortranarray(x), "float32 in Fortran order converted to C order")
    y = x.reshape(3, 8, 16)
    same_as(y, "y.npy", np.asfortranarray(y), "float32 in Fortran order converted to C order")
    same_as(y, "z.npy", np.asfortranarray(y).astype(">f8", order="K"), "big-endian float64 in Fortran order converted to float32")
    one = np.asfortranarray(x[:, :1])  # the same in both orders: nothing to say
    expected(one)


@case
def byte_order():
    """Big-endian floats and offsets."""
    x = tokens()
    same_as(x, "x.npy", x.astype(">f4"), "big-endian float32 converted to little-endian")
    half = x.astype(np.float16)
    same_as(half, "h.npy", half.astype(">f2"), "big-endian float16 converted to little-endian")
    np.save("cu.npy", np.array([0, 5, 24], ">i4"))
    text = good("prune", "--tokens", "x.npy", "--cls-mean", "--cu-seqlens", "cu.npy", "--counts", "k.npy")
    assert text.count("\n") == 2 and "cu.npy: big-endian int32 converted to little-endian" in text, text


@case
def bfloat16():
    """V2 is bf16 and said; uint16 needs --dtype, and both give the same."""
    bits = (tokens().view(np.uint32) >> 16).astype(np.uint16)
    np.save("u.npy", bits)
    refused(1, ["u.npy", "uint16", "--dtype bf16"], *PRUNE, "u.npy")
    assert good(*PRUNE, "u.npy", "--dtype", "bf16") == ""
    want = results()
    np.save("v.npy", bits.view("V2"))
    for more in ([], ["--dtype", "bf16"]):
        assert good(*PRUNE, "v.npy", *more) == "tailcut: v.npy: V2 read as bfloat16\n"
        assert results() == want and np.load("out.npy").dtype == np.uint16
    refused(1, ["v.npy", "--dtype"], *PRUNE, "v.npy", "--dtype", "f32")


@case
def scores():
    """float64, float16, whole and bool scores are cut as float32, rounded as astype does."""
    s = np.random.default_rng(4).random(50)
    s[7], s[8] = 6e-8, 2.0 ** -24  # subnormal in float16
    for kind in (np.float64, np.float16):
        for values in (s, -s, np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1.0, 65504.0])):
            values = values.astype(kind)
            np.save("s.npy", values)
            np.save("f.npy", values.astype(np.float32))
            text = good("cut", "--scores", "s.npy", "--kept", "a.npy")
            assert text.startswith(f"tailcut: s.npy: {np.dtype(kind).name} converted to float32\n"), text
            good("cut", "--scores", "f.npy", "--kept", "b.npy")
            assert np.array_equal(np.load("a.npy"), np.load("b.npy"))
    wide = np.array([2 ** 24 + 1, 2 ** 24 + 3, -(2 ** 40 + 1), 2 ** 63 - 1, -2 ** 63, 0, 7], np.int64)
    for values in (wide, np.array([2 ** 64 - 1, 2 ** 63 + 2 ** 39, 2 ** 63, 5], np.uint64), np.arange(9, dtype=np.int32), np.arange(9) % 2 == 0):
        np.save("s.npy", values)
        np.save("f.npy", values.astype(np.float32))
        text = good("cut", "--scores", "s.npy", "--k", "3", "--kept", "a.npy")
        assert text.startswith(f"tailcut: s.npy: {values.dtype.name} converted to float32\n"), text
        good("cut", "--scores", "f.npy", "--k", "3", "--kept", "b.npy")
        assert np.array_equal(np.load("a.npy"), np.load("b.npy"))
    np.save("s.npy", np.arange(9, dtype=np.uint16))  # perhaps bfloat16
    refused(1, ["s.npy", "uint16", "float32", ".astype(np.float32)"], "cut", "--scores", "s.npy")


@case
def whole_numbers():
    """Offsets, roles, indices and counts of any type of whole numbers, where every value fits."""
    np.save("x.npy", tokens())
    cu = np.array([0, 5, 24])
    for kind in ("i8", "u8", "u4", "i2", "u2", "i1", "u1"):
        np.save("cu.npy", cu.astype(kind))
        text = good("prune", "--tokens", "x.npy", "--cls-mean", "--cu-seqlens", "cu.npy", "--counts", "k.npy")
        assert text == f"tailcut: cu.npy: {np.dtype(kind).name} converted to int32\n", text
    for bad, kind in ((2 ** 31, "i8"), (-2 ** 31 - 1, "i8"), (2 ** 64 - 1, "u8"), (2 ** 32 - 1, "u4")):
        np.save("cu.npy", np.array([0, bad, bad], kind))
        refused(1, ["cu.npy", "element 1", str(bad), "int32"], "prune", "--tokens", "x.npy", "--cls-mean", "--cu-seqlens", "cu.npy")
    np.save("cu.npy", cu.astype("f8"))
    refused(1, ["cu.npy", "float64", "offsets", "int32", ".astype(np.int32)"], "prune", "--tokens", "x.npy", "--cls-mean", "--cu-seqlens", "cu.npy")

    roles = np.arange(24) % 4
    np.save("r.npy", roles.astype(np.uint8))
    good("prune-seq", "--hidden", "x.npy", "--roles", "r.npy", "--kept", "want.npy")
    for kind in ("i8", "i4", "i2", "u4", "i1"):
        np.save("r.npy", roles.astype(kind))
        text = good("prune-seq", "--hidden", "x.npy", "--roles", "r.npy", "--kept", "kept.npy")
        assert f"{np.dtype(kind).name} converted to uint8" in text
        assert np.array_equal(np.load("kept.npy"), np.load("want.npy"))
    np.save("r.npy", roles == 1)
    assert "r.npy: bool converted to uint8" in good("prune-seq", "--hidden", "x.npy", "--roles", "r.npy", "--kept", "kept.npy")
    for bad in (256, -1):
        np.save("r.npy", np.full(24, bad))
        refused(1, ["r.npy", "element 0", str(bad), "uint8"], "prune-seq", "--hidden", "x.npy", "--roles", "r.npy")


@case
def sizes_of_a_batch():
    """Sizes of all candidates, one after the other or segment by segment; rows of a prefix have none."""
    np.save("x.npy", tokens().reshape(3, 8, 16))
    sizes = np.arange(21, dtype=np.int32) % 5 + 1
    line = ["prune", "--tokens", "x.npy", "--prefix", 1, "--novelty", 64, "--k", 2, "--merge", "cos4",
            "--sizes-in", "s.npy", "--sizes", "z.npy", "--out", "o.npy"]
    results = []
    for shape in ((21,), (3, 7)):
        np.save("s.npy", sizes.reshape(shape))
        good(*line)
        results.append((np.load("z.npy").tolist(), np.load("o.npy").tobytes()))
    assert results[0] == results[1] and sum(results[0][0]) == sizes.sum(), results
    for shape in ((7, 3), (1, 21), (3, 7, 1)):
        np.save("s.npy", sizes.reshape(shape))
        refused(1, ["s.npy", "one for each candidate, [21]"], *line)


@case
def wrong_types():
    """The type found, the types wanted and the remedy; for features, a reference and an index."""
    x = tokens()
    np.save("good.npy", x)
    for array in ((100 * x).astype("i8"), x > 0):
        np.save("x.npy", array)
        np.save("f.npy", array.astype(np.float32))
        text = good("prune", "--cls-mean", "--out", "a.npy", "--tokens", "x.npy")
        assert text.startswith(f"tailcut: x.npy: {array.dtype.name} converted to float32\n"), text
        good("prune", "--cls-mean", "--out", "b.npy", "--tokens", "f.npy")
        assert np.array_equal(np.load("a.npy"), np.load("b.npy"))
    for array, name in ((x.astype("c8"), "c8"), (x.astype("U4"), "U4")):
        np.save("x.npy", array)
        refused(1, ["x.npy", name, "float16", "float32", ".astype(np.float32)"], *PRUNE, "x.npy")
    np.save("c.npy", x[0].astype(np.float16))
    refused(1, ["c.npy", "float16", "float32", ".astype(np.float32)"], "prune", "--tokens", "good.npy", "--cls", "c.npy")
    np.save("fields.npy", np.zeros(3, [("a", "f4"), ("b", "f4")]))
    refused(1, ["fields.npy", "structured", "x['field']"], *PRUNE, "fields.npy")


@case
def other_formats():
    """Each is named, and the line that converts it is a line of Python that does (those that numpy reads are run)."""
    x = tokens()

    def line_of(text):
        return text[text.index("python3 -c \"") + 12:text.rindex('"')]

    def converts(name, array):
        code = line_of(refused(1, [name, "python3 -c"], *PRUNE, name))
        subprocess.run([sys.executable, "-c", code], check=True)
        assert np.array_equal(np.load(os.path.splitext(name)[0] + ".npy"), array), name

    np.savez("a.npz", first=x, second=x[0])
    converts("a.npz", x)
    np.savez_compressed("b.npz", some_name=x)
    converts("b.npz", x)
    np.savetxt("c.csv", x, delimiter=",")
    converts("c.csv", x)
    np.savetxt("d.txt", x)
    converts("d.txt", x)
    # Named by their first bytes: the programs that write them need not be here.
    header = b'{"__metadata__":{"a":"b"},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    with open("e.safetensors", "wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header + bytes(4))
    compile(line_of(refused(1, ["safetensors", "load_file('e.safetensors')['NAME']"], *PRUNE, "e.safetensors")), "e", "exec")
    header = header[header.index(b'"w"') - 0:]
    with open("f.safetensors", "wb") as stream:
        stream.write(struct.pack("<Q", len(header) + 1) + b"{" + header + bytes(4))
    refused(1, ["load_file('f.safetensors')['w']"], *PRUNE, "f.safetensors")
    import zipfile
    with zipfile.ZipFile("g.pt", "w") as archive:
        archive.writestr("g/data.pkl", b"x")
    compile(line_of(refused(1, ["PyTorch", "torch.load('g.pt')"], *PRUNE, "g.pt")), "g", "exec")
    with zipfile.ZipFile("g.zip", "w") as archive:
        archive.writestr("readme", b"x")
    refused(1, ["g.zip", "zip archive"], *PRUNE, "g.zip")
    for name, start, word in (("h.h5", b"\x89HDF\r\n\x1a\n", "HDF5"), ("i.pt", b"\x80\x02\x8a\x0a", "pickle"), ("j.npy.gz", b"\x1f\x8b\x08", "gunzip"),
                              ("k.png", b"\x89PNG\r\n\x1a\n", "picture"), ("l.jpg", b"\xff\xd8\xff\xe0", "picture"), ("m.bin", b"\0\1\2", "not a .npy")):
        with open(name, "wb") as stream:
            stream.write(start + bytes(600))
        refused(1, [name, word], *PRUNE, name)
    os.rename("a.npz", "it's $x.npz")  # what cannot stand in quotes does not
    assert "np.load('FILE')" in refused(1, [".npz archive"], *PRUNE, "it's $x.npz")
    for size in range(0, 60):  # cut anywhere: refused, whatever it looks like
        with open("b.npz", "rb") as stream:
            start = stream.read(size)
        refused(1, ["(standard input)"], *PRUNE, "-", data=start)
    refused(1, ["folder"], *PRUNE, ".")


@case
def closed_streams():
    """With standard streams closed, no file takes their place."""
    np.save("x.npy", tokens())
    done = subprocess.run(["sh", "-c", f"'{COMMAND}' {' '.join(PRUNE)} x.npy 0<&- 1>&- 2>&-"])
    assert done.returncode == 0 and np.load("kept.npy").dtype == np.int32
    done = subprocess.run(["sh", "-c", f"'{COMMAND}' cut --scores missing.npy --kept - 2>&- >out"])
    assert done.returncode == 1 and os.path.getsize("out") == 0
    done = subprocess.run(["sh", "-c", f"'{COMMAND}' prune --tokens x.npy --cls-mean --kept - 1>&-"], stderr=subprocess.PIPE)
    assert done.returncode == 1 and b"standard output" in done.stderr, done.stderr


if __name__ == "__main__":
    sys.exit(main())
