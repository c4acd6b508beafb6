# syntax=docker/dockerfile:1
# Trainers without a GPU: PyTorch's CPU build, which is far smaller. PIP_EXTRA_INDEX_URL is the index that has it.
# Give BASE a digest (python:3.11.13-slim-bookworm@sha256:...) to pin the very bytes.
ARG BASE=python:3.11.13-slim-bookworm
FROM ${BASE}
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
# The whole distribution, with the extras that images/trainer.txt names.
COPY . /build
RUN cd /build && sed 's#^astra-farm\(\[.*\]\)#.\1#' images/trainer.txt > /tmp/requirements.txt \
    && pip install --constraint requirements/lock.txt --requirement /tmp/requirements.txt && rm -rf /build /tmp/*
USER 65532:65532
WORKDIR /tmp
CMD ["python", "-m", "astra_trainer.cluster_run"]
