# The image of Berth: one static program and the certificates of the public authorities. `make image` builds it; for several
# platforms, `docker buildx build --platform linux/amd64,linux/arm64,linux/arm/v7 …`. The compiler runs on the platform that
# builds, whatever the image is for: nothing is emulated.

FROM --platform=$BUILDPLATFORM golang:1.26 AS source
WORKDIR /src

# The modules are a stage of their own, so that a build without network can bring them: --build-context modules=DIRECTORY,
# where DIRECTORY is a module cache (GOMODCACHE).
FROM source AS download
COPY go.mod go.sum ./
RUN GOMODCACHE=/modules go mod download
FROM scratch AS modules
COPY --from=download /modules /

FROM source AS build
COPY . .
RUN mkdir -p /image/etc/ssl/certs /image/etc/distribution /image/bin /data \
    && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ \
    && cp deploy/config.yml /image/etc/distribution/
ARG TARGETOS TARGETARCH TARGETVARIANT
ARG VERSION
ARG BUILT
# GOARM is 7 for linux/arm/v7; the variants of other architectures are nothing to the compiler.
RUN --mount=type=bind,from=modules,target=/modules --mount=type=cache,target=/compiled \
    GOMODCACHE=/modules GOCACHE=/compiled GOPROXY=off CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH GOARM=${TARGETVARIANT#v} \
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION -X main.built=$BUILT" \
    -o /image/bin/ ./cmd/registry

FROM scratch
COPY --from=build /image /
# The image starts as root, as that of registry:2 does, so that its volumes and its 0600 keys keep working. 65532 is the user
# that docker-compose.yml and deploy/swarm-stack.yml set instead; a new volume is made with the owner of this directory.
COPY --from=build --chown=65532:65532 /data /var/lib/registry
ENV PATH=/bin
EXPOSE 5000
VOLUME /var/lib/registry
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=30s CMD ["registry", "healthcheck"]
ENTRYPOINT ["registry"]
CMD ["serve"]
