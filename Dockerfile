# asyncflow in a container; docs/howto/docker.md says how to run it.
# tests/install/dockerfile_steps.py runs these steps without a container engine.

FROM debian:bookworm-slim AS build
# another package index than the public one: docker build --build-arg PIP_INDEX_URL=…
ARG PIP_INDEX_URL
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/asyncflow
COPY constraints.txt /src/
COPY pyproject.toml README.md LICENSE /src/
COPY asyncflow /src/asyncflow
COPY packaging/monitoring /src/packaging/monitoring
RUN /opt/asyncflow/bin/pip install --no-cache-dir -c /src/constraints.txt /src

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin asyncflow \
    && install -d -m 700 -o asyncflow -g asyncflow /data
COPY --from=build /opt/asyncflow /opt/asyncflow

# The allocator keeps what it will need again in a moment, instead of giving it back for
# each piece of an upload; workers have an environment of their own.
ENV MALLOC_ARENA_MAX=2 \
    MALLOC_MMAP_THRESHOLD_=33554432 \
    MALLOC_TRIM_THRESHOLD_=268435456 \
    MALLOC_TOP_PAD_=16777216
# Whoever reaches the container may use it: it does not start without ASYNCFLOW_TOKEN.
ENV ASYNCFLOW_HOST=0.0.0.0 \
    ASYNCFLOW_PORT=8080 \
    ASYNCFLOW_DATA_DIR=/data \
    ASYNCFLOW_LOG_FORMAT=json \
    PATH=/opt/asyncflow/bin:/usr/local/bin:/usr/bin:/bin
USER asyncflow
WORKDIR /data
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s CMD ["asyncflow", "health"]
# process 1 has to bury orphans, of health checks too; tini does nothing else
ENTRYPOINT ["tini", "--", "asyncflow"]
CMD ["serve"]
