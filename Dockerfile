# The image of both programs, `usher` and `usher-operator`. `make image` builds it.

# Any image with Python 3.11 or later as `python3`, and with pip unless the wheels come from a folder.
ARG BASE_IMAGE=python:3.11-slim

# Stays empty, so that pip fetches the dependencies. `--build-context wheelhouse=FOLDER` replaces it with a folder of
# wheels; then the build needs no network.
FROM scratch AS wheelhouse


FROM ${BASE_IMAGE} AS build
# `make release` sets it. Then the compiled modules hold no times, and no order that depends on chance.
ARG SOURCE_DATE_EPOCH
ENV PYTHONHASHSEED=0
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source

# PYTHONPATH: a base without pip runs the one of the wheelhouse. The end deletes sources of compiled modules, and types
# for checkers, which no program reads.
COPY requirements/build.txt requirements/image.txt requirements/
RUN --mount=type=bind,from=wheelhouse,target=/wheels \
    if ls /wheels/*.whl >/dev/null 2>&1; then \
        export PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels PYTHONPATH="$(echo /wheels/pip-*.whl)"; \
    fi \
    && python3 -m venv --without-pip /build \
    && python3 -m venv --without-pip /opt/usher \
    && python3 -m pip --python /build/bin/python install --require-hashes -r requirements/build.txt \
    && /build/bin/python -m pip --python /opt/usher/bin/python install --require-hashes --only-binary=:all: \
        -r requirements/image.txt \
    && find /opt/usher -type f '(' -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.[ch]' ')' -delete

COPY gateway gateway
COPY operator operator
RUN /build/bin/python -m pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /dist ./gateway ./operator \
    && /build/bin/python -m pip --python /opt/usher/bin/python install --no-index --no-deps /dist/*.whl
COPY LICENSE /opt/usher/


FROM ${BASE_IMAGE}
ARG BASE_IMAGE
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="Usher" \
      org.opencontainers.image.description="Gateway and Kubernetes operator for Purple WiFi's webhooks" \
      org.opencontainers.image.authors="The Usher authors" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
COPY --from=build /opt/usher /opt/usher
ENV PATH=/opt/usher/bin:/usr/local/bin:/usr/bin:/bin
USER 65532:65532
# The chart names the program in the container's `args`.
ENTRYPOINT []
CMD ["usher", "--help"]
