#!/usr/bin/env bash
# Makes .venv with the tested versions of everything (constraints.txt), and sees to it that MuJoCo can draw.
# Run it as `make setup`; a second run does nothing until pyproject.toml, constraints.txt or this file changes.
#
#   PYTHON=/path/to/python make setup    choose the Python
#   FATHOM_TORCH=system make setup       keep the torch that this Python already has (a GPU machine's own build)
#
# Exit codes: 0 done; 1 pip failed; 2 something is missing that you must install, and the message says what.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

torch=${FATHOM_TORCH:-pinned}
venv=.venv
stamp=$venv/fathom-setup

say() { printf 'setup: %s\n' "$*"; }
give_up() {
    printf 'setup: %s\n' "$*" >&2
    exit 2
}

[[ $torch == pinned || $torch == system ]] || give_up "FATHOM_TORCH is '$torch': it can be 'pinned' (the default) or 'system'."

# The place is part of the key because a virtual environment cannot be moved.
key=$({ echo "$PWD $torch ${PYTHON:-}"; cat pyproject.toml constraints.txt scripts/setup.sh; } | sha256sum | cut -d' ' -f1)
if [[ -x $venv/bin/python && -f $stamp && $(<"$stamp") == "$key" ]]; then
    exit 0
fi

# ---------------------------------------------------------------- system packages, where we may install them

may_apt() {
    command -v apt-get >/dev/null && { [[ $(id -u) == 0 ]] || sudo -n true 2>/dev/null; }
}

apt_install() {
    local as_root=()
    [[ $(id -u) == 0 ]] || as_root=(sudo -n)
    say "installing $* with apt-get"
    "${as_root[@]}" apt-get update -qq </dev/null &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null
}

# ---------------------------------------------------------------- a Python

# Prints nothing if this Python will do, else why it will not.
shortcoming() {
    "$1" - "$torch" 2>/dev/null <<'PY' || echo "does not run"
import importlib.util, sys
version = "is %d.%d" % sys.version_info[:2]
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    print(version + ", and the tested packages are for 3.11 to 3.13")
elif sys.argv[1] == "system" and importlib.util.find_spec("torch") is None:
    print("has no torch of its own")
elif importlib.util.find_spec("ensurepip") is None:
    print("lacks the venv module")
PY
}

find_python() {
    local candidate path reason
    python='' findings=''
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
        if ! path=$(command -v "$candidate"); then
            [[ -z ${PYTHON:-} ]] || findings="; there is no $PYTHON"
            continue
        fi
        reason=$(shortcoming "$path")
        if [[ -z $reason ]]; then
            python=$path
            return 0
        fi
        findings+="; $path $reason"
    done
    return 1
}

if ! find_python && [[ $findings == *"lacks the venv module"* ]] && may_apt; then
    apt_install python3-venv && find_python || true
fi
[[ -n $python ]] || give_up "no Python that will do${findings:-; none was found}. Install Python 3.11 or later with its venv module" \
    "(Debian, Ubuntu: apt-get install python3 python3-venv), or name one: PYTHON=/path/to/python make setup."

# ---------------------------------------------------------------- the virtual environment

[[ $torch == system ]] && sees_system=true || sees_system=false
if ! grep -qs "^include-system-site-packages = $sees_system" "$venv/pyvenv.cfg" ||
    ! "$venv/bin/python" -c '' 2>/dev/null ||
    ! head -n 1 "$venv/bin/pip" 2>/dev/null | grep -qF "$PWD/$venv/"; then
    say "making $venv with $python"
    options=(--clear)
    [[ $torch == system ]] && options+=(--system-site-packages)
    "$python" -m venv "${options[@]}" "$venv"
fi
rm -f "$stamp"

# ---------------------------------------------------------------- packages

# One pip call with torch first: a second call, or one without the pins, may replace torch by another build.
constraints=constraints.txt
if [[ $torch == system ]]; then
    # Pin torch to the very build at hand. pip then has nothing to replace it with, and stops if something asks for
    # another one. What that build needs of its own (CUDA, triton) it pins itself.
    version=$("$venv/bin/python" -c 'from importlib.metadata import version; print(version("torch"))')
    constraints=$venv/constraints-system-torch.txt
    sed "s/^torch==.*/torch==$version/" constraints.txt >"$constraints"
    say "keeping this machine's torch $version"
fi
say "installing packages (a few minutes the first time)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile \
    --constraint "$constraints" torch --editable '.[sim,libero,dev]' &&
    # What these ask for conflicts with much, and is not needed to simulate.
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile --no-deps \
        --constraint "$constraints" hf-libero robosuite bddl || {
    printf 'setup: pip could not install the packages; its message stands above.\n' >&2
    exit 1
}

# ---------------------------------------------------------------- OpenGL without a screen

draws() { backend=$("$venv/bin/python" -m fathom.opengl 2>"$venv/opengl.log"); }

if ! draws && may_apt; then
    # EGL alone is enough; OSMesa, which newer distributions no longer carry, is the second choice.
    { apt_install libegl1 libgl1-mesa-dri && draws; } || { apt_install libosmesa6 && draws; } || true
fi
if [[ -z ${backend:-} ]]; then
    sed 's/^/setup: /' "$venv/opengl.log" >&2
    give_up "MuJoCo finds no OpenGL to draw with. Run:  sudo apt-get install -y libegl1 libgl1-mesa-dri libosmesa6"
fi

echo "$key" >"$stamp"
say "done: $("$venv/bin/python" --version) in $venv, MuJoCo draws with $backend"
