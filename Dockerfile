# syntax=docker/dockerfile:1
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN dist/build.sh && strip target/dist/tollway

# Python is what `code.python` runs.
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home --home-dir /var/lib/tollway tollway
COPY --from=build /src/target/dist/tollway /usr/local/bin/tollway
USER 10001
WORKDIR /var/lib/tollway
EXPOSE 4000
STOPSIGNAL SIGTERM
# In a container only its own network can reach it; publish the port to the addresses you mean.
ENTRYPOINT ["tollway"]
CMD ["serve", "--listen", "0.0.0.0:4000", "--data", "/var/lib/tollway/data"]
