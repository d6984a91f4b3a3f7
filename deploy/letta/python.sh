#!/usr/bin/env bash
# Prints a Python that Letta 0.16.8 supports: EARSHOT_LETTA_PYTHON, or the first of 3.11, 3.12, 3.13 that is found.
set -euo pipefail
for candidate in ${EARSHOT_LETTA_PYTHON:+"$EARSHOT_LETTA_PYTHON"} python3 python3.11 python3.12 python3.13; do
  if command -v "$candidate" >/dev/null &&
    "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
    command -v "$candidate"
    exit 0
  fi
done
echo "letta: needs Python 3.11, 3.12 or 3.13 (not $(python3 -V 2>&1)); set EARSHOT_LETTA_PYTHON" >&2
exit 1
