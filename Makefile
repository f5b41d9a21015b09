# mlxcel: `make help` lists what there is to make.

VERSION := 0.1.0
CC      ?= cc
PREFIX  ?= /usr/local
SAN     ?=
FUZZ_SECONDS ?= 60

BUILD := build$(if $(SAN),/san-$(subst $(comma),-,$(SAN)))
comma := ,

PKGS     := json-c libpcre2-8 libutf8proc libedit libxxhash
WARN     := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wformat=2 -Wundef -Wvla
OPT      := -O2 -g
CPPFLAGS += -D_GNU_SOURCE -DMLXCEL_VERSION='"$(VERSION)"' -Isrc -Iinclude $(shell pkg-config --cflags $(PKGS))
CFLAGS   += -std=c11 $(OPT) $(WARN) -ffp-contract=off -fPIC -pthread
LDLIBS   += $(shell pkg-config --libs $(PKGS)) -lm -pthread
ifneq ($(SAN),)
OPT      := -O1 -g
CFLAGS   += -fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all
LDFLAGS  += -fsanitize=$(SAN)
else
CFLAGS   += -fstack-protector-strong
endif

# Tests link everything but main.c.
SRC   := $(filter-out src/main.c,$(shell find src -name '*.c' | sort))
OBJ   := $(SRC:%.c=$(BUILD)/%.o)
LIB   := $(BUILD)/libmlxcel.a
BIN   := $(BUILD)/mlxcel
TESTS := $(patsubst %.c,$(BUILD)/%,$(shell find tests -name 'test_*.c' 2>/dev/null | sort))
TOOLS := $(patsubst %.c,$(BUILD)/%,$(wildcard tools/*.c))
FUZZ  := $(patsubst tests/fuzz/%.c,build/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))

.PHONY: all test bench tidy fuzz install clean help tools tests
all: $(BIN) tools ## build the program (build/mlxcel) and the tools

# An instruction set is a file: it alone is compiled for it, and runs only where the CPU has it.
$(BUILD)/%_avx2.o:   CFLAGS += -mavx2 -mfma -mf16c -O3
$(BUILD)/%_avx512.o: CFLAGS += -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vbmi -mfma -mf16c -O3

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@
$(LIB): $(OBJ)
	@rm -f $@
	$(AR) rcs $@ $^
$(BIN): $(BUILD)/src/main.o $(LIB)
	$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@
$(BUILD)/tests/%: $(BUILD)/tests/%.o $(LIB)
	$(CC) $(LDFLAGS) $^ $(LDLIBS) -lcmocka -o $@
$(BUILD)/tools/%: $(BUILD)/tools/%.o $(LIB)
	$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

tools: $(TOOLS)
tests: $(TESTS)
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
.SECONDARY:
