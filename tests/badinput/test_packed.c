/* test_packed.c - packed weights in memory and in a file: every matrix is where it should be with
 * the bytes that cpu_pack gives, a good file is used again, and whatever is not that very file is
 * made anew. */
#include "base/log.h"
#include "device/cpu/pack.h"
#include "device/cpu/packed_place.h"
#include "device/device.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <cmocka.h>

enum { N = 7, FEW = 6 };

/* Ragged panels, all kinds of scales, one that is not packed at all (0 bits: plain), and as the
 * last one that is larger than the stage of a writer. The first FEW are two blocks of a file. */
static const struct { int64_t rows, cols; int bits, group; enum dtype scales; } shapes[N] = {
    { 5000, 2048, 4, 64, BF16 }, { 33, 256, 3, 32, F16 }, { 16, 64, 2, 64, F32 },
    { 64, 64, 0, 0, F32 }, { 1, 128, 8, 128, F32 }, { 777, 1024, 6, 128, BF16 },
    { 30001, 2048, 4, 64, BF16 },
};

struct fixture {
    struct device dev;
    struct tensor w[N];
    struct pack_item item[N];
    struct pack_job job;
    char dir[64], model[96], file[320];
    int let_go, calls;
    double last;
};

static void let_go(void *to, const struct tensor *w) {
    struct fixture *f = to;
    assert_true(w >= f->w && w < f->w + N);
    f->let_go++;
}

static void progress(void *to, double done) {
    struct fixture *f = to;
    assert_true(done > f->last && done <= 1);
    f->last = done;
    f->calls++;
}

static void *drawn(size_t bytes, uint64_t *seed) {
    unsigned char *at = mem_new(bytes);
    for (size_t i = 0; i < bytes; i++) {
        *seed = *seed * 6364136223846793005u + 1442695040888963407u;
        at[i] = (unsigned char)(*seed >> 56);
    }
    return at;
}

static int open_fixture(void **state) {
    struct fixture *f = mem_new(sizeof *f);
    uint64_t seed = 1;
    struct err err = { 0 };
    for (int i = 0; i < N; i++) {
        size_t n = (size_t)(shapes[i].rows * shapes[i].cols);
        struct tensor *w = &f->w[i];
        *w = tensor_2d(NULL, shapes[i].bits ? MLX_AFFINE : F32, shapes[i].rows, shapes[i].cols);
        w->at = drawn(shapes[i].bits ? n / 8 * (size_t)shapes[i].bits : n * 4, &seed);
        if (shapes[i].bits) {
            size_t scales = n / (size_t)shapes[i].group * dtype_bytes(shapes[i].scales);
            w->quant = (struct quant){
                .scales = drawn(scales, &seed), .biases = drawn(scales, &seed),
                .scale_dtype = shapes[i].scales, .group = (uint16_t)shapes[i].group,
                .bits = (uint8_t)shapes[i].bits };
        }
        f->item[i] = (struct pack_item){ w, (uint64_t)i * 1000 };
    }
    f->dev.op = &device_cpu;
    const struct device_options o = { .threads = 3, .rounded = true };
    assert_true(device_cpu.open(&f->dev, &o, &err));
    snprintf(f->dir, sizeof f->dir, "/tmp/test_packed_XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->model, sizeof f->model, "%s/model", f->dir);
    assert_int_equal(mkdir(f->model, 0700), 0);
    f->job = (struct pack_job){ .item = f->item, .n = FEW, .model = f->model, .let_go = let_go,
                                .progress = progress, .to = f, .source = "0123456789abcdef" };
    *state = f;
    return 0;
}

static void remove_all(const char *dir) {
    char path[512];
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (unlink(path)) remove_all(path);
    }
    if (d) closedir(d);
    rmdir(dir);
}

static int close_fixture(void **state) {
    struct fixture *f = *state;
    f->dev.op->close(&f->dev);
    for (int i = 0; i < N; i++) {
        free(f->w[i].at);
        free((void *)(uintptr_t)f->w[i].quant.scales);
        free((void *)(uintptr_t)f->w[i].quant.biases);
    }
    remove_all(f->dir);
    free(f);
    return 0;
}

/* Packs, and says whether a file was written (or memory filled). */
static bool pack(struct fixture *f) {
    for (int i = 0; i < N; i++) f->w[i].quant.packed = NULL;
    f->let_go = f->calls = 0;
    f->last = 0;
    f->dev.op->pack(&f->dev, &f->job);
    assert_true(f->let_go == 0 || f->let_go == (int)f->job.n - 1);
    assert_true((f->calls > 0) == (f->let_go > 0));
    return f->let_go > 0;
}

