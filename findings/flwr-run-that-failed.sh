#!/usr/bin/env bash
# flwr run --stream ends with status 0 where the run failed.
#
# Expected: a script or a CI job that starts a run, and waits for it, sees by the exit status whether it failed.
# Seen: the ServerApp raises, the log shows the traceback and exit code 700 of the simulation, flwr list says
# finished:failed, and flwr run has the status 0 of a run that was completed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile "flwr[simulation]==1.41.0" numpy==2.4.6

mkdir -p "$folder/project/app"
touch "$folder/project/app/__init__.py"
cat > "$folder/project/pyproject.toml" <<'END'
[project]
name = "failing"
version = "1.0.0"
dependencies = []

[tool.flwr.app]
publisher = "example"

[tool.flwr.app.components]
serverapp = "app.server:app"
clientapp = "app.client:app"
END
cat > "$folder/project/app/server.py" <<'END'
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    raise ValueError("the ServerApp raised")
END
printf 'from flwr.clientapp import ClientApp\n\napp = ClientApp()\n' > "$folder/project/app/client.py"

export HOME="$folder" FLWR_HOME="$folder/.flwr" PATH="$folder/venv/bin:$PATH" RAY_ADDRESS=local
export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
# It starts a SuperLink in the background, which goes on after it.
trap 'pkill -f "$folder/venv/bin/flower-superlink" || true; sleep 2; rm -rf "$folder"' EXIT

status=0
flwr run "$folder/project" --stream > "$folder/log" 2>&1 || status=$?
listed=$(flwr list --format json | grep -o 'finished:[a-z]*')
flwr --version
grep -E "ValueError|Exit Code" "$folder/log"
echo "flwr list: $listed; exit status of flwr run --stream: $status"
grep -q "ValueError: the ServerApp raised" "$folder/log"
test "$listed" = "finished:failed"
test "$status" = 0
