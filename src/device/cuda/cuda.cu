/* cuda.cu - an NVIDIA GPU as a device: its memory, its copies of what the host mapped, and the
 * table of its ops. */
#include "device/cuda/heads.h"
#include "device/cuda/linear.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <new>

enum { LISTS_MAX = 64, OLDEST_CHIP = 8 };

bool cuda_fail(struct err *err, enum err_code code, const char *format, ...) {
    va_list args;
    if (!err || err->code != ERR_NONE) return false;
    err->code = code;
    const int n = snprintf(err->text, sizeof err->text, "device cuda: ");
    va_start(args, format);
    vsnprintf(err->text + n, sizeof err->text - (size_t)n, format, args);
    va_end(args);
    return false;
}

/* Room for rows in bf16, and for weights. */
static cudaError_t open_rounded(struct cuda *c) {
    const size_t few = (size_t)FEW_ROWS * CUDA_FEW_COLS * sizeof *c->rounded + 128;
    const size_t many = CUDA_ROUNDED * sizeof *c->rounded;
    cudaError_t e = cudaMalloc((void **)&c->rounded, many);
    for (int i = 0; i < 2 && e == cudaSuccess; i++) e = cudaMalloc((void **)&c->few[i], few);
    for (int i = 0; i < 2 && e == cudaSuccess && c->hopper; i++)
        e = cudaMalloc((void **)&c->many[i], many);
    if (e == cudaSuccess && c->hopper)
        e = cudaMalloc((void **)&c->unpacked, CUDA_UNPACKED * sizeof *c->unpacked);
    return e;
}

static void forget_rows(struct cuda *c) {
    c->few_is.x = c->many_is.x = NULL;
}

static bool fail(struct err *err, enum err_code code, const char *what, cudaError_t e) {
    return cuda_fail(err, code, "%s: %s", what, cudaGetErrorString(e));
}

/* Does nothing: whether it can be loaded says whether this build has code for a chip. */
__global__ static void probe(void) {}

static bool build_knows_chip(const cudaDeviceProp &is, struct err *err) {
    cudaFuncAttributes a;
    cudaError_t e = cudaFuncGetAttributes(&a, probe);
    if (e == cudaSuccess) return true;
    cudaGetLastError();
    if (e == cudaErrorNoKernelImageForDevice || e == cudaErrorInvalidDeviceFunction)
        return cuda_fail(err, ERR_UNSUPPORTED, "this build has no code for %.80s, of compute "
                         "capability %d.%d (make CUDA=1 CUDA_ARCH=%d%d makes it)", is.name,
                         is.major, is.minor, is.major, is.minor);
    return fail(err, ERR_DEVICE, "the GPU does not run a kernel", e);
}

static void free_all(struct cuda *c);

static bool open_cuda(struct device *dev, const struct device_options *o, struct err *err) {
    cudaDeviceProp is;
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess || n == 0)
        return fail(err, ERR_DEVICE, "no GPU to use",
                    e != cudaSuccess ? e : cudaErrorNoDevice);
    if ((e = cudaSetDevice(o->ordinal)) != cudaSuccess ||
        (e = cudaGetDeviceProperties(&is, o->ordinal)) != cudaSuccess)
        return fail(err, ERR_DEVICE, "the GPU does not open", e);
    if (!build_knows_chip(is, err)) return false;
    struct cuda *c = new struct cuda();
    c->hopper = is.major == 9 && is.minor == 0;
    if ((e = cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking)) != cudaSuccess ||
        (e = cudaMalloc((void **)&c->partial, PARTIAL_FLOATS * sizeof(float))) != cudaSuccess ||
        (o->rounded && (e = open_rounded(c)) != cudaSuccess)) {
        free_all(c);
        return fail(err, ERR_DEVICE, "the GPU gives no stream and no memory", e);
    }
    c->overlaps = is.major >= 9;
    c->fast = o->fast;
    c->processors = is.multiProcessorCount;
    snprintf(c->name, sizeof c->name, "cuda, %.80s, %zu GiB", is.name, is.totalGlobalMem >> 30);
    c->copies = new std::map<const char *, struct cuda_copy>();
    c->experts = new std::map<const void *, struct cuda_table>();
    c->adopted = new std::vector<const char *>();
    c->slabs = new std::map<char *, size_t>();
    c->lists = new std::map<std::string, struct cuda_list>();
    c->divided = new std::set<const void *>();
    c->packed = new std::map<const char *, struct cuda_packed>();
    c->norm = new struct cuda_norm();
    c->sum = new struct cuda_sum();
    c->heads = new struct heads();
    dev->impl = c;
    dev->ordinal = o->ordinal;
    return true;
}

static void forget_lists(struct cuda *c) {
    for (auto &list : *c->lists)
        if (list.second.graph) cudaGraphExecDestroy(list.second.graph);
    c->lists->clear();
}

