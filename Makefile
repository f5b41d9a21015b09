# mlxcel: `make help` lists what there is to make.
#
# Each kind of build has a folder of its own, so that they never mix: build/ (the program as it is
# shipped), build/clang, build/san-address-undefined, ... Sources are found by name: src/**/*.c is
# the library, tests/**/test_*.c a program each, tests/**/test_*.sh a script each, tools/*.c a
# program each, tests/fuzz/fuzz_*.c a fuzz target each.

VERSION := 0.1.0
CC      ?= cc
PREFIX  ?= /usr/local
DESTDIR ?=
SAN     ?=
WERROR  ?=
FUZZ_SECONDS ?= 60
V       ?=
Q       := $(if $(V),,@)

comma := ,
KIND  := $(filter clang%,$(notdir $(CC))) $(if $(SAN),san-$(subst $(comma),-,$(SAN)))
empty :=
BUILD := build$(if $(strip $(KIND)),/$(subst $(empty) ,-,$(strip $(KIND))))

PKGS := json-c libpcre2-8 libutf8proc libedit libxxhash libmicrohttpd zlib libzstd
WARN := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wformat=2 \
        -Wundef -Wvla -Wimplicit-fallthrough
OPT  := -O2 -g
CPPFLAGS += -D_GNU_SOURCE -DMLXCEL_VERSION=\"$(VERSION)\" -Isrc -Iinclude \
            $(shell pkg-config --cflags $(PKGS))
CFLAGS   += -std=c11 $(OPT) $(WARN) $(if $(WERROR),-Werror) -ffp-contract=off -fPIC -pthread
LDLIBS   += $(shell pkg-config --libs $(PKGS)) -lm -pthread

# What the released program is hardened with. A second net: no code may rely on it, so the
# sanitizer builds leave it out and see the bugs that it would hide.
MACHINE := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine)))
IS_GCC  := $(shell $(CC) --version 2>/dev/null | grep -qi clang || echo yes)
ifeq ($(SAN),)
HARDEN := -fstack-protector-strong -fno-strict-aliasing -fno-delete-null-pointer-checks -fwrapv \
          -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=$(if $(IS_GCC),3,2) -fstack-clash-protection \
          $(if $(IS_GCC),-ftrivial-auto-var-init=zero) \
          $(if $(filter x86_64,$(MACHINE)),-fcf-protection=full) \
          $(if $(filter aarch64,$(MACHINE)),-mbranch-protection=standard)
LDFLAGS += -pie -Wl,-z,relro,-z,now,-z,noexecstack
else
OPT     := -O1 -g
HARDEN  := -fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all
LDFLAGS += -fsanitize=$(SAN)
endif

