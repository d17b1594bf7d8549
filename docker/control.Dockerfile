# The command line, beat and scoring by the CPU. Build it from the repository's folder:
#   docker build -f docker/control.Dockerfile -t pneumoq/control:0.3.0 .
# The image is small and does not train; `--build-arg EXTRAS=postgres,train` makes one that does.

# Any Debian or Ubuntu with Python 3.10 to 3.13 and venv will do.
ARG BASE=docker.io/library/python:3.12.12-slim-bookworm

FROM ${BASE} AS libraries
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python3 -m venv /opt/pneumoq
ENV PATH=/opt/pneumoq/bin:$PATH
WORKDIR /src
# What PneumoQ needs, as an empty project that needs it: a change of its code installs nothing anew.
COPY pyproject.toml constraints.txt ./
ARG EXTRAS=postgres
# Where torch comes from, if not from the usual index: one of CPU wheels makes a smaller image.
ARG TORCH_INDEX=
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    set -eux; \
    touch LICENSE NOTICE README.md; \
    pip install -c constraints.txt setuptools; \
    pip install -c constraints.txt --no-build-isolation \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".[$EXTRAS]"

FROM libraries AS code
COPY LICENSE NOTICE ./
COPY db db
COPY scheduler scheduler
COPY trainer trainer
COPY worker worker
RUN pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /wheel .

FROM ${BASE}
# tini ends what is left behind by a decoder that was killed.
RUN set -eux; \
    apt-get update; \
    apt-get install -y --no-install-recommends tini; \
    rm -rf /var/lib/apt/lists/*; \
    groupadd --gid 10001 pneumoq; \
    useradd --uid 10001 --gid 10001 --home-dir /var/lib/pneumoq --no-create-home \
        --shell /usr/sbin/nologin pneumoq; \
    install -d -m 0700 -o pneumoq -g pneumoq /var/lib/pneumoq
COPY --from=libraries /opt/pneumoq /opt/pneumoq
ENV PATH=/opt/pneumoq/bin:$PATH \
    PNEUMOQ_HOME=/var/lib/pneumoq \
    PYTHONUNBUFFERED=1
# After the libraries, a change of the code is a small layer.
RUN --mount=type=bind,from=code,source=/wheel,target=/wheel \
    pip install --no-deps --no-index --no-cache-dir --force-reinstall /wheel/*.whl
COPY docker/healthy.py /opt/pneumoq/healthy.py
USER 10001:10001
# A folder of one's own named like one of the packages would be imported instead of it.
WORKDIR /var/lib/pneumoq
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s --retries=3 \
    CMD ["python", "/opt/pneumoq/healthy.py"]
ENTRYPOINT ["tini", "--"]
CMD ["pneumoq", "--help"]