/* Also of a device that did not open to the end. */
static void free_all(struct cuda *c) {
    for (int i = 0; i < 2; i++) {
        if (c->mark[i]) cudaEventDestroy(c->mark[i]);
        cudaFree(c->few[i]);
        cudaFree(c->many[i]);
    }
    cudaFree(c->unpacked);
    cudaFree(c->partial);
    cudaFree(c->rounded);
    if (c->lists) forget_lists(c);
    if (c->slabs)
        for (auto &slab : *c->slabs) cudaFree(slab.first);
    if (c->experts)
        for (auto &table : *c->experts) cudaFree(table.second.at);
    if (c->packed)
        for (auto &packed : *c->packed) cudaFree(packed.second.scales);
    if (c->stream) cudaStreamDestroy(c->stream);
    delete c->copies;
    delete c->experts;
    delete c->adopted;
    delete c->slabs;
    delete c->lists;
    delete c->divided;
    delete c->packed;
    delete c->norm;
    delete c->sum;
    delete c->heads;
    delete c;
    cudaGetLastError();              /* the next device begins without this one's faults */
}

static void close_cuda(struct device *dev) {
    struct cuda *c = cuda_of(dev);
    if (!c) return;
    cudaStreamSynchronize(c->stream);
    free_all(c);
    dev->impl = NULL;
}

static void describe(const struct device *dev, char *text, size_t size) {
    snprintf(text, size, "%s", cuda_of(dev)->name);
}

void cuda_check(struct device *dev, bool rows_stay) {
    struct cuda *c = cuda_of(dev);
    cudaError_t e = cudaGetLastError();
    if (!rows_stay) forget_rows(c);
    if (c->error == cudaSuccess) c->error = e;
}

void cuda_note(struct device *dev, cudaError_t e) {
    struct cuda *c = cuda_of(dev);
    if (c->error == cudaSuccess) c->error = e;
}

/* Zeroed, as the CPU's is. */
static void *alloc(struct device *dev, size_t bytes) {
    void *p = NULL;
    if (cudaMalloc(&p, bytes ? bytes : 1) != cudaSuccess) {
        cudaGetLastError();
        return NULL;
    }
    cuda_note(dev, cudaMemsetAsync(p, 0, bytes ? bytes : 1, cuda_of(dev)->stream));
    return p;
}

/* Before bytes change that nobody's kernel changes. */
static void settle(struct device *dev) {
    cuda_settle(cuda_of(dev));
    forget_rows(cuda_of(dev));
}

/* A key that is met again is worth a graph; by then every op has what it makes at its first use. */
static bool replay(struct device *dev, const void *key, size_t bytes) {
    struct cuda *c = cuda_of(dev);
    const std::string name((const char *)key, bytes);
    cuda_settle(c);
    forget_rows(c);
    auto found = c->lists->find(name);
    if (found == c->lists->end()) {
        if (c->lists->size() >= LISTS_MAX) forget_lists(c);
        (*c->lists)[name] = (struct cuda_list){ NULL };
        return false;
    }
    if (found->second.graph) {
        cuda_note(dev, cudaGraphLaunch(found->second.graph, c->stream));
        return true;
    }
    if (cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess)
        c->recording = &found->second;
    else cudaGetLastError();
    return false;
}

static void record_end(struct device *dev) {
    struct cuda *c = cuda_of(dev);
    cudaGraph_t graph = NULL;
    cuda_settle(c);
    if (!c->recording) return;
    cudaError_t e = cudaStreamEndCapture(c->stream, &graph);
    if (e == cudaSuccess) e = cudaGraphInstantiate(&c->recording->graph, graph, 0);
    if (e == cudaSuccess) e = cudaGraphLaunch(c->recording->graph, c->stream);
    if (graph) cudaGraphDestroy(graph);
    c->recording = NULL;
    cuda_note(dev, e);
}

static void release(struct device *dev, void *p, size_t bytes) {
    (void)bytes;
    settle(dev);
    forget_lists(cuda_of(dev));
    if (p) cuda_note(dev, cudaFree(p));
}

static void copy_in(struct device *dev, void *to, const void *from, size_t bytes) {
    settle(dev);
    if (bytes) cuda_note(dev, cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice,
                                         cuda_of(dev)->stream));
}

static void copy_out(struct device *dev, void *to, const void *from, size_t bytes) {
    cuda_settle(cuda_of(dev));
    if (bytes) cuda_note(dev, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost,
                                         cuda_of(dev)->stream));
}

static void move(struct device *dev, void *to, const void *from, size_t bytes) {
    settle(dev);
    if (bytes) cuda_note(dev, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice,
                                         cuda_of(dev)->stream));
}

static bool sync(struct device *dev, struct err *err) {
    struct cuda *c = cuda_of(dev);
    cuda_settle(c);
    cuda_note(dev, cudaStreamSynchronize(c->stream));
    return c->error == cudaSuccess || fail(err, ERR_DEVICE, "a kernel failed", c->error);
}

static void *shared(struct device *dev, size_t bytes) {
    void *p = NULL;
    const cudaError_t e = cudaHostAlloc(&p, bytes, cudaHostAllocMapped);
    cuda_note(dev, e);
    return e == cudaSuccess ? p : NULL;
}

static void unshare(struct device *dev, void *p) {
    if (p) cuda_note(dev, cudaFreeHost(p));
}

