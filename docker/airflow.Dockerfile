# Airflow's side: API server, scheduler, DAG processor and triggerer, with the DAGs and what these import. No step runs in here.
#   docker build -f docker/airflow.Dockerfile -t loraflow/airflow .
# From a bare Python and the lock rather than from apache/airflow: that image brings a second resolution of the same packages and the
# extras of others. docs/images.md says what Airflow's Helm chart asks of an image, and where this one has it.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG UV_VERSION=0.13.9
# A company's own certificates count, too.
ENV UV_SYSTEM_CERTS=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
RUN python -m pip install --no-cache-dir uv==${UV_VERSION}
WORKDIR /src
COPY pyproject.toml docker/airflow.lock ./
# The extras' packages in the lock's versions; what does not have the lock's hash is refused.
ARG EXTRAS="--extra=airflow --extra=airflow-cluster --extra=kubernetes --extra=s3 --extra=postgres"
RUN --mount=type=cache,target=/root/.cache/uv \
    uv venv --python "$(command -v python)" /opt/venv && \
    uv pip install --python /opt/venv --compile-bytecode --constraint airflow.lock --requirements pyproject.toml \
      ${EXTRAS}
COPY dags /opt/loraflow/dags
COPY tasks /opt/loraflow/tasks
COPY data.dvc /opt/loraflow/
ARG COMMIT=unknown
RUN echo "${COMMIT}" >/opt/loraflow/COMMIT && \
    /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/loraflow

FROM ${BASE}
# tini hands signals on and reaps what dies. Probes of Airflow's Helm chart call /entrypoint.
RUN apt-get update && \
    apt-get install -y --no-install-recommends tini && \
    rm -rf /var/lib/apt/lists/* && \
    ln -s /usr/bin/tini /entrypoint && \
    groupadd --gid 1000 loraflow && \
    useradd --uid 1000 --gid 1000 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin loraflow && \
    install -d -o 1000 -g 1000 /opt/airflow /opt/airflow/logs /opt/airflow/login /var/lib/loraflow
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/loraflow /opt/loraflow
COPY docker/airflow.cfg /opt/airflow/
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/loraflow \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TINI_SUBREAPER=1 \
    HOME=/tmp \
    AIRFLOW_HOME=/opt/airflow \
    DISABLE_TELEMETRY=1 DO_NOT_TRACK=1 SCARF_ANALYTICS=false \
    LORAFLOW_HOME=/var/lib/loraflow
WORKDIR /opt/airflow
USER 1000:1000
EXPOSE 8080
# No HEALTHCHECK: which of Airflow's servers this is, is for the command to say; compose.yaml and the Helm chart check each by its own.
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["airflow", "version"]
ARG VERSION=0.1.0
ARG COMMIT=unknown
ARG SOURCE=
LABEL org.opencontainers.image.title="loraflow airflow" \
      org.opencontainers.image.description="Airflow with loraflow's DAGs, without any step's libraries" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.source="${SOURCE}"
