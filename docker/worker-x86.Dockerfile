# A worker for NVIDIA GPUs in PCs and servers: CUDA, TensorRT, PyCUDA, PyTorch. Build it from the
# repository's folder, and run it where NVIDIA's driver (580 or newer) and container toolkit are:
#   docker build -f docker/worker-x86.Dockerfile -t pneumoq/worker-x86:0.3.0 .

# torch's wheels, TensorRT's and PyCUDA must be of one major version of CUDA.
ARG BUILD_BASE=docker.io/nvidia/cuda:13.0.1-devel-ubuntu24.04
# Not `-runtime-`: the libraries that it would bring come with the wheels.
ARG BASE=docker.io/nvidia/cuda:13.0.1-base-ubuntu24.04

FROM ${BUILD_BASE} AS libraries
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN set -eux; \
    apt-get update; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        g++ python3-dev python3-venv; \
    rm -rf /var/lib/apt/lists/*; \
    python3 -m venv /opt/pneumoq
# PyCUDA finds CUDA beside the nvcc in the path.
ENV PATH=/opt/pneumoq/bin:/usr/local/cuda/bin:$PATH
WORKDIR /src
# From what seldom changes to what often does: each step is done anew only from its change on.
COPY constraints.txt ./
# Of CURAND nothing is used, and the final image need not have it.
# hadolint ignore=DL3013
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    set -eux; \
    echo 'CUDA_ENABLE_CURAND = False' > /etc/aksetup-defaults.py; \
    pip install -c constraints.txt setuptools numpy; \
    pip install -c constraints.txt --no-build-isolation pycuda
# The wheels of full TensorRT come from NVIDIA's own index, whose address the package knows; name
# another here. TENSORRT=tensorrt-rtx==1.7.1.116 is the flavour for RTX cards, from the usual index.
ARG TENSORRT=tensorrt-cu13==10.16.1.11
ARG TENSORRT_INDEX=
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install -c constraints.txt \
        ${TENSORRT_INDEX:+--extra-index-url "$TENSORRT_INDEX"} "$TENSORRT"
# What PneumoQ needs, as an empty project that needs it: a change of its code installs nothing anew.
COPY pyproject.toml ./
ARG EXTRAS=postgres,train
ARG TORCH_INDEX=
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    set -eux; \
    touch LICENSE NOTICE README.md; \
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
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 tini; \
    rm -rf /var/lib/apt/lists/*; \
    groupadd --gid 10001 pneumoq; \
    useradd --uid 10001 --gid 10001 --home-dir /var/lib/pneumoq --no-create-home \
        --shell /usr/sbin/nologin pneumoq; \
    install -d -m 0700 -o pneumoq -g pneumoq /var/lib/pneumoq
COPY --from=libraries /opt/pneumoq /opt/pneumoq
ENV PATH=/opt/pneumoq/bin:$PATH \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PNEUMOQ_HOME=/var/lib/pneumoq \
    PYTHONUNBUFFERED=1
# After the libraries, a change of the code is a small layer.
RUN --mount=type=bind,from=code,source=/wheel,target=/wheel \
    pip install --no-deps --no-index --no-cache-dir --force-reinstall /wheel/*.whl
COPY docker/healthy.py /opt/pneumoq/healthy.py
USER 10001:10001
# A folder of one's own named like one of the packages would be imported instead of it.
WORKDIR /var/lib/pneumoq
# Long enough for a large model's engine to be built: until then no row of this worker is expected.
HEALTHCHECK --interval=30s --timeout=20s --start-period=120s --retries=3 \
    CMD ["python", "/opt/pneumoq/healthy.py"]
ENTRYPOINT ["tini", "--"]
CMD ["celery", "--app", "worker.app", "worker", "--queues", "score", \
     "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO"]
