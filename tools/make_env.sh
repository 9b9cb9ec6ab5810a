#!/usr/bin/env bash
# Build the environment that `make demo`, `make test` and `make lint` run in.
#
#   STACK=onedl|openmmlab   which builds of the OpenMMLab toolboxes (default: onedl)
#   VENV=DIR                where the environment goes (default: .venv, for openmmlab .venv-openmmlab)
#   PYTHON=python3.11       the interpreter to build it from (default: the first Python 3.10 to 3.13 that runs)
#   PIP_FIND_LINKS=DIR      pip's own variable: with a wheel of mmcv in DIR, mmcv is not compiled
#
# Each step checks what exists already: a complete environment is not touched, and an interrupted run continues where it stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
  echo "make env: $*" >&2
  exit 1
}

STACK=${STACK:-onedl}
case $STACK in
  onedl) VENV=${VENV:-.venv} mmcv=onedl-mmcv others='mm[cdep]*' ;;
  openmmlab) VENV=${VENV:-.venv-openmmlab} mmcv=mmcv others='onedl_mm*' ;;
  *) die "STACK is '$STACK', but only onedl and openmmlab exist." ;;
esac
python=$VENV/bin/python
log=$VENV/make_env.log
constraints=requirements/constraints.txt
supported='3.10 to 3.13'
failed="this step failed; $log says why. Run the same command again to continue from here."

pinned() { sed -n "s/^$1==//p" "$constraints"; }

# ---------------------------------------------------------------- messages

step() {
  printf '[%d/5] %s\n' "$1" "$2"
  SECONDS=0
}

took() { printf '      done in %d s\n' "$SECONDS"; }

# Print the lines of pip's and ninja's output that a waiting user wants to see. The log has all lines.
narrate() {
  local line file
  while IFS= read -r line; do
    line=${line#"${line%%[![:space:]]*}"}
    case $line in
      'Downloading '*[MG]'B)' | 'Installing build'* | 'ERROR:'* | *' error: '*) echo "      $line" ;;
      'Installing collected packages'*) echo '      Installing' ;;
      'Progress '*)
        if [[ -t 1 && $line =~ ^Progress\ ([0-9]+)\ of\ ([1-9][0-9]*)$ ]]; then
          printf '      %3d%%\r' $((100 * BASH_REMATCH[1] / BASH_REMATCH[2]))
        fi
        ;;
      \[*/*\]*' -c '*)
        file=${line##* -c }
        file=${file%% *}
        echo "      ${line%%]*}] ${file##*/}"
        ;;
    esac
  done
}

pip() {
  PIP_PROGRESS_BAR=raw "$python" -m pip --disable-pip-version-check --no-input "$@" 2>&1 |
    tee -a "$log" | narrate || die "$failed"
}

install() { pip install --no-compile --constraint "$constraints" "$@"; }

# Compile on all cores: pip uses one. Where PYTHONDONTWRITEBYTECODE is set, as in many containers,
# Python would otherwise compile each module at every import, which then takes three times as long.
# Modules for another version of Python fail to compile, and nothing imports them.
compile_modules() {
  "$python" -m compileall -q -j 0 -x '/site-packages/.*/tests?/' "$VENV"/lib >>"$log" 2>&1 || true
}

# ---------------------------------------------------------------- checks

runs() { # PYTHON CODE
  "$1" -c "$2" >/dev/null 2>&1
}

# Not 3.14: OneDL's mmdet accepts OpenCV up to 4.12, OpenCV 4.12 accepts numpy below 2.3, and numpy below 2.3 has no wheel for 3.14.
is_supported='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'

find_python() {
  local candidate found='' candidates=(python3.11 python3.12 python3.13 python3.10 python3)
  [[ ${PYTHON:-} ]] && candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    # Run it: version managers put commands on the PATH that start no Python.
    runs "$candidate" "$is_supported" || continue
    found=$candidate
    if runs "$candidate" 'import venv, ensurepip'; then
      echo "$candidate"
      return
    fi
  done
  [[ $found ]] && die "$found has no venv module: install it (on Debian and Ubuntu: the package python3-venv)."
  [[ ${PYTHON:-} ]] && die "PYTHON=$PYTHON is not a Python $supported that runs."
  die "Python $supported is needed and was not found: install one, or name it with PYTHON=/path/to/python."
}

# Print `cuda` if mmcv's CUDA operators can be compiled here, `no-nvcc` if only the compiler for them is missing.
detect_cuda() {
  "$python" - 2>>"$log" <<'PY'
import subprocess
import torch
from torch.utils.cpp_extension import CUDA_HOME

if torch.cuda.is_available():
    try:
        nvcc = subprocess.run([f'{CUDA_HOME}/bin/nvcc', '--version'], capture_output=True, text=True).stdout
    except OSError:
        nvcc = ''
    # torch compiles with the major version of CUDA that it was built with, and with no other.
    print('cuda' if f'release {torch.version.cuda.split(".")[0]}.' in nvcc else 'no-nvcc')
PY
}

