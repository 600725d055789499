# An image that serves one run:
#   docker build --build-arg RUN=runs/mine -t classifier .
#   docker run --rm -p 127.0.0.1:8000:8000 -e FLASH_SPARSE_TOKEN=... classifier
FROM python:3.12-slim

# compiled kernels are kept where the user below may write
ENV PYTHONUNBUFFERED=1 NUMBA_CACHE_DIR=/tmp/numba

WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY flash_sparse flash_sparse
COPY apps apps
COPY datasets datasets
# what torch needs comes with the second line: its own index has other versions
RUN pip install --no-cache-dir --no-deps -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir -c constraints.txt '.[serve,documents]' \
    && useradd --create-home server

ARG RUN
COPY --chown=server ${RUN}/model /run-folder/model
USER server
WORKDIR /home/server

EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health')"]

# the token comes from FLASH_SPARSE_TOKEN; without one nothing is served
CMD ["flash-sparse", "serve", "/run-folder", "--host", "0.0.0.0"]
