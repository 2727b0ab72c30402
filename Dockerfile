# docker build -t litepose .                                  # CPU
# docker build -t litepose --build-arg TORCH=https://pypi.org/simple .   # CUDA, from PyPI
# docker build -t litepose --build-arg BASE=IMAGE .           # an image with Python and PyTorch
# docker run --rm --gpus all --shm-size=8g -v "$PWD/data:/litepose/data" -v "$PWD/output:/litepose/output" \
#     litepose python dist_train.py --cfg experiments/crowd_pose/mobilenet/mobile.yaml
ARG BASE=python:3.11-slim
# hadolint ignore=DL3006 -- the tag is part of BASE
FROM ${BASE}

ARG TORCH=https://download.pytorch.org/whl/cpu
# pip of newer bases refuses to install into the system's Python without it
ENV PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

WORKDIR /litepose
COPY requirements.txt .
RUN { python -c "import torch" || pip install --index-url "${TORCH}" "$(grep ^torch== requirements.txt)"; } \
    && grep -v "^torch==" requirements.txt > others.txt \
    && pip install -r others.txt \
    && rm others.txt
COPY . .

# `docker stop` sends SIGTERM: the training saves and exits with 75
CMD ["python", "dist_train.py", "--help"]
