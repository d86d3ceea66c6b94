# syntax=docker/dockerfile:1
# vilab and the programs it calls, with the example labs.
#
#   docker build -t vilab .
#   docker run --rm --privileged vilab test /usr/share/vilab/labs/figure-07-headers.yaml
#   docker run --rm --privileged -v "$PWD:/labs" -w /labs vilab test my-lab.yaml
#
# docs/containers.md has Compose and Codespaces. The compiler stays in the first stage: what is kept is Debian's slim image, the
# program, and the programs that labs call.
#
# A lab is made of network, mount and PID namespaces, so the container needs --privileged. Its kernel is the host's, which
# loads ipip and the like when a lab asks for them, if it has these modules; without, labs run on the fast path.

FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
# The caches stay with the builder, so a changed line is not a build from nothing; the program leaves them.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --release && strip --strip-debug -o /usr/local/bin/vilab target/release/vilab

FROM debian:bookworm-slim
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        bind9-dnsutils ca-certificates curl dnsmasq-base frr iproute2 iputils-ping kmod nftables nginx-light socat tcpdump \
        traceroute \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /usr/local/bin/vilab /usr/local/bin/vilab
COPY labs /usr/share/vilab/labs
COPY docs /usr/share/vilab/docs
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/vilab/
ENTRYPOINT ["vilab"]
CMD ["--help"]
