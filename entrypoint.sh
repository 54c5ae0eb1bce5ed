#!/usr/bin/env bash
# Starts the appliance and stays its parent; or, with the name of a program, waits for what that program
# needs and becomes it (supervisord.conf and Compose use these); or becomes any other command.
set -euo pipefail
unset CDPATH
cd "$(dirname "${BASH_SOURCE[0]}")"
ROOT=$PWD
umask 077  # what is kept is its user's alone

if [ "${APPLIANCE_ROOT:-}" != "$ROOT" ]; then
    if [[ $ROOT == *:* ]]; then
        echo "the checkout's path $ROOT has a colon, at which PATH would be cut: move the checkout" >&2
        exit 1
    fi
    PATH=$ROOT/.venv/bin:$ROOT/.runtime/prometheus:$ROOT/.runtime/alertmanager:$ROOT/.runtime/grafana/bin:$PATH
    command -v python >/dev/null || { echo "there is no python: run make setup, which makes one in .venv" >&2; exit 1; }
    environment=$(python -E -m tableloop.environment "$@")
    eval "$environment"
    export APPLIANCE_ROOT=$ROOT

    # MLflow without a network, a job runner or long retries: server and clients.
    export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_MODEL_CATALOG_URI='' MLFLOW_ENABLE_AI_GATEWAY=false
    export MLFLOW_UV_AUTO_DETECT=false MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK=true
    export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR=false
    export MLFLOW_HTTP_REQUEST_MAX_RETRIES=1 MLFLOW_HTTP_REQUEST_TIMEOUT=5
    export MPLCONFIGDIR=${MPLCONFIGDIR:-$ROOT/.runtime/matplotlib}  # matplotlib's list of fonts; else it is in HOME
    export GIT_PYTHON_REFRESH=quiet  # the image has no git

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
    export GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH=$STATE_DIR/run/dashboards/overview.json
fi

# Compose starts what is not there too, and would go on starting it after any exit code but 0.
missing() {
    echo "$1 is not here; the other services run without it" >&2
    exit 0
}

# Whoever reaches a port of Dask runs what they like in these processes, and sees their environment.
WITHOUT_SECRETS=(env -u DATABASE_URL -u ADMIN_PASSWORD -u API_KEYS -u MLFLOW_TRACKING_PASSWORD -u ALERT_WEBHOOK_URL
    -u ALERT_SMTP_PASSWORD)

# For programs that have no use for the database and for object storage.
without_logins() { unset DATABASE_URL "${!AWS_@}"; }

# In a cluster each program has a disk of its own, which may be empty, and makes it ready for itself.
prepare_role() {
    [ -n "$ARTIFACTS_URI" ] && [ -z "${PREPARED:-}" ] || return 0
    python -m appliance.prepare_role "$1"
    unset ADMIN_PASSWORD ALERT_WEBHOOK_URL ALERT_SMTP_PASSWORD  # they are in files now
}

is_here() { command -v "$1" >/dev/null && echo true || echo false; }

