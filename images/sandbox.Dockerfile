# syntax=docker/dockerfile:1
# The sandbox server: no machine learning, no Kubernetes client, no other part of astra-farm.
# Give BASE a digest (python:3.11.13-slim-bookworm@sha256:...) to pin the very bytes.
ARG BASE=python:3.11.13-slim-bookworm
FROM ${BASE}
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update && apt-get install -y --no-install-recommends libseccomp2 && rm -rf /var/lib/apt/lists/*
COPY requirements/lock.txt images/sandbox.txt /build/
RUN pip install --constraint /build/lock.txt --requirement /build/sandbox.txt && rm -rf /build
COPY proto/astra_api /usr/local/lib/python3.11/site-packages/astra_api
COPY sandbox_service/astra_sandbox /usr/local/lib/python3.11/site-packages/astra_sandbox
RUN mkdir /usr/local/lib/astra && python -c "from pathlib import Path; from astra_sandbox.server.library import write_library; \
    write_library(Path('/usr/local/lib/astra/python.zip'))"
USER 65532:65532
WORKDIR /tmp
EXPOSE 50051
CMD ["python", "-m", "astra_sandbox", "--help"]
