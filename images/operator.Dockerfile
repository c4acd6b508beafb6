# syntax=docker/dockerfile:1
# The operator: the kopf handlers and the sandbox client.
# Give BASE a digest (python:3.11.13-slim-bookworm@sha256:...) to pin the very bytes.
ARG BASE=python:3.11.13-slim-bookworm
FROM ${BASE}
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements/lock.txt images/operator.txt /build/
RUN pip install --constraint /build/lock.txt --requirement /build/operator.txt && rm -rf /build
COPY proto/astra_api /usr/local/lib/python3.11/site-packages/astra_api
COPY sandbox_service/astra_sandbox /usr/local/lib/python3.11/site-packages/astra_sandbox
COPY operator/astra_operator /usr/local/lib/python3.11/site-packages/astra_operator
USER 65532:65532
WORKDIR /tmp
EXPOSE 8080
CMD ["python", "-m", "astra_operator"]
