# A small image for CPUs; docs/install.md says how to build and use it.
FROM python:3.11-slim
# Fonts for the text on record_training's videos.
RUN apt-get update && apt-get install -y --no-install-recommends fontconfig fonts-dejavu-core && rm -rf /var/lib/apt/lists/*
# An index with PyTorch's CPU builds. Without it, the default torch brings CUDA: several gigabytes.
ARG TORCH_INDEX
ARG EXTRAS=hdf5,export
RUN pip install --no-cache-dir torch==2.13.0 ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
COPY pyproject.toml constraints.txt README.md LICENSE /src/
COPY sb3_pg_extras /src/sb3_pg_extras
COPY hyperparams /src/hyperparams
RUN pip install --no-cache-dir -c /src/constraints.txt "/src[$EXTRAS]"
WORKDIR /work
ENV SDL_VIDEODRIVER=dummy HOME=/tmp
ENTRYPOINT ["sb3-pg-extras"]
