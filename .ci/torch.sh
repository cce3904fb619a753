#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# PyTorch for tests on the CPU, from PyPI, for ./run test (TAILCUT_INSTALL_TORCH): its wheel without
# the 2 GB of CUDA libraries that it asks for and that a machine with a CUDA toolkit has most of.
# Those that it has not, or not new enough, come as wheels. Where `import torch` still fails, all.
#   torch.sh PYTHON
set -eu
python=$1
pip() { "$python" -m pip install -q --disable-pip-version-check --no-warn-conflicts "$@"; }
imports() { "$python" -c 'import torch; print("PyTorch", torch.__version__)'; }

if imports 2>/dev/null; then exit; fi
echo "torch.sh: PyTorch's wheel from PyPI, and those of what a CUDA toolkit lacks: about 1 GB to" \
  "download, 2 GB on disk"
pip --no-deps torch
# What it requires: "--no-deps" and CUDA's, then the rest.
asked() {
  "$python" - "$1" <<'PY'
import re
import sys
from importlib.metadata import requires

from pip._vendor.packaging.requirements import Requirement

# Of CUDA's, what toolkits do not bring (cuFile), or seldom as new as the wheel was built for.
MISSING = re.compile("nvidia-(cusparselt|nvshmem|nccl|cufile)")


def of(package, extra=""):
    for line in requires(package) or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            requirement.marker = None
            yield requirement


def is_cuda(name):
    return name.startswith(("nvidia-", "cuda-", "triton"))


everything = list(of("torch"))
if sys.argv[1] == "plain":
    print(*(f"{r.name}{r.specifier}" for r in everything if not is_cuda(r.name)), sep="\n")
elif sys.argv[1] == "toolkit":
    print(*(f"{r.name}{r.specifier}" for r in everything if r.name == "cuda-toolkit"), sep="\n")
else:
    if any(r.name == "cuda-toolkit" for r in everything):
        everything += of("cuda-toolkit", "cufile")
    print(*(f"{r.name}{r.specifier}" for r in everything if MISSING.match(r.name)), sep="\n")
PY
}
install() { # the words of standard input, after these
  # shellcheck disable=SC2046 # words
  set -- "$@" $(cat)
  [ $# -le "${given:-0}" ] || pip "$@"
}
asked plain | install
asked toolkit | given=1 install --no-deps # a list of packages: no library
asked missing | given=1 install --no-deps
if imports; then exit; fi
echo "torch.sh: this machine's CUDA libraries will not do: all that PyTorch requires, 2 GB more"
pip torch
imports
