# syntax=docker/dockerfile:1
# Synthesis runs: environments from tables and from teachers.
# Give BASE a digest (python:3.11.13-slim-bookworm@sha256:...) to pin the very bytes.
ARG BASE=python:3.11.13-slim-bookworm
FROM ${BASE}
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# The whole distribution, with the extras that images/synth.txt names.
COPY . /build
RUN cd /build && sed 's#^astra-farm\(\[.*\]\)#.\1#' images/synth.txt > /tmp/requirements.txt \
    && pip install --constraint requirements/lock.txt --requirement /tmp/requirements.txt && rm -rf /build /tmp/*
USER 65532:65532
WORKDIR /tmp
CMD ["python", "-m", "astra_synth.cluster_run"]
