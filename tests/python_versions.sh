#!/usr/bin/env bash
# Each Python that the package is for: a new virtual environment with all extras that can be installed there, then train, save,
# load and predict. `tests/python_versions.sh` takes the interpreters that it finds, `tests/python_versions.sh python3.12` one.
set -uo pipefail
cd "$(dirname "$0")/.."
unset PYTHONPATH
pythons=("$@")
if ((!$#)); then
  for version in 3.10 3.11 3.12 3.13; do
    found=$(command -v "python$version" || ls ~/.pyenv/versions/"$version".*/bin/python 2>/dev/null | tail -1)
    [[ -n $found ]] && pythons+=("$found")
  done
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export OMP_NUM_THREADS=1 SDL_VIDEODRIVER=dummy PIP_DISABLE_PIP_VERSION_CHECK=1
passed=0 failed=0

try() {
  "$1" -m venv "$folder/venv" && PATH=$folder/venv/bin:$PATH || return 1
  pip install -qq --no-compile torch==2.13.0 && pip install -qq --no-compile . || return 1
  for extra in mujoco box2d minari parquet hdf5 plots search ray; do
    if pip install -qq --no-compile ".[$extra]" >"$folder/pip.log" 2>&1; then
      installed+=" $extra"
    else
      echo "extra $extra: $(grep -m1 ERROR "$folder/pip.log")"
    fi
  done
  # From elsewhere: the installed package is tried, not this folder.
  cp tests/smoke.py "$folder" && cd "$folder" && python smoke.py && sb3-pg-extras --version || return 1
  sb3-pg-extras train --algo reinforce --env CartPole-v1 -n 300 --eval-freq -1 -f logs >train.log 2>&1 || { tail -20 train.log; return 1; }
}

for python in "${pythons[@]}"; do
  echo "== $("$python" --version)"
  if (installed="" && try "$python" && echo "installed:$installed"); then ((passed++)); else ((failed++)); fi
  rm -rf "$folder"/*
done
echo "$passed passed, $failed failed"
((passed && !failed))