appliance() {
    local started=${EPOCHREALTIME:-$SECONDS} child='' stopping='' status=0
    export STARTED_AT=${started/,/.}
    trap 'stopping=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true' TERM INT
    trap '' HUP  # supervisord would start everything anew

    # Held by this process and supervisord as long as either lives; prepare takes it on descriptor 9.
    mkdir -p "$STATE_DIR/run" 2>/dev/null || true
    if [ -z "${PREPARED:-}" ]; then  # else it is held already, and opening it again would let it go
        { exec 9>>"$STATE_DIR/run/lock"; } 2>/dev/null || true
        python -m appliance.prepare
    fi
    export PREPARED=1  # no program of this appliance has to do it again
    if [ -n "${ADMIN_PASSWORD:-}${ALERT_WEBHOOK_URL:-}${ALERT_SMTP_PASSWORD:-}" ]; then
        # They are in files now; once more, so that no environment has them.
        exec env -u ADMIN_PASSWORD -u ALERT_WEBHOOK_URL -u ALERT_SMTP_PASSWORD "$ROOT/entrypoint.sh"
    fi
    [ -z "$stopping" ] || exit 0
    echo $$ >"$STATE_DIR/run/pid"
    export RUN_MLFLOW=true RUN_PROMETHEUS RUN_ALERTMANAGER RUN_GRAFANA  # what supervisord.conf starts
    [ "$TEST_MODE" = off ] || RUN_MLFLOW=false
    RUN_PROMETHEUS=$(is_here prometheus) RUN_GRAFANA=$(is_here grafana) RUN_ALERTMANAGER=false
    [ ! -f "$STATE_DIR/run/alertmanager.yml" ] || RUN_ALERTMANAGER=$(is_here alertmanager)
    [ ! -S /dev/fd/1 ] || exec > >(exec cat)  # supervisord opens its output by name, a socket has none

    local errors=$STATE_DIR/run/supervisord.errors
    python -m supervisor.supervisord --nodaemon --configuration supervisord.conf 2>"$errors" &
    child=$!
    [ -z "$stopping" ] || kill -TERM "$child"
    while kill -0 "$child" 2>/dev/null; do
        status=0
        wait "$child" || status=$?
    done
    [ ! -w "${CONSOLE:-}" ] || exec >>"$CONSOLE" 2>&1  # the file of before may have been removed
    if [ ! -e "$STATE_DIR/run/lock" ]; then
        echo "STATE_DIR=$STATE_DIR was removed while the appliance ran: it has ended" >&2
        exit 1
    fi
    rm -f "$STATE_DIR/run/ready" "$STATE_DIR/run/pid"
    if [ -s "$STATE_DIR/run/failed" ]; then
        cat "$STATE_DIR/run/failed" >&2
        exit 1
    fi
    [ -n "$stopping" ] || [ "$status" = 0 ] || {
        echo "supervisord ended with status $status: $(sed -n 's/^Error: //p' "$errors" | head -n 1)" >&2
        exit 1
    }
}

