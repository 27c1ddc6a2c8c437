# make help lists what there is. GNU Make 4.3 or newer.

PYTHON  ?= python3
PROFILE ?= paper
RECIPE  ?= digits
PORT    ?=
VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready

ifeq ($(filter grouped-target,$(.FEATURES)),)
$(error This Makefile needs GNU Make 4.3 or newer, this is $(MAKE_VERSION); on a Mac: brew install make, then gmake)
endif
ifeq ($(filter $(PROFILE),quick paper full),)
$(error PROFILE: got '$(PROFILE)', expected quick, paper or full)
endif

ifeq ($(filter $(RECIPE),digits michelis_becker_code),)
$(error RECIPE: got '$(RECIPE)', expected digits or michelis_becker_code)
endif

# What cannot become the reference is found before hours are spent.
ifneq ($(filter reference,$(MAKECMDGOALS)),)
ifeq ($(filter full bundled,$(PROFILE) $(GEOLIB_DATA_SOURCE)),)
$(error the reference is a run of PROFILE=full, not of $(PROFILE); on the bundled digits any profile will do)
endif
ifneq ($(RECIPE),digits)
$(error the reference is a run of RECIPE=digits, not of $(RECIPE))
endif
ifneq ($(shell git status --porcelain 2>&1 | head -n 1),)
$(error the reference is a run of a clean checkout: commit or stash what git status lists)
endif
endif

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help env figures quick full reference texts explorer lab test smoke soak coverage mutants bench lint strip lock clean distclean

# Three profiles, one pipeline: each writes into a folder of its own, and so does another recipe.
FIGURES := figures$(if $(filter paper,$(PROFILE)),,/$(PROFILE))$(if $(filter digits,$(RECIPE)),,/$(RECIPE))
export GEOLIB_FIGURES := $(CURDIR)/$(FIGURES)

# Threads multiply: with -j every notebook gets one, without it one notebook gets all cores. Set OMP_NUM_THREADS to choose.
CORES := $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 1)
THREADS_CHOSEN := $(filter environment command,$(firstword $(origin OMP_NUM_THREADS)))
OMP_NUM_THREADS ?= $(if $(filter -j%,$(MAKEFLAGS)),1,$(CORES))
export OMP_NUM_THREADS
# Threads that wait should soon sleep: spinning beside another busy process made training eight times slower. To sleep at
# once made it twice as slow on quiet cores; GNU's OpenMP can be told to spin for some microseconds first.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 5000
# Every step allocates anew what the last one gave back. GNU's C library can be told to keep that memory, and in large
# pages: a tenth less time for curves, a fifth less for trainings, and not a bit of the results changes.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=67108864:glibc.malloc.trim_threshold=134217728:glibc.malloc.top_pad=33554432

# Which figures each notebook writes; the recipe fails where one is missing.
NOTEBOOKS := 00_tour 01_training 02_variance_rbf 03_condition_maps 04_monte_carlo 05_two_models 06_solvers 07_two_moons 08_global_distances 09_why_ten_percent 10_feature_maps 11_generators 12_fashion 13_metrics_for_generative_models 14_motion 15_ensembles 16_explorer 17_isometry
ifneq ($(RECIPE),digits)
NOTEBOOKS := $(filter 01% 02% 03% 04% 05%,$(NOTEBOOKS))
endif
# The story's order. "make quick" begins with the long ones, so that no core waits for the last of them at the end. A target
# whose turn comes while notebook 01 still runs is put off until all others have begun: first come some that need not wait.
ORDER ?= $(NOTEBOOKS)
LONG  := 01_training 12_fashion 11_generators 09_why_ten_percent 15_ensembles 17_isometry 10_feature_maps 13_metrics_for_generative_models 06_solvers 07_two_moons 05_two_models
# All but these wait for notebook 01, whose models they share.
OWN_MODELS := 01_training 07_two_moons 11_generators 12_fashion 13_metrics_for_generative_models 14_motion 17_isometry
FIGURES_00_tour           := 00_tour
FIGURES_01_training       := 01_training 01_latent_space
FIGURES_02_variance_rbf   := 02_variance 02_explorer
FIGURES_03_condition_maps := 03_condition_number
FIGURES_04_monte_carlo    := 04_improvement_map 04_histogram 04_worst_case
FIGURES_05_two_models     := 05_pairs 05_improvements 05_latent_lines 05_sequence 05_ranking
FIGURES_06_solvers        := 06_work_precision 06_success
FIGURES_07_two_moons      := 07_two_moons 07_warm_start 07_noise
FIGURES_08_global_distances := 08_distance_field 08_local_minima
FIGURES_09_why_ten_percent := 09_staircase
FIGURES_10_feature_maps   := 10_sequences 10_classes_crossed 10_expectation 10_vgg
FIGURES_11_generators     := 11_maps 11_spreads 11_geodesics
FIGURES_12_fashion        := 12_surfaces 12_latent_space 12_variances 12_geodesic 12_extremes 12_walks 12_flatness
FIGURES_13_metrics_for_generative_models := 13_pendulum 13_distances 13_arm 13_digits 13_evenness 13_smoothing
FIGURES_14_motion         := 14_latent_space 14_motion 14_evenness
FIGURES_15_ensembles      := 15_variances 15_curves 15_retrainings 15_drawn_members
FIGURES_16_explorer       := 16_explorer
FIGURES_17_isometry       := 17_maps 17_strengths
# Those of them that are animated, too.
ANIMATED := 14_motion

