# pyscratchdet on the CPU. docs/install.md says how to build and use it.
FROM python:3.12-slim

# Graphviz is for `draw-net` alone.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends graphviz \
    && rm -rf /var/lib/apt/lists/*

RUN pip install --no-cache-dir torch torchvision

# converters/, prototxt/ and examples/ are linked into the package.
COPY pyproject.toml README.md LICENSE /source/
COPY converters /source/converters
COPY prototxt /source/prototxt
COPY examples /source/examples
COPY pyscratchdet /source/pyscratchdet
RUN pip install --no-cache-dir "/source[onnxruntime]" && rm -rf /source

RUN useradd --create-home user
USER user
WORKDIR /work
ENTRYPOINT ["pyscratchdet"]
CMD ["--help"]
