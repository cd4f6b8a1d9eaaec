# Builds Oarlock and puts it alone into a small image. Not for GPUs: there NVIDIA's container toolkit and the libraries of
# `oarlock runtime install --cuda` are needed (docs/gpu.md).
#
#   docker build -t oarlock .
#   docker run --rm oarlock demo --out /tmp/demo
#   docker run -p 11112:11112 -v oarlock:/var/lib/oarlock -v ./service.yaml:/etc/oarlock/service.yaml:ro oarlock
FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
RUN cargo build --release --locked --bin oarlock
# The network's library, fetched once and checked by its SHA-256, so that the image needs no network.
RUN XDG_DATA_HOME=/share target/release/oarlock runtime install

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 11112 --no-create-home --home-dir /var/lib/oarlock oarlock && install -d -o oarlock -m 0700 /var/lib/oarlock
COPY --from=build /build/target/release/oarlock /usr/local/bin/oarlock
COPY --from=build /share /usr/local/share/oarlock-home
ENV XDG_DATA_HOME=/usr/local/share/oarlock-home ORT_DISABLE_TELEMETRY=1
USER oarlock
VOLUME /var/lib/oarlock
EXPOSE 11112
STOPSIGNAL SIGTERM
ENTRYPOINT ["oarlock"]
CMD ["serve", "--offline", "--config", "/etc/oarlock/service.yaml", "--data-dir", "/var/lib/oarlock"]
