.PHONY: setup demo test lint bench lock clean

setup:            ## install what is needed
	@scripts/setup

demo: setup       ## the main job on a real bootable disk
	@.venv/bin/python demo/run.py

test: setup       ## all tests
	@.venv/bin/pytest -n 2 --dist loadfile

lint: setup       ## style and types
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

bench: setup      ## measure against the peers; builds its disks first, which needs root and takes minutes
	@.venv/bin/python benchmarks/run.py

lock: setup       ## pin the newest versions that pyproject.toml allows; with Debian's Python, which needs most
	@.venv/bin/pip --quiet install pip-tools
	@.venv/bin/pip-compile --quiet --extra dev --generate-hashes --allow-unsafe --strip-extras \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --upgrade -o requirements.lock pyproject.toml

clean:            ## remove what was made here
	@DARKROOM_HOME=build/demo .venv/bin/darkroom down 2>/dev/null || true
	@rm -rf .venv build *.egg-info
