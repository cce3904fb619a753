#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# run.sh: servers/mtmd.c in llama.cpp itself, on the CPU, with tiny models whose weights are random.
# Downloads the source package of llama-cpp-python (PyPI; 77 MB), builds llama.cpp's libraries out
# of it (about 10 minutes on two cores, 0.5 GB), makes models (0.2 GB) and runs check.cpp.
# All of it goes to build-engines/. Needs cmake, a C++17 compiler, Python with pip, and tailcut in
# build/ (./run build). What is there already is taken:
#   LLAMA_CPP=SOURCE LLAMA_CPP_BUILD=FOLDER   llama.cpp, and where cmake has built mtmd of it
#   PYTHON=PROGRAM                            has gguf's needs: numpy, tqdm, pyyaml, requests
#   TAILCUT_LIBRARY=FILE                      libtailcut.so
set -eu
cd "$(dirname "$0")/../../../.."
version=0.3.36
here=tests/servers/engines/llama_cpp
out=build-engines/llama_cpp
mkdir -p $out
library=${TAILCUT_LIBRARY:-$PWD/build/lib/libtailcut.so}
[ -e "$library" ] || {
  echo "run.sh: no $library: ./run build, or TAILCUT_LIBRARY" >&2
  exit 1
}

if [ -z "${PYTHON:-}" ]; then
  PYTHON=$out/venv/bin/python
  [ -x $PYTHON ] || python3 -m venv $out/venv
  $PYTHON -m pip install -q --disable-pip-version-check numpy tqdm pyyaml requests
fi
if [ -z "${LLAMA_CPP:-}" ]; then
  LLAMA_CPP=$out/llama_cpp_python-$version/vendor/llama.cpp
  if [ ! -d "$LLAMA_CPP" ]; then
    echo "==> llama-cpp-python $version, 77 MB"
    $PYTHON -m pip download -q --disable-pip-version-check --no-deps \
      --no-binary :all: -d $out "llama-cpp-python==$version"
    tar -xzf $out/llama_cpp_python-$version.tar.gz -C $out
  fi
fi
if [ -z "${LLAMA_CPP_BUILD:-}" ]; then
  LLAMA_CPP_BUILD=$out/build
  echo "==> llama.cpp, 136 steps: about 10 minutes on two cores"
  cmake -S "$LLAMA_CPP" -B $out/build -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_C_FLAGS_RELEASE=-O1 -DCMAKE_CXX_FLAGS_RELEASE=-O1 -DGGML_OPENMP=OFF \
    -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
    -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF >$out/cmake.log
  cmake --build $out/build --target mtmd --parallel "$(nproc)" >$out/build.log
fi

set -- -Iinclude -I"$LLAMA_CPP/include" -I"$LLAMA_CPP/ggml/include" -I"$LLAMA_CPP/tools/mtmd"
"${CC:-cc}" -std=c11 -O1 "$@" -c python_shim/tailcut/servers/mtmd.c -o $out/mtmd.o
"${CXX:-c++}" -std=c++17 -O1 "$@" $here/check.cpp $out/mtmd.o -o $out/check "$library" \
  -L"$LLAMA_CPP_BUILD/bin" -lmtmd -lllama -lggml -lggml-cpu -lggml-base \
  -Wl,-rpath,"$LLAMA_CPP_BUILD/bin:$(dirname "$library")"
[ -e $out/qwen3-mmproj.gguf ] || "$PYTHON" $here/models.py "$LLAMA_CPP" $out
status=0
for model in llava qwen2 qwen3; do
  [ $model = llava ] && size= || size="340 200" # theirs has one size
  echo "==> $model"
  # shellcheck disable=SC2086 # two words
  $out/check $out/$model.gguf $out/$model-mmproj.gguf $size || status=1
done
exit $status