static void mark(struct device *dev, int i) {
    struct cuda *c = cuda_of(dev);
    cuda_settle(c);
    if (!c->mark[i]) cuda_note(dev, cudaEventCreateWithFlags(&c->mark[i], cudaEventDisableTiming));
    cuda_note(dev, cudaEventRecord(c->mark[i], c->stream));
}

static bool reached(struct device *dev, int i, struct err *err) {
    struct cuda *c = cuda_of(dev);
    cuda_note(dev, cudaEventSynchronize(c->mark[i]));
    return c->error == cudaSuccess || fail(err, ERR_DEVICE, "a kernel failed", c->error);
}

static void memory(const struct device *dev, size_t *free_bytes, size_t *all_bytes) {
    *free_bytes = *all_bytes = 0;
    cuda_note((struct device *)dev, cudaMemGetInfo(free_bytes, all_bytes));
}

const void *cuda_there(const struct device *dev, const void *at) {
    const std::map<const char *, struct cuda_copy> &copies = *cuda_of(dev)->copies;
    /* Tests adopt as they go; the error sticks. */
    if (!cuda_of(dev)->adopted->empty() && !cuda_adopted((struct device *)dev, NULL))
        cuda_note((struct device *)dev, cudaErrorMemoryAllocation);
    auto next = copies.upper_bound((const char *)at);
    if (!at || next == copies.begin()) return at;
    const auto &found = *--next;
    size_t offset = (size_t)((const char *)at - found.first);
    return offset < found.second.bytes ? found.second.there + offset : at;
}

const struct cuda_packed *cuda_is_packed(const struct cuda *c, const void *at) {
    auto next = c->packed->upper_bound((const char *)at);
    if (next == c->packed->begin()) return NULL;
    const auto &found = *--next;
    return (size_t)((const char *)at - found.first) < found.second.bytes ? &found.second : NULL;
}

struct tensor cuda_view_any(const struct device *dev, const struct tensor *t) {
    struct tensor v = *t;
    v.at = (void *)cuda_there(dev, t->at);
    v.quant.scales = cuda_there(dev, t->quant.scales);
    v.quant.biases = cuda_there(dev, t->quant.biases);
    return v;
}

struct tensor cuda_view(const struct device *dev, const struct tensor *t) {
    struct cuda *c = cuda_of(dev);
    const struct tensor v = cuda_view_any(dev, t);
    if (cuda_is_packed(c, v.at) && c->error == cudaSuccess) c->error = cudaErrorNotSupported;
    return v;
}

struct tensor cuda_heads(const struct device *dev, const struct tensor *t) {
    struct tensor v = cuda_view(dev, t);
    if (v.rank == 3) return v;
    v.rank = 3;
    v.shape[2] = v.shape[1];
    v.stride[2] = 1;
    v.shape[1] = 1;
    v.stride[1] = v.shape[2];
    return v;
}

/* A version as NVIDIA numbers it, 12080 for 12.8. */
static const char *no_driver(cudaError_t e) {
    static char text[200];
    int driver = 0, needed = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&needed);
    if (!driver)
        snprintf(text, sizeof text, "there is no NVIDIA driver here (no libcuda.so.1)");
    else if (e == cudaErrorInsufficientDriver || driver / 1000 < needed / 1000)
        snprintf(text, sizeof text, "the NVIDIA driver is for CUDA %d.%d, but CUDA %d.%d is needed",
                 driver / 1000, driver % 1000 / 10, needed / 1000, needed % 1000 / 10);
    else if (e == cudaSuccess || e == cudaErrorNoDevice)
        snprintf(text, sizeof text, "there is an NVIDIA driver here, but no GPU");
    else
        snprintf(text, sizeof text, "the NVIDIA driver does not start: %s", cudaGetErrorString(e));
    return text;
}

/* Asks the driver alone: no context is made, so it takes no memory. */
static const char *unusable(void) {
    static char text[200];
    int n = 0, major = 0, minor = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    cudaGetLastError();
    if (e != cudaSuccess || n < 1) return no_driver(e);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
    if (major >= OLDEST_CHIP) return NULL;
    snprintf(text, sizeof text, "the GPU is of compute capability %d.%d, but %d.0 is needed", major,
             minor, OLDEST_CHIP);
    return text;
}

/* In the order of device.h. */
static const struct device_ops ops = {
    "cuda", false, true, open_cuda, close_cuda, describe, alloc, release, cuda_adopt, NULL,
    cuda_adopted, memory, copy_in, copy_out, move, sync, replay, record_end, shared, unshare, mark,
    reached, cuda_sample, cuda_feed, cuda_embed, cuda_linear, cuda_products, cuda_norm, cuda_rope,
    cuda_gate, cuda_add, cuda_copy_view, cuda_scale, cuda_temperature, cuda_heads_ready,
    cuda_kv_store, cuda_attention, cuda_conv,
    cuda_ssm, cuda_delta, cuda_route, cuda_experts,
};

extern "C" const struct cuda_entry mlxcel_cuda = { sizeof ops, sizeof(struct tensor), &ops,
                                                       unusable };
