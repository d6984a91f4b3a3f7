#!/usr/bin/env bash
# Runs a command beside a fresh Letta server and a fake model (LETTA_BASE_URL, EARSHOT_FAKE_MODEL_URL), then ends
# and deletes both: ./run-tests.sh .venv/bin/pytest -m letta
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$("$here/python.sh")
exec "$python" "$here/letta_server.py" run -- "$@"
