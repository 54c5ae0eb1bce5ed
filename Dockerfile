# The appliance as one image. Targets: `appliance` (default, everything) and `ci` (no Prometheus, no Grafana).
# Layers go from what changes least to what changes most, so that a change of code rebuilds in seconds.
# `make image` adds the digests of images.lock to these, and the version.
ARG DEBIAN_TAG=trixie-slim
ARG PROMETHEUS_TAG=v3.13.4
ARG GRAFANA_TAG=12.4.14-ubuntu

FROM prom/prometheus:${PROMETHEUS_TAG} AS prometheus
# Grafana's default tag is Alpine: its programs are linked against musl and do not run on Debian.
FROM grafana/grafana:${GRAFANA_TAG} AS grafana

FROM debian:${DEBIAN_TAG} AS python
# HAProxy is what Compose puts in front of several copies of the service; LightGBM brings no OpenMP of its own.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates haproxy libgomp1 make python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log
ENV PATH=/opt/venv/bin:$PATH:/usr/share/grafana/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

# Its release by the checksum in this repository, or Debian's package where that cannot be reached.
FROM python AS alertmanager
COPY appliance/binaries.py appliance/checksums.txt /build/appliance/
RUN cd /build && python3 -m appliance.binaries alertmanager && install -d /out/usr/local/bin \
    && if [ -x .runtime/alertmanager/alertmanager ]; then cp .runtime/alertmanager/alertmanager /out/usr/local/bin/; \
    else apt-get update && apt-get install -y --no-install-recommends prometheus-alertmanager \
        && cp /usr/bin/prometheus-alertmanager /out/usr/local/bin/alertmanager \
        && cp -r --parents /usr/share/prometheus/alertmanager /out/; fi

FROM python AS dependencies
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv
COPY requirements.lock /build/
# uv does what pip does here in a quarter of the time; neither stays in the image. Nor does what no program here runs:
# the packages' own test suites (170 MB), Arrow's RPC (30 MB), and all services of AWS but S3 and its logins (25 MB).
RUN --mount=type=cache,target=/root/.cache \
    python3 -m venv --without-pip /opt/venv \
    && python3 -m venv /build/uv && /build/uv/bin/pip install -q uv \
    && VIRTUAL_ENV=/opt/venv UV_LINK_MODE=copy /build/uv/bin/uv pip sync -q --require-hashes /build/requirements.lock \
    && cd /opt/venv/lib/python3*/site-packages \
    && find dask distributed matplotlib networkx numpy pandas pyarrow scipy sklearn skops -type d -name tests -prune \
        -exec rm -r {} + \
    && rm -rf onnx/backend/test tornado/test pyarrow/include pyarrow/src pyarrow/*flight* \
    && find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name sts ! -name 'sso*' -exec rm -r {} + \
    && python3 -m compileall -q -j 0 .

# An empty registry with MLflow's schema: migrating one takes longer than everything else at a first start.
FROM dependencies AS registry
WORKDIR /app
COPY tableloop tableloop
COPY data/table.yaml data/
COPY pipeline pipeline
COPY monitoring monitoring
COPY appliance appliance
RUN python -m appliance.prepare --template

# What is shipped, trained: a first start restores it instead of training it again.
FROM registry AS trained
COPY requirements.lock dvc.yaml dvc.lock params.yaml .dvcignore /app/
COPY .dvc/config .dvc/
COPY data/feedback data/feedback
COPY data/raw data/raw
RUN python -m pipeline.pretrain

FROM python AS runtime
COPY --from=dependencies /opt/venv /opt/venv
# Any user id can run it: what must be writable belongs to group 0, as `docker run --user 12345:0` has it.
RUN useradd --uid 10001 --gid 0 --no-create-home --home-dir /data --shell /usr/sbin/nologin appliance \
    && install -d -o 10001 -g 0 -m 2775 /data \
    # uv leaves a file that anybody can write; and no program here may give its user the rights of another.
    && rm -f /opt/venv/.lock \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
ENV STATE_DIR=/data BIND_ADDRESS=0.0.0.0 HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /app
# The same once more, for whoever sets one of them to nothing: that means the default.
RUN printf 'STATE_DIR=/data\nBIND_ADDRESS=0.0.0.0\n' >.env
USER 10001:0
VOLUME /data
EXPOSE 8000 5002 9090 3000
# A question gives up after 3 s, long before this check does, so it is the check that says what is ill.
HEALTHCHECK --interval=8s --timeout=7s --start-period=120s --retries=2 CMD ["python", "-m", "monitoring.health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/app/entrypoint.sh"]

FROM python AS commit
ARG GIT_COMMIT=
RUN echo "$GIT_COMMIT" >/COMMIT

FROM python AS code
COPY . /app/
COPY --from=registry /app/.runtime/mlflow.db /app/.runtime/
COPY --from=commit /COMMIT /app/
# Whatever the umask of the checkout was: the user of the appliance reads its code and cannot write it.
RUN chmod -R u=rwX,go=rX /app

# For tests of what talks to the service: `docker run -e TEST_MODE=1` starts in seconds, without models.
FROM runtime AS ci
COPY --from=code /app /app/

FROM runtime AS appliance
COPY --from=prometheus /bin/prometheus /usr/local/bin/
COPY --from=alertmanager /out /
COPY --from=grafana /usr/share/grafana /usr/share/grafana
ARG GIT_COMMIT=
ARG VERSION=
LABEL org.opencontainers.image.title="Tableloop" \
      org.opencontainers.image.description="A monitored prediction service that retrains itself, shipped with California house prices" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${GIT_COMMIT}"
COPY --from=code /app /app/
COPY --from=trained /app/.runtime/pretrained /app/.runtime/pretrained
