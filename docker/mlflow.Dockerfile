# The tracking server, with drivers for Postgres and S3; artifacts go through it.
#   docker build -f docker/mlflow.Dockerfile -t loraflow/mlflow .
# Where its database and artifacts lie, and by which names it may be asked, is for its environment to say: MLFLOW_BACKEND_STORE_URI,
# MLFLOW_ARTIFACTS_DESTINATION, MLFLOW_SERVER_ALLOWED_HOSTS (mlflow/README.md).
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG UV_VERSION=0.13.9
# A company's own certificates count, too.
ENV UV_SYSTEM_CERTS=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
RUN python -m pip install --no-cache-dir uv==${UV_VERSION}
WORKDIR /src
COPY pyproject.toml requirements.lock ./
# The extra's packages in the lock's versions; what does not have the lock's hash is refused.
ARG EXTRAS="--extra=mlflow-server"
RUN --mount=type=cache,target=/root/.cache/uv \
    uv venv --python "$(command -v python)" /opt/venv && \
    uv pip install --python /opt/venv --compile-bytecode --constraint requirements.lock --requirements pyproject.toml \
      ${EXTRAS}
COPY mlflow/server.env /opt/loraflow/mlflow.env
ARG COMMIT=unknown
RUN echo "${COMMIT}" >/opt/loraflow/COMMIT

FROM ${BASE}
# tini hands signals on and reaps what dies.
RUN apt-get update && \
    apt-get install -y --no-install-recommends tini && \
    rm -rf /var/lib/apt/lists/* && \
    groupadd --gid 1000 loraflow && \
    useradd --uid 1000 --gid 1000 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin loraflow && \
    install -d -o 1000 -g 1000 /mlflow
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/loraflow /opt/loraflow
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    MLFLOW_BACKEND_STORE_URI=sqlite:////mlflow/mlflow.db \
    MLFLOW_ARTIFACTS_DESTINATION=file:///mlflow/artifacts
WORKDIR /mlflow
USER 1000:1000
EXPOSE 5000
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:5000/health', timeout=4)"]
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["mlflow", "--env-file", "/opt/loraflow/mlflow.env", "server", "--host", "0.0.0.0", "--port", "5000"]
ARG VERSION=0.1.0
ARG COMMIT=unknown
ARG SOURCE=
LABEL org.opencontainers.image.title="loraflow mlflow" \
      org.opencontainers.image.description="MLflow's tracking server and model registry, for loraflow" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.source="${SOURCE}"
