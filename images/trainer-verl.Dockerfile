# syntax=docker/dockerfile:1
# Trainers with engine verl: Ray, vLLM and CUDA 13 from requirements/verl-gpu.txt. As a node of a Ray cluster too.
# Give FLASH_ATTN the address of a wheel of flash-attn for that torch: without one, runs need `verl.packing: false`.
# Give BASE a digest (python:3.11.13-slim-bookworm@sha256:...) to pin the very bytes.
ARG BASE=python:3.11.13-slim-bookworm
FROM ${BASE}
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# Whose caches of compiled kernels they are: the user below has no name that could be looked up.
ENV USER=trainer
# A compiler for Triton's kernels; wget for KubeRay's probes. KubeRay finds `ray` on the PATH of any shell.
RUN apt-get update && apt-get install -y --no-install-recommends g++ libc6-dev wget && rm -rf /var/lib/apt/lists/*
COPY requirements/verl-gpu.txt /build/
RUN pip install --no-deps --requirement /build/verl-gpu.txt
ARG FLASH_ATTN=
RUN if [ -n "$FLASH_ATTN" ]; then pip install --no-deps "$FLASH_ATTN"; fi
# The whole distribution: what it needs is above.
COPY . /build
RUN pip install --no-deps --no-build-isolation /build && rm -rf /build /tmp/*
USER 65532:65532
WORKDIR /tmp
CMD ["python", "-m", "astra_trainer.cluster_run"]
