# The image of disttrain. What each argument does, how to run it and what was tried: docs/container.md
ARG BASE=python:3.11-slim-bookworm
ARG CUDA_DEVEL=scratch

# Wheels that need not be downloaded or built: --build-context wheels=FOLDER puts them here.
FROM scratch AS wheels

# CUDA's compiler, for Horovod with NCCL.
FROM ${CUDA_DEVEL} AS cuda

# The environment in /opt/disttrain with the pinned packages.
FROM ${BASE} AS packages
ARG VARIANT=cpu
COPY launch/container/packages.sh launch/constraints.txt /build/
RUN --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=cache,target=/root/.cache/pip,sharing=locked \
    /build/packages.sh "${VARIANT}"

# The wheels of Horovod and of the compiled all-reduce in /horovod, built against that TensorFlow, or taken from wheels.
FROM packages AS horovod
ARG VARIANT=cpu
ARG MPI=1
COPY launch/install-horovod.sh launch/container/horovod.sh /build/launch/
COPY launch/horovod /build/launch/horovod
COPY launch/collective /build/launch/collective
RUN --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=bind,from=cuda,target=/cuda \
    /build/launch/horovod.sh "${VARIANT}" "${MPI}"

# disttrain, Horovod and the compiled kernels in /new, to be laid over /opt/disttrain.
FROM packages AS app
COPY pyproject.toml README.md LICENSE /build/disttrain/
COPY disttrain /build/disttrain/disttrain
COPY launch /build/disttrain/launch
ARG KERNELS="x86-64-v3 x86-64-v4"
RUN --mount=type=bind,from=horovod,source=/horovod,target=/horovod \
    /build/disttrain/launch/container/app.sh "${KERNELS}"

# The packages without what only building needs.
FROM packages AS trimmed
COPY launch/container/trim.sh /build/
RUN /build/trim.sh

FROM ${BASE} AS runtime
ARG MPI=1
ARG VARIANT=cpu
RUN --mount=type=bind,source=launch/container/runtime.sh,target=/runtime.sh /runtime.sh "${VARIANT}" "${MPI}"
COPY --from=trimmed /opt/disttrain /opt/disttrain
COPY --from=app /new /opt/disttrain
RUN ldconfig

ARG BASE
ARG CPU=x86-64-v3
ARG VERSION=0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="disttrain" \
      org.opencontainers.image.description="Trains a Keras model on a CSV too large for memory, on as many GPUs and machines as there are" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE}"

# HOME: any user may write there. NUMBA_*: the compiled kernels lie in the image, for that processor and newer ones.
# OMPI_*: between containers one process may not read another's memory.
ENV PATH=/opt/disttrain/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DISTTRAIN_CACHE_DIR=/cache \
    NUMBA_CACHE_LOCATOR_CLASSES=warm_kernels.KernelsOfTheImage,UserWideCacheLocator \
    NUMBA_CPU_NAME=${CPU} \
    NUMBA_CPU_FEATURES="" \
    OMPI_MCA_btl_vader_single_copy_mechanism=none
USER 1000:1000
WORKDIR /
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=60s --timeout=10s --start-period=120s --retries=3 \
    CMD ["/opt/disttrain/bin/python", "-I", "-S", "/opt/disttrain/launch/container/health.py"]
ENTRYPOINT ["python", "-m", "disttrain"]
