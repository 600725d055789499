# An image that serves one run:
#   docker build --build-arg RUN=runs/mine -t classifier .
#   docker run --rm -p 127.0.0.1:8000:8000 -e FLASH_SPARSE_TOKEN=... classifier
FROM python:3.12-slim

# compiled kernels are kept where the user below may write
ENV PYTHONUNBUFFERED=1 NUMBA_CACHE_DIR=/tmp/numba

WORKDIR /source
COPY . .
RUN pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu -c constraints.txt \
    && pip install --no-cache-dir -c constraints.txt '.[serve]' \
    && useradd --create-home server

ARG RUN
COPY ${RUN}/model /run-folder/model
USER server
WORKDIR /home/server

EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health')"]

# the token comes from FLASH_SPARSE_TOKEN; without one nothing is served
CMD ["flash-sparse", "serve", "/run-folder", "--host", "0.0.0.0"]
