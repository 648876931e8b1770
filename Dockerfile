# wbc-bench on the CPU:
#   docker build --tag wbc-bench .
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" wbc-bench run --all
FROM python:3.11-slim

COPY pyproject.toml README.md LICENSE /source/
COPY harness /source/harness
COPY zoo /source/zoo
RUN pip install --no-cache-dir /source && rm -r /source

# Weights and decoded images lie in /cache; mount a volume there to keep them.
ENV HOME=/cache USER=wbc-bench WBC_BENCH_CACHE=/cache/wbc-bench KERAS_HOME=/cache/keras
RUN mkdir --mode 1777 /cache

WORKDIR /work
ENTRYPOINT ["wbc-bench"]
CMD ["--help"]
