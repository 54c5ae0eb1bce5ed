#!/usr/bin/env bash
# Starts the appliance and stays its parent; or, with the name of a program, waits for what that program
# needs and becomes it (supervisord.conf and Compose use these); or becomes any other command.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
ROOT=$PWD

if [ -z "${APPLIANCE_ROOT:-}" ]; then
    PATH=$ROOT/.venv/bin:$PATH:$ROOT/.runtime/prometheus:$ROOT/.runtime/grafana/bin
    settings=$(python -m tableloop.settings)
    eval "$settings"
    export APPLIANCE_ROOT=$ROOT PYTHONUNBUFFERED=1

    # MLflow without a network, a job runner or long retries: server and clients.
    export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_MODEL_CATALOG_URI='' MLFLOW_ENABLE_AI_GATEWAY=false
    export MLFLOW_UV_AUTO_DETECT=false MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK=true
    export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR=false
    export MLFLOW_HTTP_REQUEST_MAX_RETRIES=1 MLFLOW_HTTP_REQUEST_TIMEOUT=5
    export MPLCONFIGDIR=${MPLCONFIGDIR:-$ROOT/.runtime/matplotlib}  # matplotlib's list of fonts; else it is in HOME
    export DVC_NO_ANALYTICS=1 GIT_PYTHON_REFRESH=quiet  # the image has no git

    # Grafana without a network: no reports, no updates, no plugins from elsewhere.
    export GF_ANALYTICS_REPORTING_ENABLED=false GF_ANALYTICS_CHECK_FOR_UPDATES=false
    export GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES=false GF_PLUGINS_PREINSTALL_DISABLED=true
    export GF_PLUGINS_PREINSTALL_AUTO_UPDATE=false GF_PLUGINS_PLUGIN_ADMIN_ENABLED=false
    export GF_PLUGINS_PUBLIC_KEY_RETRIEVAL_DISABLED=true GF_NEWS_NEWS_FEED_ENABLED=false
    export GF_SNAPSHOTS_EXTERNAL_ENABLED=false GF_SECURITY_DISABLE_GRAVATAR=true
    # Everyone who reaches it may look; changing something needs the login.
    export GF_AUTH_ANONYMOUS_ENABLED=true GF_AUTH_ANONYMOUS_ORG_ROLE=Viewer
    export GF_SERVER_HTTP_ADDR=$BIND_ADDRESS GF_SERVER_HTTP_PORT=$GRAFANA_PORT
    export GF_PATHS_DATA=$STATE_DIR/grafana GF_PATHS_LOGS=$STATE_DIR/logs GF_PATHS_PLUGINS=$STATE_DIR/grafana/plugins
    export GF_PATHS_PROVISIONING=$ROOT/monitoring/grafana/provisioning GF_LOG_MODE=console GF_LOG_LEVEL=warn
    export GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH=$ROOT/monitoring/grafana/dashboards/overview.json
fi

# Compose starts what is not there too, and would go on starting it after any exit code but 0.
missing() {
    echo "$1 is not here; the other services run without it" >&2
    exit 0
}

is_here() { command -v "$1" >/dev/null && echo true || echo false; }