SOURCES := $(shell find geolib -name '*.py' | sort)
# The executed notebook is among what a notebook makes: it is moved to its place last, so that one that was killed between
# its last figure and its end is run again.
outputs  = $(FIGURES)/notebooks/$(1).ipynb $(foreach figure,$(FIGURES_$(1)),$(foreach suffix,png pdf json $(if $(filter $(figure),$(ANIMATED)),gif),$(FIGURES)/$(figure).$(suffix)))

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /\1|/' | awk -F'|' '{ printf "  make %-10s %s\n", $$1, $$2 }'
	@echo "  PROFILE=quick|paper|full   RECIPE=digits|michelis_becker_code (notebooks 01 to 05)   OMP_NUM_THREADS=n   GEOLIB_DATA=folder   GEOLIB_DATA_SOURCE=auto|full|bundled   GEOLIB_VGG=file"

# Not called DISPLAY: make would hand its own on to a browser where the environment has one.
SHOWING := $(PYTHON) geolib/companion/pipeline/display.py
PIP     := $(BIN)/python -m pip install --progress-bar off --disable-pip-version-check

env: $(READY) ## set up .venv from requirements.lock
	@echo "environment: $(VENV) is ready"

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@echo "environment: $(VENV) gets the packages of requirements.lock. It takes a minute or two; on Linux torch brings CUDA, several GB."
	@$(SHOWING) "environment, 1 of 3, $(VENV):" $(PYTHON) -m venv $(VENV)
	@$(SHOWING) "environment, 2 of 3, packages:" $(PIP) -r requirements.lock
	@$(SHOWING) "environment, 3 of 3, geolib:" $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

figures: $(FIGURES)/numbers.md ## every figure of the papers (PROFILE=paper: a few seeds)
	@$(BIN)/python -m geolib.companion.pipeline.numbers --where

# Small notebooks spend their time on starting: one a core, with one thread each.
quick: ## the same pipeline with small settings, into figures/quick
	@$(if $(THREADS_CHOSEN),,OMP_NUM_THREADS=1) $(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(CORES)) PROFILE=quick ORDER='$(filter $(NOTEBOOKS),$(LONG)) $(filter-out $(LONG),$(NOTEBOOKS))' figures

# Every finished notebook stays, and so does every model and measurement: the same command goes on after a break.
full: ## the same pipeline with all seeds and sizes, into figures/full
	@$(MAKE) --no-print-directory PROFILE=full figures