case ${1:-} in
    '')
        appliance
        ;;
    mlflow)
        [ "$TEST_MODE" = off ] || missing MLflow
        prepare_role mlflow
        exec python -m appliance.mlflow_server
        ;;
    bootstrap)
        [ "$TEST_MODE" = off ] || exit 0
        prepare_role bootstrap
        exec python -m pipeline.retrain --unless-registered
        ;;
    api)
        prepare_role api
        unset "${!AWS_@}"  # its model comes through MLflow
        export OMP_NUM_THREADS=1  # rows are few: threads that wait for the next ones would cost more than they do
        exec python -m app.main  # starts without a model, answers 503 until there is one
        ;;
    front)
        without_logins
        prepare_role front
        python -m appliance.copies haproxy <haproxy.cfg >"$STATE_DIR/run/haproxy.cfg"
        haproxy -W -q -db -f "$STATE_DIR/run/haproxy.cfg" &
        front=$!
        trap 'kill -USR1 "$front" 2>/dev/null || true' TERM INT  # by TERM it would cut off what it is answering
        status=0
        while kill -0 "$front" 2>/dev/null; do
            status=0
            wait "$front" || status=$?
        done
        exit "$status"
        ;;
    drift-monitor)
        prepare_role drift-monitor
        exec python -m monitoring.drift_monitor
        ;;
    dask-scheduler)
        shift
        exec "${WITHOUT_SECRETS[@]}" python -m distributed.cli.dask_scheduler --host "$BIND_ADDRESS" --port 8786 \
            --no-dashboard --dashboard-address 127.0.0.1:0 "$@"
        ;;
    dask-worker)
        shift
        [ -n "$DASK_SCHEDULER" ] || { echo "DASK_SCHEDULER is not set: a worker needs its scheduler" >&2; exit 1; }
        export OMP_NUM_THREADS=1  # as in a training on one machine, for the same digits
        resources=$(python -m pipeline.code_identity)
        exec "${WITHOUT_SECRETS[@]}" python -m distributed.cli.dask_worker "$DASK_SCHEDULER" --host "$BIND_ADDRESS" \
            --nthreads 1 --resources "$resources" --preload pipeline.dask_worker --no-dashboard \
            --dashboard-address 127.0.0.1:0 --local-directory "${TMPDIR:-/tmp}" --death-timeout 60 "$@"
        ;;
    prometheus)
        without_logins
        binary=$(command -v prometheus) || missing Prometheus
        prepare_role prometheus
        api="static_configs: [{targets: ['$OWN_HOST:$API_PORT']}]"
        [ -z "${API_HOST:-}" ] || api=$(python -m appliance.copies prometheus)
        alertmanager=$(cat "$STATE_DIR/run/alertmanager.address" 2>/dev/null || true)
        sed "s|API_SCHEME|http${TLS_CERT:+s}|; s|API_TARGETS|$api|; s|PROMETHEUS_ADDRESS|$OWN_HOST:$PROMETHEUS_PORT|;
            s|ALERTMANAGERS|$alertmanager|" \
            monitoring/prometheus/prometheus.yml >"$STATE_DIR/run/prometheus.yml"
        cp monitoring/prometheus/rules.yml "$STATE_DIR/run/rules.yml"
        set -- --config.file=prometheus.yml "--storage.tsdb.path=$STATE_DIR/prometheus" \
            --storage.tsdb.retention.time=30d --storage.tsdb.retention.size=1GB \
            --web.cors.origin=none --log.level=warn
        assets=$(dirname "$(readlink -f "$binary")")/web  # Debian's build reads its pages from files
        [ ! -d "$assets" ] || set -- "$@" "--web.local-assets=$assets"
        exec python -m monitoring.prometheus_front "$binary" "$@"
        ;;
    alertmanager)
        without_logins
        prepare_role alertmanager
        [ -f "$STATE_DIR/run/alertmanager.yml" ] || exit 0  # alerts go nowhere
        binary=$(command -v alertmanager) || missing Alertmanager
        # An empty cluster address: else it listens for others of its kind. Messages link to the page.
        page=${PUBLIC_URL:-http${TLS_CERT:+s}://localhost:$API_PORT}
        exec "$binary" "--config.file=$STATE_DIR/run/alertmanager.yml" "--storage.path=$STATE_DIR/alertmanager" \
            "--web.listen-address=$(cat "$STATE_DIR/run/alertmanager.address")" "--web.external-url=$page" \
            --web.route-prefix=/ --cluster.listen-address= --log.level=warn
        ;;
    grafana)
        without_logins
        binary=$(command -v grafana) || missing Grafana
        prepare_role grafana
        # Where the archive, Homebrew and the packages of distributions keep what comes with it.
        prefix=$(dirname "$(dirname "$(readlink -f "$binary")")")
        for home in "$prefix" "$prefix/share/grafana" /usr/share/grafana; do
            [ ! -f "$home/conf/defaults.ini" ] || break
        done
        [ ! -x "$home/bin/grafana" ] || binary=$home/bin/grafana  # on PATH there may be a script with settings of its own
        # Grafana reads the file when it makes its database, and has to be told of a later password. In its environment
        # there is only the path.
        password=$STATE_DIR/secrets/admin-password told=$STATE_DIR/secrets/grafana-password
        if [ -f "$STATE_DIR/grafana/grafana.db" ] && ! cmp -s "$password" "$told"; then
            "$binary" cli --homepath "$home" --config "$ROOT/monitoring/grafana/grafana.ini" \
                admin reset-admin-password --password-from-stdin <"$password" >/dev/null ||
                echo "Grafana has not taken the new password of admin: it still has the former one" >&2
        fi
        cp "$password" "$told"
        export GF_SECURITY_ADMIN_USER=admin GF_SECURITY_ADMIN_PASSWORD="\$__file{$password}"
        export PROMETHEUS_URL=${PROMETHEUS_URL:-http://$OWN_HOST:$PROMETHEUS_PORT} DASHBOARDS=$STATE_DIR/run/dashboards
        exec "$binary" server --homepath "$home" --config "$ROOT/monitoring/grafana/grafana.ini"
        ;;
    *)
        [[ "$*" != "python -m pipeline."* ]] || prepare_role job
        exec "$@"
        ;;
esac