SRC   := $(filter-out src/main.c,$(shell find src -name '*.c' | sort))
OBJ   := $(SRC:%.c=$(BUILD)/%.o)
LIB   := $(BUILD)/libmlxcel.a
BIN   := $(if $(wildcard src/main.c),$(BUILD)/mlxcel)
TESTS := $(patsubst %.c,$(BUILD)/%,$(shell find tests -name 'test_*.c' 2>/dev/null | sort))
TEST_SCRIPTS := $(shell find tests -name 'test_*.sh' 2>/dev/null | sort)
TOOLS := $(patsubst %.c,$(BUILD)/%,$(wildcard tools/*.c))
FUZZ  := $(patsubst tests/fuzz/%.c,$(BUILD)/%,$(wildcard tests/fuzz/fuzz_*.c))

# The CUDA device is a shared object beside the program, so that one program serves all machines.
NVCC      ?= nvcc
CUDA_ARCH ?= 80 90a
CUDA_SRC  := $(wildcard src/device/cuda/*.cu)
CUDA_OBJ  := $(CUDA_SRC:%.cu=$(BUILD)/%.o)
CUDA_SO   := $(if $(CUDA),$(BUILD)/mlxcel-cuda.so)
NVCC_OPT  ?= -O3 -lineinfo
NVCCFLAGS := -std=c++17 $(NVCC_OPT) -Isrc -Xcompiler -fPIC,-Wall \
             $(foreach a,$(CUDA_ARCH),-gencode arch=compute_$(a),code=sm_$(a))

.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: all tools tests test tsan bench bench-arm bench-serve soak bench-peers bench-report \
        diff-tokens diff-templates tidy fuzz fuzz-short fuzz-programs install uninstall docs clean help always
all: $(LIB) $(BIN) $(BIN:%=%-server) $(CUDA_SO) tools ## build the program (build/mlxcel) and the tools

# An instruction set is a file: it alone is compiled for it, and runs only where the CPU has it.
# Kernels see checked sizes only, and do without the hardening that costs them time.
# Under sanitizers clang optimizes minutes on files of unrolled loops, those of AVX-512 above all,
# which are left plain. And no fuzz target runs a kernel.
KERNEL_OPT := $(if $(SAN),-O1,-O3)
KERNEL_WIDE_OPT := $(if $(SAN),$(if $(IS_GCC),-O1,-O0),-O3)
ifneq ($(SAN),)
$(BUILD)/src/device/cpu/linear_int8_avx2.o: HARDEN += \
    -fno-sanitize=alignment,pointer-overflow,null,object-size
endif
# A vector that is loaded is a call for the thread sanitizer: three quarters of its time. These files
# share nothing between threads; what divides work among them, and the generic kernels, stay watched.
ifeq ($(SAN),thread)
$(BUILD)/%_avx2.o $(BUILD)/%_avx512.o $(BUILD)/%_avx512bf16.o $(BUILD)/%_amx.o \
$(BUILD)/%_neon.o $(BUILD)/%_dotprod.o $(BUILD)/%_i8mm.o: \
    HARDEN += -fno-sanitize=thread
endif
ifneq ($(findstring fuzzer,$(SAN)),)
$(BUILD)/src/device/cpu/%.o: HARDEN :=
endif
ifeq ($(SAN),)
$(BUILD)/src/device/cpu/%.o: HARDEN := -fstack-protector-strong -fno-strict-aliasing
endif
ifeq ($(MACHINE),x86_64)
$(BUILD)/%_avx2.o:   CFLAGS += -mavx2 -mfma -mf16c -mbmi2 $(KERNEL_OPT)
AVX512 := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vbmi -mavx512vnni -mfma -mf16c
$(BUILD)/%_avx512.o: CFLAGS += $(AVX512) $(KERNEL_WIDE_OPT)
$(BUILD)/%_avx512bf16.o $(BUILD)/%_amx.o: CFLAGS += $(AVX512) -mavx512bf16 $(KERNEL_WIDE_OPT)
endif
ifeq ($(MACHINE),aarch64)
$(BUILD)/%_neon.o:    CFLAGS += $(KERNEL_OPT)
$(BUILD)/%_dotprod.o: CFLAGS += $(KERNEL_OPT) -march=armv8.2-a+dotprod
$(BUILD)/%_i8mm.o:    CFLAGS += $(KERNEL_OPT) -march=armv8.2-a+dotprod+i8mm
# gcc would load so much so early that the sums lose their registers.
$(BUILD)/src/device/cpu/linear_int8_%.o: CFLAGS += $(if $(IS_GCC),-fno-schedule-insns)
endif

# The flags are a file that changes only with them, so other flags mean other objects. Objects may
# have warnings where they were not errors: the first build with WERROR after such makes all anew.
FLAGS := $(filter-out -Werror,$(CC) $(CPPFLAGS) $(CFLAGS) $(HARDEN))
$(BUILD)/flags: always
	@mkdir -p $(@D)
	@{ printf '%s\n' '$(FLAGS)' | cmp -s - $@ $(if $(WERROR),&& test -f $(@D)/strict); } || \
	    printf '%s\n' '$(FLAGS)' >$@
	@$(if $(WERROR),touch,rm -f) $(@D)/strict
# So is the list of objects: a file that went away must leave the library.
$(BUILD)/objects: always
	@mkdir -p $(@D)
	@printf '%s\n' '$(OBJ)' | cmp -s - $@ || printf '%s\n' '$(OBJ)' >$@

$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(if $(V),,@echo '  cc   $@')
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(HARDEN) -MMD -MP -c $< -o $@
$(LIB): $(OBJ) $(BUILD)/objects
	@rm -f $@
	$(Q)$(AR) rcs $@ $(OBJ)
$(BUILD)/src/device/cuda/%.o: src/device/cuda/%.cu $(wildcard src/device/cuda/*.h) src/device/device.h
	@mkdir -p $(@D)
	$(if $(V),,@echo '  nvcc $@')
	$(Q)$(NVCC) $(NVCCFLAGS) -c $< -o $@
$(BUILD)/mlxcel-cuda.so: $(CUDA_OBJ)
	$(if $(V),,@echo '  link $@')
	$(Q)$(NVCC) -shared -cudart static $^ -o $@
$(BUILD)/mlxcel: $(BUILD)/src/main.o $(LIB)
	$(if $(V),,@echo '  link $@')
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@
# The server under its other name.
$(BUILD)/mlxcel-server: $(BUILD)/mlxcel
	$(Q)ln -sf mlxcel $@
$(BUILD)/tests/%: $(BUILD)/tests/%.o $(LIB)
	$(if $(V),,@echo '  link $@')
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) -lcmocka -o $@
$(BUILD)/tools/%: $(BUILD)/tools/%.o $(LIB)
	$(if $(V),,@echo '  link $@')
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@
$(BUILD)/fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(LIB)
	$(if $(V),,@echo '  link $@')
	$(Q)$(CC) $(LDFLAGS) -fsanitize=fuzzer $^ $(LDLIBS) -o $@

tools: $(TOOLS)
tests: $(TESTS)

test: all $(TESTS) ## build and run every test; T=word only those with the word in their path
	@MLXCEL=$(BUILD)/mlxcel MLXCEL_BUILD=$(BUILD) scripts/run-tests \
	    $(if $(T),$(foreach t,$(TESTS) $(TEST_SCRIPTS),$(if $(findstring $(T),$(t)),$(t))),$(TESTS) \
	    $(TEST_SCRIPTS))

TSAN_TESTS := $(addprefix build/tsan/tests/,unit/test_threads unit/test_workers \
                families/test_storm api/test_leaving api/test_exchanges)
tsan: ## the server's load test and the threads' tests under the thread sanitizer
	$(MAKE) SAN=thread BUILD=build/tsan all $(TSAN_TESTS)
	MLXCEL=build/tsan/mlxcel MLXCEL_BUILD=build/tsan scripts/run-tests \
	    $(TSAN_TESTS) tests/api/test_load.sh

bench: all bench-tokens ## measure with checkpoints of recipe weights; writes bench/RESULTS.md
	bench/run

bench-tokens: tools ## tokenizers, beside the package if PYTHON has it; writes bench/TOKENS.md
	bench/tokens

bench-serve: all ## measure the server beside bench; writes bench/SERVE.md (BENCH_QUICK=1: a rehearsal)
	bench/serve

bench-arm: ## count the instructions of ARM's kernels under qemu; writes bench/ARM.md
	bench/arm

soak: all ## half an hour of mixed load on the server: flat memory, exact answers (SOAK_SECONDS=1800)
	bench/soak

bench-peers: all ## beside a llama-bench: PEER=path of it (needs pip's gguf); writes bench/PEERS.md
	@test -n "$(PEER)" || { echo 'bench-peers: PEER=path of a llama-bench' >&2; exit 2; }
	python3 tools/bench_peers.py $(PEER) $(PEER_OPTIONS)

bench-report: all ## time of a token over context, batch and threads; writes bench/report
	test -f build/bench/1b-4bit/config.json || \
	    $(BUILD)/tools/synth --shape llama-1b --bits 4 --group 64 -o build/bench/1b-4bit
	python3 tools/bench_report.py build/bench/1b-4bit $(REPORT_OPTIONS)

diff-tokens: tools ## compare tokenizers with their makers' packages (needs tokenizers, ...)
	python3 tools/diff_tokens.py

diff-templates: tools ## compare chat templates with Jinja2, random and real ones (needs transformers)
	python3 tools/diff_templates.py

docs: tools ## write the tables of docs/server.md from the sources
	$(BUILD)/tools/docs_tables docs/server.md

tidy: ## check style, sizes, include direction, banned calls (STYLE.md)
	tools/tidy

FUZZ_BUILD = +$(MAKE) CC=clang SAN=fuzzer-no-link,address,undefined BUILD=build/fuzz
fuzz: ## fuzz every reader of untrusted bytes, FUZZ_SECONDS each (60)
	$(FUZZ_BUILD) fuzz-programs
	scripts/run-fuzz $(FUZZ_SECONDS)
fuzz-short: ## the same, 10 seconds each
	$(MAKE) fuzz FUZZ_SECONDS=10
fuzz-programs: $(FUZZ)

# D is where things go; what the sources do not have yet is left out.
D = $(DESTDIR)$(PREFIX)
install: all ## install under PREFIX (/usr/local), below DESTDIR
	install -d $(D)/bin $(D)/lib/pkgconfig $(D)/include $(D)/share/mlxcel $(D)/share/man/man1 \
	    $(D)/share/bash-completion/completions $(D)/share/zsh/site-functions \
	    $(D)/share/fish/vendor_completions.d $(D)/share/doc/mlxcel
	install -m 755 $(BIN) $(D)/bin/mlxcel
	ln -sf mlxcel $(D)/bin/mlxcel-server
	install -m 644 $(LIB) $(D)/lib/libmlxcel.a
	$(if $(CUDA),install -d $(D)/lib/mlxcel && install -m 755 $(CUDA_SO) $(D)/lib/mlxcel/)
	for h in $(wildcard include/*.h); do install -m 644 $$h $(D)/include/ || exit 1; done
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' -e 's|@PKGS@|$(PKGS)|' \
	    mlxcel.pc.in >$(D)/lib/pkgconfig/mlxcel.pc
	if [ -d models/demo ]; then install -d $(D)/share/mlxcel/demo && \
	    install -m 644 models/demo/* $(D)/share/mlxcel/demo/; fi
	$(BIN) --man >$(D)/share/man/man1/mlxcel.1
	for c in $$($(BIN) --man | sed 's/\\//g' | grep -o 'mlxcel-[a-z-]*' | sed 's/mlxcel-//' | sort -u); \
	    do $(BIN) help $$c --man >$(D)/share/man/man1/mlxcel-$$c.1 || exit 1; done
	$(BIN) --completion bash >$(D)/share/bash-completion/completions/mlxcel
	$(BIN) --completion zsh >$(D)/share/zsh/site-functions/_mlxcel
	$(BIN) --completion fish >$(D)/share/fish/vendor_completions.d/mlxcel.fish
	install -m 644 LICENSE README.md $(D)/share/doc/mlxcel/

uninstall: ## remove what install put there
	rm -f $(D)/bin/mlxcel $(D)/bin/mlxcel-server $(D)/lib/libmlxcel.a $(D)/lib/pkgconfig/mlxcel.pc \
	    $(D)/share/man/man1/mlxcel*.1 $(D)/share/bash-completion/completions/mlxcel \
	    $(D)/share/zsh/site-functions/_mlxcel $(D)/share/fish/vendor_completions.d/mlxcel.fish \
	    $(patsubst include/%,$(D)/include/%,$(wildcard include/*.h))
	rm -rf $(D)/share/mlxcel $(D)/share/doc/mlxcel $(D)/lib/mlxcel

clean: ## remove build/
	rm -rf build

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  make SAN=address,undefined test    the same under sanitizers'
	@echo '  make CC=clang WERROR=1             with clang, warnings are errors'

-include $(OBJ:.o=.d) $(TESTS:=.d) $(TOOLS:=.d) $(FUZZ:$(BUILD)/%=$(BUILD)/tests/fuzz/%.d) $(BUILD)/src/main.d
