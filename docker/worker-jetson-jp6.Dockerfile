# A worker for Jetson Orin with JetPack 6.1 or 6.2: JetPack's own CUDA 12.6 and TensorRT 10.3, and
# PyCUDA compiled against them. Build it on the Jetson, from the repository's folder:
#   docker build -f docker/worker-jetson-jp6.Dockerfile -t pneumoq/worker-jetson-jp6:0.3.0 .
# It scores. For training too, name the index of PyTorch wheels that you trust for JetPack 6:
#   --build-arg TORCH_INDEX=ADDRESS --build-arg TORCH=torch==VERSION
ARG BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0

FROM ${BASE} AS libraries
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# TensorRT is JetPack's: the Python package of Ubuntu's format, seen through the environment. PyPI's
# is for other machines, and is never installed here.
RUN set -eux; \
    apt-get update; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        g++ python3-dev python3-venv; \
    rm -rf /var/lib/apt/lists/*; \
    python3 -m venv --system-site-packages /opt/pneumoq
# PyCUDA finds CUDA beside the nvcc in the path, and links the driver's stub: the driver itself is
# only there when the container runs.
ENV PATH=/opt/pneumoq/bin:/usr/local/cuda/bin:$PATH
WORKDIR /src
# From what seldom changes to what often does: each step is done anew only from its change on.
COPY constraints.txt ./
# hadolint ignore=DL3013
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    set -eux; \
    echo 'CUDA_ENABLE_CURAND = False' > /etc/aksetup-defaults.py; \
    pip install -c constraints.txt setuptools numpy; \
    pip install -c constraints.txt --no-build-isolation pycuda
# No torch unless its index is named: the usual one's needs another CUDA than JetPack 6 has. What
# torch needs besides CUDA comes from the usual index.
ARG TORCH_INDEX=
ARG TORCH="torch==2.8.0 torchvision==0.23.0"
# hadolint ignore=SC2086,DL3013
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    set -eux; \
    if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-deps --index-url "$TORCH_INDEX" $TORCH; \
        pip install -c constraints.txt filelock fsspec jinja2 networkx sympy tensorboardX \
            typing-extensions; \
    fi
# What PneumoQ needs, as an empty project that needs it: a change of its code installs nothing anew.
COPY pyproject.toml ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    set -eux; \
    touch LICENSE NOTICE README.md; \
    pip install -c constraints.txt --no-build-isolation ".[postgres]"

FROM libraries AS code
COPY LICENSE NOTICE ./
COPY db db
COPY scheduler scheduler
COPY trainer trainer
COPY worker worker
RUN pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /wheel .

FROM ${BASE}
# tini ends what is left behind by a decoder that was killed. TensorRT cannot be imported while the
# image is built, as the driver is missing: that it is there and JetPack's is looked up.
RUN set -eux; \
    apt-get update; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        python3 python3-libnvinfer tini; \
    rm -rf /var/lib/apt/lists/*; \
    groupadd --gid 10001 pneumoq; \
    useradd --uid 10001 --gid 10001 --groups video --home-dir /var/lib/pneumoq --no-create-home \
        --shell /usr/sbin/nologin pneumoq; \
    install -d -m 0700 -o pneumoq -g pneumoq /var/lib/pneumoq
COPY --from=libraries /opt/pneumoq /opt/pneumoq
ENV PATH=/opt/pneumoq/bin:$PATH \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=all \
    PNEUMOQ_HOME=/var/lib/pneumoq \
    PYTHONUNBUFFERED=1
# After the libraries, a change of the code is a small layer.
RUN --mount=type=bind,from=code,source=/wheel,target=/wheel \
    pip install --no-deps --no-index --no-cache-dir --force-reinstall /wheel/*.whl
COPY docker/healthy.py /opt/pneumoq/healthy.py
RUN python -c 'from importlib.util import find_spec as f; p = f("tensorrt").origin; \
assert p.startswith("/usr/"), p; assert f("pycuda").origin.startswith("/opt/pneumoq/")'
USER 10001:10001
# A folder of one's own named like one of the packages would be imported instead of it.
WORKDIR /var/lib/pneumoq
HEALTHCHECK --interval=60s --timeout=30s --start-period=120s --retries=3 \
    CMD ["python", "/opt/pneumoq/healthy.py"]
ENTRYPOINT ["tini", "--"]
CMD ["celery", "--app", "worker.app", "worker", "--queues", "score", \
     "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO"]
