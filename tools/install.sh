#!/bin/sh
# Makes .venv from requirements/dev.lock and puts the two packages into it, editable. Uses uv, and gets it if absent.
set -eu
if command -v uv >/dev/null; then
    uv=uv
    [ -x .venv/bin/python ] || UV_PYTHON_DOWNLOADS=never uv venv -q .venv
else
    [ -x .venv/bin/python ] || python3 -m venv .venv
    [ -x .venv/uv/bin/uv ] || .venv/bin/python -m pip install -q --target .venv/uv uv
    uv=.venv/uv/bin/uv
fi
# Compiled here once: torch alone is seconds of compiling, which a process that may not write would pay at each start.
$uv pip sync -q --compile-bytecode --python .venv/bin/python --require-hashes requirements/dev.lock
$uv pip install -q --python .venv/bin/python --no-deps --editable .