# Run an operator: a wheel may have been compiled for another torch or without CUDA.
mmcv_works() {
  "$python" - "$mmcv" "$(pinned "$mmcv")" "$cuda" >>"$log" 2>&1 <<'PY'
import sys
from importlib.metadata import version

import torch
from mmcv.ops import get_compiling_cuda_version, nms

name, wanted, cuda = sys.argv[1:]
assert version(name) == wanted
assert cuda != 'cuda' or get_compiling_cuda_version() != 'not available'
nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
PY
}

# ---------------------------------------------------------------- mmcv

# Compile in a directory that stays until the environment is complete: a second attempt uses the object files of the first.
compile_mmcv() {
  local cxx version source
  for cxx in "${CXX:-g++}" c++ ''; do
    command -v "${cxx%% *}" >/dev/null && break
  done
  [[ $cxx ]] || die 'a C++ compiler is needed to compile mmcv and was not found: install g++ (on Debian and Ubuntu: the package build-essential).'
  runs "$python" 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' ||
    die "$("$python" --version) came without its C headers, and compiling mmcv needs them: install them (on Debian and Ubuntu: the package python3-dev)."

  version=$(pinned "$mmcv")
  source=$VENV/build/${mmcv//-/_}-$version
  if [[ ! -d $source ]]; then
    pip download --no-deps --no-build-isolation --no-binary "$mmcv" --dest "$VENV/build" "$mmcv==$version"
    mkdir -p "$VENV/build/unpacked"
    tar -xzf "$source.tar.gz" -C "$VENV/build/unpacked"
    mv "$VENV/build/unpacked/${source##*/}" "$source"
  fi
  [[ $cuda == no-nvcc ]] && export CUDA_VISIBLE_DEVICES=-1
  # -g0: with debug symbols it takes twice as long.
  CXX=$cxx CFLAGS="${CFLAGS:-} -g0" MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(nproc)} \
    pip wheel -v --no-deps --no-build-isolation --wheel-dir "$VENV/build" "$source"
  install "$source"-*.whl
  mmcv_works || die "mmcv was compiled, but its operators do not work; $log says why."
}

install_mmcv() {
  local wheels=$VENV/build/wheels
  mmcv_works && return
  rm -rf "$wheels" # of an earlier run
  if "$python" -m pip download --no-deps --only-binary "$mmcv" --dest "$wheels" "$mmcv==$(pinned "$mmcv")" >>"$log" 2>&1; then
    install "$wheels"/*.whl
    mmcv_works && return
    echo '      The wheel of mmcv that pip found does not work here, so mmcv is compiled.'
    pip uninstall --yes "$mmcv"
  fi
  compile_mmcv
}

report() {
  "$python" -W ignore - <<'PY'
from importlib import import_module

for name in ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'mmsecvit'):
    print(f'      {name:10} {import_module(name).__version__}')
cuda = import_module('mmcv.ops').get_compiling_cuda_version()
print(f'      mmcv\'s operators are compiled with CUDA: {cuda}')
PY
}

# ---------------------------------------------------------------- the five steps

compgen -G "$VENV/lib/python3*/site-packages/$others.dist-info" >/dev/null &&
  die "$VENV holds the other builds of the toolboxes, and the two share their import names: name another directory with VENV=, or remove this one."

# $PWD is part of the state: the package is installed as a link to this folder.
state=$({ echo "$STACK $PWD"; cat setup.py requirements/*.txt tools/make_env.sh; } | sha256sum)
if [[ $(cat "$VENV/made_from" 2>/dev/null) == "$state" ]]; then
  echo "The environment in $VENV is up to date ($STACK)."
  exit
fi

if ! runs "$python" 'import pip'; then
  base=$(find_python)
  step 1 "Make a virtual environment in $VENV with $("$base" --version) (some seconds)"
  "$base" -m venv "$VENV"
else
  step 1 "Go on with the virtual environment in $VENV"
fi
runs "$python" "$is_supported" || die "$VENV holds $("$python" --version), but $supported is needed: remove it, or name another directory with VENV=."
"$python" -m pip install --quiet --disable-pip-version-check --constraint "$constraints" pip 2>>"$log" || die "$failed"
took

step 2 "Install PyTorch $(pinned torch) (2 to 10 minutes: some 3 GB to download)"
install torch torchvision setuptools wheel ninja psutil opencv-python
# The toolboxes require opencv-python, which needs a desktop's libGL. The headless build, installed over it, does not.
install opencv-python-headless
cuda=$(detect_cuda) || die "$failed"
took

step 3 "Install $mmcv $(pinned "$mmcv") (seconds where there is a wheel, about 10 minutes on 2 cores where it has to be compiled)"
[[ $cuda == no-nvcc ]] && echo "      There is a GPU, but no nvcc of CUDA $("$python" -c 'import torch; print(torch.version.cuda)'): mmcv's operators will be CPU-only, and so detection runs on the CPU."
install_mmcv
took

step 4 'Install the toolboxes, this package, and the packages of the demo and the tests (a minute or two)'
install --no-build-isolation --editable ".[$STACK,demo,export,test]"
compile_modules
took

step 5 'Check that all of it can be imported (some seconds)'
report || die 'the environment is incomplete: see above.'
took

rm -rf "$VENV/build"
echo "$state" >"$VENV/made_from"
echo "The environment in $VENV is ready ($STACK)."
