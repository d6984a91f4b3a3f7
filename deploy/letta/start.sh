#!/usr/bin/env bash
# Starts a Letta server on loopback and prints its URL: ./start.sh [--port 8283] [--fake-model] [--instance NAME]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$("$here/python.sh")
exec "$python" "$here/letta_server.py" start "$@"