static void expect_packed(const struct fixture *f) {
    for (int i = 0; i < N; i++) {
        const struct tensor *w = &f->w[i];
        size_t bytes = cpu_packed_bytes(w);
        bool asked = i < (int)f->job.n;
        assert_true((bytes > 0) == (shapes[i].bits > 0));
        assert_true((w->quant.packed != NULL) == (bytes > 0 && asked));
        if (!w->quant.packed) continue;
        assert_int_equal((uintptr_t)w->quant.packed % CPU_PACK_ALIGN, 0);
        void *want = aligned_alloc(CPU_PACK_ALIGN, bytes);
        assert_non_null(want);
        cpu_pack(want, w, 0, (w->shape[0] + QUANT_PANEL - 1) / QUANT_PANEL);
        assert_memory_equal(want, w->quant.packed, bytes);
        free(want);
    }
}

static void expect_unpacked(const struct fixture *f) {
    for (int i = 0; i < N; i++) assert_null(f->w[i].quant.packed);
}

/* The names of files in the folder of packed weights that end so; the last one's path. */
static int count_files(struct fixture *f, const char *end) {
    char dir[128];
    int n = 0;
    snprintf(dir, sizeof dir, "%s/a/b", f->dir);
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));)
        if (str_ends(str_of(e->d_name), end)) {
            snprintf(f->file, sizeof f->file, "%s/%.150s", dir, e->d_name);
            n++;
        }
    if (d) closedir(d);
    return n;
}

static void use_files(struct fixture *f) {
    static char dir[128];
    snprintf(dir, sizeof dir, "%s/a/b", f->dir);
    f->job.place = (struct pack_place){ .dir = dir };
}

static void in_memory(void **state) {
    struct fixture *f = *state;
    f->job.n = N;
    assert_true(pack(f));
    expect_packed(f);
    use_files(f);
    f->job.place.file_min = SIZE_MAX;        /* too small for a file */
    assert_true(pack(f));
    expect_packed(f);
    assert_int_equal(count_files(f, ".packed"), 0);
    f->job.place.off = true;
    assert_false(pack(f));
    expect_unpacked(f);
}

static void a_file_is_used_again(void **state) {
    struct fixture *f = *state;
    struct stat before, after;
    use_files(f);
    f->job.n = N;
    assert_true(pack(f));
    expect_packed(f);
    assert_int_equal(count_files(f, ".part"), 0);
    assert_int_equal(count_files(f, ".packed"), 1);
    assert_int_equal(stat(f->file, &before), 0);
    assert_false(pack(f));
    expect_packed(f);
    assert_int_equal(stat(f->file, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
}

static long size_of(const char *path) {
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return (long)st.st_size;
}

/* The head as it would be with these bytes in it, its check made right again. */
static void rewrite_head(const char *path, void (*change)(struct packed_head *)) {
    FILE *file = fopen(path, "r+b");
    struct packed_head h;
    assert_non_null(file);
    assert_int_equal(fread(&h, sizeof h, 1, file), 1);
    size_t bytes = sizeof h + (size_t)h.n_blocks * 8;
    char *front = mem_new(bytes);
    change(&h);
    h.check = 0;
    rewind(file);
    assert_int_equal(fread(front, 1, bytes, file), bytes);
    memcpy(front, &h, sizeof h);
    h.check = XXH3_64bits(front, bytes);
    rewind(file);
    assert_int_equal(fwrite(&h, sizeof h, 1, file), 1);
    fclose(file);
    free(front);
}

static void other_format(struct packed_head *h) { h->format++; }
static void other_layout(struct packed_head *h) { h->layout++; }
static void other_id(struct packed_head *h) { h->id[15] ^= 1; }
static void lying_offset(struct packed_head *h) { h->payload_at += 4096; }
static void lying_far(struct packed_head *h) { h->payload_at = UINT64_MAX - 4095; }
static void lying_bytes(struct packed_head *h) { h->payload_bytes -= 64; }
static void lying_blocks(struct packed_head *h) { h->block_bytes = 0; }
static void other_path(struct packed_head *h) { h->path[1] ^= 1; }
static void endless_path(struct packed_head *h) { h->path_bytes = UINT32_MAX; }

static void put_byte(const char *path, long at) {
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, at, SEEK_SET), 0);
    int c = fgetc(file);
    assert_int_equal(fseek(file, at, SEEK_SET), 0);
    assert_true(fputc(c ^ 0x10, file) != EOF);
    fclose(file);
}

