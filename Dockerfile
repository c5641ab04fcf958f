# ptkit in a container. TORCH_INDEX is the address of wheels that PyTorch's own page on installing gives for a platform,
# CPU for the smallest image; without it torch comes from the usual index, with CUDA, several gigabytes larger.
#
#     docker build --build-arg TORCH_INDEX="$TORCH_INDEX" -t ptkit .
#     docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" ptkit split data/ --ratio 8:1:1
#
# For a GPU the address of its CUDA version, and `docker run --gpus all`.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY pyproject.toml setup.py MANIFEST.in README.md CHANGELOG.md LICENSE ./
COPY ptkit ptkit
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
ARG TORCH_INDEX=""
# Of pyproject.toml's extras, such as photos,timm,export.
ARG EXTRAS=photos
COPY --from=build /wheels /wheels
# opencv-python needs libraries of a screen (libGL), which a slim image lacks; the headless build of the same version
# does not.
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} torch torchvision \
    && pip install --no-cache-dir "$(ls /wheels/ptkit-*.whl)${EXTRAS:+[${EXTRAS}]}" \
    && opencv=$(pip show opencv-python | sed -n 's/^Version: //p') \
    && pip uninstall --yes opencv-python \
    && pip install --no-cache-dir "opencv-python-headless==${opencv}" \
    && python -c "import cv2, torch, torchvision" \
    && ptkit --version
RUN useradd --create-home --uid 1000 ptkit && mkdir /work && chown ptkit /work
# Any user may write here, whichever --user is given.
ENV XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/matplotlib \
    TORCHINDUCTOR_CACHE_DIR=/tmp/inductor \
    TRITON_CACHE_DIR=/tmp/triton
USER ptkit
WORKDIR /work
ENTRYPOINT ["ptkit"]
CMD ["--help"]
