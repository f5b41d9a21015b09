/* load.cu - weights on their way to the device: all that is adopted is noted, and goes over at
 * once, when it is known how much it is.
 *
 * What lies side by side on the device is copied in windows. Threads fill pinned buffers from the
 * mapped files, two each, so that one is read from the disk while the other crosses the bus. */
#include "device/cuda/cuda.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <sys/mman.h>
#include <thread>

enum { ALIGN = 256, THREADS_MAX = 8 };
static const size_t WINDOW = (size_t)8 << 20;

struct item { const char *from; size_t bytes, at; };         /* at: in the slab */

struct upload {
    std::vector<item> items;         /* ascending places */
    char *slab;
    size_t bytes;
    int ordinal, n_threads;
    std::atomic<size_t> next;        /* window */
    std::atomic<int> error;          /* the first, a cudaError_t */
};

bool cuda_adopt(struct device *dev, const void *at, size_t bytes) {
    struct cuda *c = cuda_of(dev);
    if (!bytes || c->copies->count((const char *)at)) return true;
    (*c->copies)[(const char *)at] = (struct cuda_copy){ bytes, NULL };
    c->adopted->push_back((const char *)at);
    return true;
}

/* Asks the kernel to read ahead; it may not, and nothing depends on it. */
static void read_ahead(const char *at, size_t bytes) {
    const uintptr_t page = 4095, begin = (uintptr_t)at & ~page;
    madvise((void *)begin, (uintptr_t)at + bytes - begin, MADV_WILLNEED);
}

/* Calls with each part of the window: where it comes from, where it goes in the window. */
template <class F>
static void each_part(const struct upload *u, size_t window, F call) {
    const size_t begin = window * WINDOW, end = std::min(begin + WINDOW, u->bytes);
    auto first = std::upper_bound(u->items.begin(), u->items.end(), begin,
                                  [](size_t at, const item &i) { return at < i.at + i.bytes; });
    for (auto i = first; i != u->items.end() && i->at < end; ++i) {
        const size_t from = std::max(i->at, begin), to = std::min(i->at + i->bytes, end);
        if (from < to) call(i->from + (from - i->at), from - begin, to - from);
    }
}

static void fail(struct upload *u, cudaError_t e) {
    int none = cudaSuccess;
    if (e != cudaSuccess) u->error.compare_exchange_strong(none, e);
}

/* Gaps between tensors are filled with what was in the buffer: nobody reads them. */
static void fill(const struct upload *u, size_t window, char *buffer) {
    each_part(u, window + (size_t)u->n_threads,
              [](const char *from, size_t, size_t n) { read_ahead(from, n); });
    each_part(u, window, [=](const char *from, size_t at, size_t n) {
        memcpy(buffer + at, from, n);
    });
}

static void carry(struct upload *u) {
    char *buffer[2] = { NULL, NULL };
    cudaEvent_t sent[2] = { NULL, NULL };
    cudaStream_t stream = NULL;
    cudaError_t e = cudaSetDevice(u->ordinal);
    if (e == cudaSuccess) e = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    for (int k = 0; k < 2 && e == cudaSuccess; k++) {
        e = cudaHostAlloc((void **)&buffer[k], WINDOW, cudaHostAllocDefault);
        if (e == cudaSuccess) e = cudaEventCreateWithFlags(&sent[k], cudaEventDisableTiming);
    }
    const size_t windows = (u->bytes + WINDOW - 1) / WINDOW;
    size_t w;
    for (int k = 0; e == cudaSuccess && !u->error && (w = u->next++) < windows; k = !k) {
        e = cudaEventSynchronize(sent[k]);       /* done at once while nothing was sent */
        fill(u, w, buffer[k]);
        const size_t at = w * WINDOW, n = std::min(WINDOW, u->bytes - at);
        if (e == cudaSuccess)
            e = cudaMemcpyAsync(u->slab + at, buffer[k], n, cudaMemcpyHostToDevice, stream);
        if (e == cudaSuccess) e = cudaEventRecord(sent[k], stream);
    }
    if (stream && e == cudaSuccess) e = cudaStreamSynchronize(stream);
    fail(u, e);
    for (int k = 0; k < 2; k++) {
        if (sent[k]) cudaEventDestroy(sent[k]);
        cudaFreeHost(buffer[k]);
    }
    if (stream) cudaStreamDestroy(stream);
}

/* A small model is there sooner than threads and pinned buffers would be. */
static void carry_few(struct device *dev, struct upload *u) {
    /* Gaps between tensors are read in part where a word is, and not used. */
    fail(u, cudaMemsetAsync(u->slab, 0, u->bytes, cuda_of(dev)->stream));
    for (const item &i : u->items)
        fail(u, cudaMemcpyAsync(u->slab + i.at, i.from, i.bytes, cudaMemcpyHostToDevice,
                                cuda_of(dev)->stream));
}

static void carry_all(struct device *dev, struct upload *u) {
    const size_t windows = (u->bytes + WINDOW - 1) / WINDOW;
    const unsigned cores = std::thread::hardware_concurrency();
    std::vector<std::thread> threads;
    if (windows < 4) {
        carry_few(dev, u);
        return;
    }
    u->n_threads = std::min<int>(THREADS_MAX, (int)std::min<size_t>(windows, cores ? cores : 1));
    for (int i = 0; i < u->n_threads; i++) threads.emplace_back(carry, u);
    for (std::thread &t : threads) t.join();
}

static double gib(size_t bytes) {
    return (double)bytes / (double)((size_t)1 << 30);
}

/* Every tensor begins where the device likes addresses to be. */
static size_t lay_out(struct cuda *c, struct upload *u) {
    size_t end = 0;
    for (const char *from : *c->adopted) {
        const size_t bytes = (*c->copies)[from].bytes;
        u->items.push_back((struct item){ from, bytes, end });
        end += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    }
    c->adopted->clear();
    return u->bytes = end;
}

bool cuda_adopted(struct device *dev, struct err *err) {
    struct cuda *c = cuda_of(dev);
    struct upload u = {};
    size_t free = 0, total = 0;
    if (c->adopted->empty()) return true;
    u.ordinal = dev->ordinal;
    if (!lay_out(c, &u)) return true;
    cudaError_t e = cudaMemGetInfo(&free, &total);
    if (e == cudaSuccess) e = cudaMalloc((void **)&u.slab, u.bytes);
    if (e == cudaErrorMemoryAllocation) {
        cudaGetLastError();          /* not a fault of the device: it goes on without these */
        return cuda_fail(err, ERR_MEMORY, "the weights need %.2f GiB, but %.2f of %.2f GiB are "
                         "free", gib(u.bytes), gib(free), gib(total));
    }
    if (e == cudaSuccess) {
        (*c->slabs)[u.slab] = u.bytes;
        for (const item &i : u.items) (*c->copies)[i.from].there = u.slab + i.at;
        carry_all(dev, &u);
        e = (cudaError_t)u.error.load();
    }
    if (e == cudaSuccess) return true;
    cuda_note(dev, e);
    return cuda_fail(err, ERR_DEVICE, "loading the weights: %s", cudaGetErrorString(e));
}