/* Whatever was done to the file, it is not used, and a good one stands in its place after. */
static void expect_rebuilt(struct fixture *f, const char *what) {
    print_message("%s\n", what);
    assert_true(pack(f));
    expect_packed(f);
    assert_int_equal(count_files(f, ".part"), 0);
    assert_int_equal(count_files(f, ".packed"), 1);
    assert_false(pack(f));
}

static void bad_files_are_made_anew(void **state) {
    struct fixture *f = *state;
    static const struct { const char *what; void (*change)(struct packed_head *); } heads[] = {
        { "another format", other_format }, { "another layout", other_layout },
        { "another source", other_id }, { "an offset that lies", lying_offset },
        { "an offset past everything", lying_far }, { "a size that lies", lying_bytes },
        { "blocks of nothing", lying_blocks }, { "another model", other_path },
        { "a path without end", endless_path },
    };
    use_files(f);
    assert_true(pack(f));
    assert_int_equal(count_files(f, ".packed"), 1);
    const long size = size_of(f->file), sum = (long)sizeof(struct packed_head);
    for (size_t i = 0; i < COUNT(heads); i++) {
        rewrite_head(f->file, heads[i].change);
        expect_rebuilt(f, heads[i].what);
    }
    const long byte[] = { 0, 20, 100, sum, sum + 9, size - 1, size / 2, 2 << 20 };
    for (size_t i = 0; i < COUNT(byte); i++) {
        put_byte(f->file, byte[i]);
        expect_rebuilt(f, "a bit that fell over");
    }
    const long cut[] = { 0, 1, 4095, sum, size / 2, size - 1, size + 1 };
    for (size_t i = 0; i < COUNT(cut); i++) {
        assert_int_equal(truncate(f->file, cut[i]), 0);
        expect_rebuilt(f, "another length");
    }
    assert_int_equal(unlink(f->file), 0);
    assert_int_equal(symlink("/dev/zero", f->file), 0);
    expect_rebuilt(f, "a link");
    assert_int_equal(unlink(f->file), 0);
    assert_int_equal(mkfifo(f->file, 0600), 0);
    expect_rebuilt(f, "a pipe");
}

/* Every one of these makes other packed weights, so the file of before must not be taken. */
static void other_sources(void **state) {
    struct fixture *f = *state;
    use_files(f);
    assert_true(pack(f));
    f->job.source[0] ^= 1;
    expect_rebuilt(f, "other contents");
    f->item[0].at = 17;
    expect_rebuilt(f, "a matrix of another place");
    struct pack_item first = f->item[0];
    f->item[0] = f->item[4];
    f->item[4] = first;
    expect_rebuilt(f, "another order");
}

static void touch(const char *dir, const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("left by somebody", file);
    fclose(file);
}

/* A program that was killed left a part, a model went away, and somebody keeps notes there. */
static void what_is_stale_goes(void **state) {
    struct fixture *f = *state;
    char gone[320], other[96];
    use_files(f);
    snprintf(other, sizeof other, "%s/other", f->dir);
    assert_int_equal(mkdir(other, 0700), 0);
    f->job.model = other;
    assert_true(pack(f));
    assert_int_equal(count_files(f, ".packed"), 1);
    memcpy(gone, f->file, sizeof gone);
    f->job.model = f->model;
    touch(f->job.place.dir, "killed-0123.part");
    touch(f->job.place.dir, "notes.packed");
    assert_true(pack(f));
    assert_int_equal(access(gone, F_OK), 0);         /* its model is still there */
    assert_int_equal(count_files(f, ".part"), 0);
    assert_int_equal(rmdir(other), 0);
    f->job.source[0] ^= 1;
    assert_true(pack(f));
    assert_int_not_equal(access(gone, F_OK), 0);
    assert_int_equal(count_files(f, "notes.packed"), 1);
}

/* Neither a folder that cannot be nor a disk that is full stops anything. */
static void no_room(void **state) {
    struct fixture *f = *state;
    struct rlimit before, small = { 1 << 20, 0 };
    log_level = LOG_ERROR;
    f->job.place.dir = "/dev/null/packed";
    assert_false(pack(f));
    expect_unpacked(f);
    use_files(f);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    f->dev.op->pack(&f->dev, &f->job);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    expect_unpacked(f);
    assert_int_equal(count_files(f, ".part") + count_files(f, ".packed"), 0);
    assert_true(pack(f));
    expect_packed(f);
    log_level = LOG_WARN;
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_fixture, close_fixture)
    const struct CMUnitTest tests[] = {
        TEST(in_memory), TEST(a_file_is_used_again), TEST(bad_files_are_made_anew),
        TEST(other_sources), TEST(what_is_stale_goes), TEST(no_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
