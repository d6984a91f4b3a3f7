# One image for every room: `docker run earshot up --target state`. docker-compose.yml starts the five of them.

FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/earshot
# The lock alone first: a change of ours does not install everything again. No compiler here, so wheels only.
COPY requirements.lock requirements-discord.lock ./
RUN /opt/earshot/bin/pip install --require-hashes --only-binary :all: -r requirements.lock
# The Discord edge needs a package more: --build-arg EXTRA=discord.
ARG EXTRA=
RUN test "$EXTRA" != discord || /opt/earshot/bin/pip install --require-hashes --only-binary :all: -r requirements-discord.lock
COPY pyproject.toml README.md LICENSE ./
COPY gen ./gen
COPY services ./services
RUN /opt/earshot/bin/pip install --no-deps --no-build-isolation .

FROM python:3.11-slim-bookworm
RUN groupadd --gid 10001 earshot \
 && useradd --uid 10001 --gid earshot --home-dir /data --no-create-home --shell /usr/sbin/nologin earshot \
 && install --directory --owner earshot --group earshot --mode 0700 /data /certs
COPY --from=build /opt/earshot /opt/earshot
# Everything that is written goes below /data: stores, and the compiled cluster kernels (numba) in its cache directory.
# The rest of the file system may be read-only.
ENV PATH=/opt/earshot/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/data/cache \
    EARSHOT_DATA=/data \
    EARSHOT_LOG_FORMAT=json
USER 10001:10001
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 CMD ["earshot", "health"]
ENTRYPOINT ["earshot"]
CMD ["up"]
