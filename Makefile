# SPDX-License-Identifier: Apache-2.0
# make demo | test | lint | bench | gpu | native | library | sanitize | fuzz | dist: each from a fresh clone; what they
# need is installed once, into .venv.

# Any Python from 3.11 on.
PYTHON ?= python3
# A PyTorch >= 2.11 that $(PYTHON) already has is kept, so a machine set up for its GPU runs on its own PyTorch and
# Triton. Only where there is none is this one installed; any pip requirement may stand here.
TORCH ?= torch==2.13.0
WORKERS ?= 2

.PHONY: demo test lint bench gpu native library sanitize fuzz dist clean

demo: .venv/ready-demo
	.venv/bin/python -m spectral_kernels demo

# One OpenMP thread per test process: the machine's cores already run one process each.
test: .venv/ready-test
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n $(WORKERS)

lint: .venv/ready-lint
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright --pythonpath .venv/bin/python

# The compiled core into the source tree, for whichever Python runs the tests: make native PYTHON=...
native:
	cmake -S . -B build/native -DSK_IN_PLACE=ON -DSPECTRAL_KERNELS_PYTHON=ON -DSPECTRAL_KERNELS_LIBRARY=OFF -DPython_EXECUTABLE=$$($(PYTHON) -c 'import sys; print(sys.executable)')
	cmake --build build/native --parallel

# The C library with its tests and examples; `sanitize` runs them under ASan with UBSan, and under TSan.
library: .venv/ready-test
	.venv/bin/cmake -S . -B build/library
	.venv/bin/cmake --build build/library --parallel $(WORKERS)
	.venv/bin/ctest --test-dir build/library --output-on-failure

# No comma in a folder's name: the linker's -Wl,-rpath,FOLDER would be cut there.
sanitize: .venv/ready-test
	for kind in address,undefined thread; do \
		flags="-fsanitize=$$kind -fno-sanitize-recover=all"; \
		.venv/bin/cmake -S . -B build/sanitize-$${kind%%,*} -DCMAKE_BUILD_TYPE=RelWithDebInfo \
			-DCMAKE_C_FLAGS="$$flags" -DCMAKE_CXX_FLAGS="$$flags" -DSK_SANITIZE_FLAGS="$$flags" && \
		.venv/bin/cmake --build build/sanitize-$${kind%%,*} --parallel $(WORKERS) && \
		.venv/bin/ctest --test-dir build/sanitize-$${kind%%,*} --output-on-failure || exit 1; \
	done

# libFuzzer over the C API under ASan and UBSan; needs clang. make fuzz FUZZ_SECONDS=600
FUZZ_SECONDS ?= 60
fuzz: flags = -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all
fuzz: .venv/ready-test
	.venv/bin/cmake -S . -B build/fuzz -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ \
		-DCMAKE_C_FLAGS="$(flags)" -DCMAKE_CXX_FLAGS="$(flags)" -DSPECTRAL_KERNELS_FUZZ=ON -DBUILD_TESTING=OFF
	.venv/bin/cmake --build build/fuzz --parallel $(WORKERS)
	build/fuzz/bindings/fuzz/fuzz_capi -len_control=0 -max_len=512 -artifact_prefix=build/fuzz/ -max_total_time=$(FUZZ_SECONDS)

# Wheel and sdist, and the package for the hub; the wheel goes into an environment of its own and tests itself there.
# That environment sees the PyTorch of .venv, but not the package installed in it for development.
dist: .venv/ready-test
	rm -rf dist build/dist
	.venv/bin/python -m build --outdir dist
	.venv/bin/python bindings/hub/layout.py build/hub
	.venv/bin/python -m venv build/dist
	.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > build/dist/outer.pth
	[ ! -f "$$(cat build/dist/outer.pth)/own-torch.pth" ] || cat "$$(cat build/dist/outer.pth)/own-torch.pth" >> build/dist/outer.pth
	mv build/dist/outer.pth "$$(build/dist/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/"
	build/dist/bin/python -m pip install --quiet --disable-pip-version-check --no-deps dist/*.whl
	cd build/dist && bin/python -m spectral_kernels info && bin/python -m spectral_kernels selftest --backend torch --backend native

# Rows are appended to bench/results; `make bench SUITE=expand` measures one suite.
bench: .venv/ready-test
	.venv/bin/python -m bench.run $(if $(SUITE),--suite $(SUITE))

# All that wants a GPU, in pieces: under 9 minutes a call; what has passed is not run again. A machine that is set up for
# its GPU has what this needs, and may have no network: its own Python runs it, and nothing is installed.
# make gpu GPU_ARGS="--minutes 9 --results DIR"
gpu:
	@if $(PYTHON) -c "$$GPU_NEEDS"; then \
		$(PYTHON) -m bench.gpu $(GPU_ARGS); \
	else \
		$(MAKE) .venv/ready-test && .venv/bin/python -m bench.gpu $(GPU_ARGS); \
	fi

clean:
	rm -rf .venv build dist

# ready-NAME: the package, compiled core included, with its extra NAME. An extra that holds others makes them ready too,
# so that the core is compiled once.
test_holds := demo
lint_holds := demo test
.venv/ready-%: .venv/torch pyproject.toml CMakeLists.txt $(shell find bindings -type f)
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	touch $(addprefix .venv/ready-,$* $($*_holds))

.PRECIOUS: .venv/ready-%

define GPU_NEEDS
import importlib.util, sys
needed = ("torch", "triton", "numpy", "scipy", "pytest", "hypothesis")
absent = [name for name in needed if importlib.util.find_spec(name) is None]
if not absent:
    import torch
    absent = [] if torch.cuda.is_available() else ["a GPU that PyTorch sees"]
sys.exit(f"{sys.executable} has no {', no '.join(absent)}: making .venv" if absent else 0)
endef
export GPU_NEEDS

define OWN_TORCH
import pathlib, torch
version = tuple(int(part) for part in torch.__version__.split(".")[:2])
assert version >= (2, 11)
print(pathlib.Path(torch.__file__).parents[1])
endef
export OWN_TORCH

.venv/torch:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	@if own=$$($(PYTHON) -c "$$OWN_TORCH" 2>/dev/null); then \
		echo "keeping the PyTorch in $$own"; \
		echo "$$own" > "$$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/own-torch.pth"; \
	else \
		echo "installing $(TORCH)"; \
		.venv/bin/python -m pip install --quiet --disable-pip-version-check '$(TORCH)'; \
	fi
	touch $@