# Figures from other data are other figures: this file changes when the data that would be found does. It is written while
# make reads this, as a rule that always runs would make every dry run name every notebook.
# Names of folders go through no shell, and what looks like a variable in those from the environment is none.
named  = $(if $(filter command,$(origin $(1))),$($(1)),$(value $(1)))
empty :=
FOLDER := $(subst $(empty) $(empty),\ ,$(call named,GEOLIB_DATA))
DATA_SEEN := source=$(or $(call named,GEOLIB_DATA_SOURCE),auto) folder=$(call named,GEOLIB_DATA) files=$(if $(FOLDER),$(sort $(foreach suffix,gz asf amc,$(wildcard $(FOLDER)/*/*.$(suffix))))) vgg=$(call named,GEOLIB_VGG)
WANTED := $(filter figures reference $(FIGURES)/%,$(MAKECMDGOALS))
ifneq ($(WANTED),)
ifneq ($(shell mkdir -p $(FIGURES) 2>/dev/null && test -w $(FIGURES) && echo writable),)
ifneq ($(DATA_SEEN),$(file <$(FIGURES)/.data))
$(file >$(FIGURES)/.data,$(DATA_SEEN))
endif
endif
endif

# Which notebooks this make will run, in order, so that each can say which of them it is: a dry run tells. In vain where
# this is one itself.
quoted   = '$(subst ','\'',$(1))'
DRY_RUN := MAKEFLAGS=$(call quoted,$(filter-out -j% --job%,$(MAKEFLAGS)) -- $(MAKEOVERRIDES)) $(MAKE) --dry-run $(WANTED)
ifneq ($(and $(WANTED),$(if $(findstring n,$(firstword -$(MAKEFLAGS))),,yes)),)
PLAN := $(shell $(DRY_RUN) 2>/dev/null | sed -nE 's|.*companion.pipeline.execute notebooks/([^ ]*)\.ipynb .*|\1|p')
endif

define notebook_rule
$(call outputs,$(1)) &: notebooks/$(1).ipynb params/$(PROFILE).yaml $(wildcard params/recipes/$(RECIPE).yaml) requirements.lock $(SOURCES) $(wildcard $(FIGURES)/.data) | $(READY) $(if $(filter $(OWN_MODELS),$(1)),,$(FIGURES)/01_training.json)
	@$(BIN)/python -m geolib.companion.pipeline.execute $$< --profile params/$(PROFILE).yaml $(if $(filter digits,$(RECIPE)),,--recipe params/recipes/$(RECIPE).yaml) --plan $(PLAN) --figures $(FIGURES_$(1)) --animations $(filter $(ANIMATED),$(FIGURES_$(1))) --output $(FIGURES)/notebooks
endef
$(foreach notebook,$(NOTEBOOKS),$(eval $(call notebook_rule,$(notebook))))

ALL_OUTPUTS := $(foreach notebook,$(ORDER),$(call outputs,$(notebook)))
$(FIGURES)/numbers.md: $(ALL_OUTPUTS) figures/reference/numbers.json
	@$(BIN)/python -m geolib.companion.pipeline.numbers

reference: $(FIGURES)/numbers.md ## make a full run the reference in figures/reference (PROFILE=full, clean checkout)
	@$(BIN)/python -m geolib.companion.pipeline.numbers --keep

texts: $(READY) ## fill numbers, addresses and pictures into README, gallery and notebooks
	@$(BIN)/python -m geolib.companion.pipeline.texts

explorer: $(READY) ## the explorer as one HTML file for any browser, without a kernel (figures/explorer.html; PICTURE=file.png draws it, too)
	@$(BIN)/python -m geolib.companion.interface.explorer.page --profile $(PROFILE) $(if $(PICTURE),--picture $(PICTURE))

lab: $(READY) ## JupyterLab on the notebooks (PORT=n to choose)
	@$(BIN)/python -m geolib.companion.interface.lab $(if $(PORT),--port $(PORT))

# One process a core, with one thread each; a process takes a gigabyte.
PYTEST := $(if $(THREADS_CHOSEN),,OMP_NUM_THREADS=1) $(BIN)/python -m pytest --numprocesses=$(CORES) --maxprocesses=8

test: $(READY) ## every test (smoke, slow, notebooks, browser)
	$(PYTEST)

smoke: $(READY) ## the tests that are not slow, in a minute
	$(PYTEST) -m "not slow"

soak: $(READY) ## runs killed twenty times, long fuzzing (hours)
	GEOLIB_SOAK=1 $(PYTEST) -m soak

QUALITY := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[mutants]'

coverage: $(READY) ## every test, and the share of geolib's lines that they run (95 % are asked)
	@$(QUALITY)
	@$(BIN)/python -m coverage erase
	OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report

mutants: $(READY) ## change four files in every small way: do their tests notice? (a night; 85 % are asked)
	@$(QUALITY)
	OMP_NUM_THREADS=1 $(BIN)/python -m mutmut run --max-children $(CORES)
	@$(BIN)/python tests/mutants.py

bench: $(READY) ## measure speed beside other solvers, write benchmarks/results.md
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[bench]' || echo "some of the others cannot be installed here: measuring those that are" >&2
	$(BIN)/python benchmarks/run.py

lint: $(READY) ## ruff over code and notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Keeps cell ids and tags; what a run leaves behind goes.
STRIP := --keep-id --extra-keys "metadata.papermill cell.metadata.papermill metadata.widgets metadata.language_info.version metadata.language_info.codemirror_mode metadata.language_info.file_extension metadata.language_info.mimetype metadata.language_info.nbconvert_exporter metadata.language_info.pygments_lexer cell.metadata.execution"
strip: $(READY) ## remove outputs from the notebooks before a commit
	$(BIN)/nbstripout $(STRIP) notebooks/*.ipynb

# uv resolves for every platform at once; torch's CUDA packages are left to torch's own exact pins, so that the same
# file serves machines with and without a GPU. Pins that are there stay; UPGRADE=--upgrade renews them all.
lock: $(READY) ## renew requirements.lock after a change of pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate $(UPGRADE) --extra companion --extra dev pyproject.toml -o requirements.lock
	sed -i.old -E '/^(nvidia-|cuda-|triton)/d' requirements.lock && rm requirements.lock.old

clean: ## remove figures and everything derived; downloads stay
	rm -rf data/derived figures/.data figures/quick figures/full figures/michelis_becker_code figures/notebooks figures/[0-9][0-9]_*.png figures/[0-9][0-9]_*.pdf figures/[0-9][0-9]_*.json figures/[0-9][0-9]_*.gif figures/explorer.html figures/numbers.md

distclean: clean ## clean, and remove downloads and .venv
	rm -rf data/raw $(VENV)
