# The steps: what a pod runs, with torch for a processor or for a GPU.
#   docker build -f docker/steps.Dockerfile -t loraflow/steps:cpu .
#   docker build -f docker/steps.Dockerfile -t loraflow/steps:cuda --build-arg TORCH=cu130 .
# With airflow among the EXTRAS it is also a scheduler whose tasks run as its own processes: compose.yaml does so.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG UV_VERSION=0.13.9
# A company's own certificates count, too.
ENV UV_SYSTEM_CERTS=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
RUN python -m pip install --no-cache-dir uv==${UV_VERSION}
WORKDIR /src
COPY pyproject.toml requirements.lock ./
# The extras' packages in the lock's versions; what does not have the lock's hash is refused. torch alone has none there, since its build
# depends on TORCH: cpu, cu126, cu130, … (uv's name for PyTorch's own index), or empty for whatever index pip and uv are configured with.
# Its CUDA packages are no part of the lock either: the second command installs those that the build requires, outside of the project's
# configuration, which removes them. For a build without CUDA it installs nothing.
ARG EXTRAS="--extra=steps --extra=s3 --extra=dvc-s3 --extra=demo"
ARG TORCH=cpu
ARG TORCH_VERSION=2.13.0
RUN --mount=type=cache,target=/root/.cache/uv \
    uv venv --python "$(command -v python)" /opt/venv && \
    uv pip install --python /opt/venv --compile-bytecode --constraint requirements.lock --requirements pyproject.toml \
      ${TORCH:+--torch-backend=${TORCH}} ${EXTRAS} && \
    uv pip install --project /opt --python /opt/venv --compile-bytecode ${TORCH:+--torch-backend=${TORCH}} torch==${TORCH_VERSION} && \
    /opt/venv/bin/python -c "import torch"
COPY dags /opt/loraflow/dags
COPY tasks /opt/loraflow/tasks
COPY data.dvc /opt/loraflow/
ARG COMMIT=unknown
RUN echo "${COMMIT}" >/opt/loraflow/COMMIT && \
    /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/loraflow

FROM ${BASE}
# git and ssh carry the data versions; tini hands signals on and reaps what dies.
RUN apt-get update && \
    apt-get install -y --no-install-recommends git openssh-client tini && \
    rm -rf /var/lib/apt/lists/* && \
    groupadd --gid 1000 loraflow && \
    useradd --uid 1000 --gid 1000 --no-create-home --home-dir /scratch/home --shell /usr/sbin/nologin loraflow && \
    install -d -o 1000 -g 1000 /opt/airflow /opt/airflow/logs /opt/airflow/login /scratch /scratch/home
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/loraflow /opt/loraflow
COPY docker/airflow.cfg /opt/airflow/
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/loraflow \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/scratch/home \
    AIRFLOW_HOME=/opt/airflow \
    DISABLE_TELEMETRY=1 DO_NOT_TRACK=1 DVC_NO_ANALYTICS=1 GX_ANALYTICS_ENABLED=False HF_HUB_DISABLE_TELEMETRY=1 \
    MLFLOW_DISABLE_TELEMETRY=true SCARF_ANALYTICS=false \
    LORAFLOW_HOME=/scratch
WORKDIR /scratch
USER 1000:1000
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["python", "-m", "tasks", "--help"]
ARG VERSION=0.1.0
ARG COMMIT=unknown
ARG SOURCE=
LABEL org.opencontainers.image.title="loraflow steps" \
      org.opencontainers.image.description="The steps of loraflow: python -m tasks STEP --run PLACE" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.source="${SOURCE}"