appliance() {
    local started=${EPOCHREALTIME:-$SECONDS} child='' stopping='' status=0
    export STARTED_AT=${started/,/.}
    trap 'stopping=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true' TERM INT
    trap '' HUP  # supervisord would start everything anew

    # Held by this process and supervisord as long as either lives; prepare takes it on descriptor 9.
    mkdir -p "$STATE_DIR/run" 2>/dev/null || true
    { exec 9>>"$STATE_DIR/run/lock"; } 2>/dev/null || true
    python -m appliance.prepare
    [ -z "$stopping" ] || exit 0
    echo $$ >"$STATE_DIR/run/pid"
    export RUN_MLFLOW=true RUN_PROMETHEUS RUN_GRAFANA  # what supervisord.conf starts
    [ "$TEST_MODE" = off ] || RUN_MLFLOW=false
    RUN_PROMETHEUS=$(is_here prometheus) RUN_GRAFANA=$(is_here grafana)
    [ ! -S /dev/fd/1 ] || exec > >(exec cat)  # supervisord opens its output by name, a socket has none

    python -m supervisor.supervisord --nodaemon --configuration supervisord.conf &
    child=$!
    [ -z "$stopping" ] || kill -TERM "$child"
    while kill -0 "$child" 2>/dev/null; do
        status=0
        wait "$child" || status=$?
    done
    rm -f "$STATE_DIR/run/ready" "$STATE_DIR/run/pid"
    if [ -s "$STATE_DIR/run/failed" ]; then
        cat "$STATE_DIR/run/failed" >&2
        exit 1
    fi
    [ -n "$stopping" ] || [ "$status" = 0 ] || { echo "supervisord ended with status $status" >&2; exit 1; }
}

case ${1:-} in
    '')
        appliance
        ;;
    mlflow)
        [ "$TEST_MODE" = off ] || missing MLflow
        exec python -m appliance.mlflow_server
        ;;
    bootstrap)
        [ "$TEST_MODE" = off ] || exit 0
        exec python -m pipeline.retrain --unless-registered
        ;;
    api)
        export OMP_NUM_THREADS=1  # rows are few: threads that wait for the next ones would cost more than they do
        exec python -m app.main  # starts without a model, answers 503 until there is one
        ;;
    front)
        exec haproxy -W -q -db -f haproxy.cfg
        ;;
    drift-monitor)
        exec python -m monitoring.drift_monitor
        ;;
    prometheus)
        binary=$(command -v prometheus) || missing Prometheus
        # In Compose, API_HOST is a name with an address for each copy of the service.
        api="static_configs: [{targets: ['127.0.0.1:$API_PORT']}]"
        [ -z "${API_HOST:-}" ] || api="dns_sd_configs: [{names: ['$API_HOST'], type: A, port: $API_PORT}]"
        sed "s|API_TARGETS|$api|; s|PROMETHEUS_PORT|$PROMETHEUS_PORT|" \
            monitoring/prometheus/prometheus.yml >"$STATE_DIR/run/prometheus.yml"
        cp monitoring/prometheus/rules.yml "$STATE_DIR/run/rules.yml"
        cd "$STATE_DIR/run"  # rule_files are patterns with the directory of the file before them, which may hold a [
        set -- --config.file=prometheus.yml "--storage.tsdb.path=$STATE_DIR/prometheus" \
            --storage.tsdb.retention.time=30d --storage.tsdb.retention.size=1GB \
            "--web.listen-address=$BIND_ADDRESS:$PROMETHEUS_PORT" --log.level=warn
        assets=$(dirname "$(readlink -f "$binary")")/web  # Debian's build reads its pages from files
        [ ! -d "$assets" ] || set -- "$@" "--web.local-assets=$assets"
        exec "$binary" "$@"
        ;;
    grafana)
        binary=$(command -v grafana) || missing Grafana
        home=$(dirname "$(dirname "$(readlink -f "$binary")")")
        [ -d "$home/conf" ] || home=/usr/share/grafana
        if [ -z "${GF_SECURITY_ADMIN_PASSWORD:-}" ]; then  # Grafana takes it when it makes its database
            GF_SECURITY_ADMIN_PASSWORD=$(<"$STATE_DIR/grafana/admin-password")
            export GF_SECURITY_ADMIN_PASSWORD
        fi
        export PROMETHEUS_URL=${PROMETHEUS_URL:-http://127.0.0.1:$PROMETHEUS_PORT} DASHBOARDS=$ROOT/monitoring/grafana/dashboards
        exec "$binary" server --homepath "$home"
        ;;
    *)
        exec "$@"
        ;;
esac
