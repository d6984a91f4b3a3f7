#!/usr/bin/env bash
# Ends exactly what start.sh started: ./stop.sh [--instance NAME] [--delete]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$("$here/python.sh")
exec "$python" "$here/letta_server.py" stop "$@"
