/* device.c - devices by name. The CUDA device is a shared object of its own, opened when it is
 * asked for: one program serves machines with and without a GPU. */
#include "device/device.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char object[] = "mlxcel-cuda.so";

/* Beside the program, where `make install` puts it, and above a test program. */
static void *open_object(bool *is_there) {
    static const char *const folders[] = { "", "../lib/mlxcel/", "../../" };
    char exe[4096], path[sizeof exe + 64];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n <= 0) return NULL;
    exe[n] = 0;
    char *end = strrchr(exe, '/');
    if (!end) return NULL;
    end[1] = 0;
    for (size_t i = 0; i < COUNT(folders); i++) {
        snprintf(path, sizeof path, "%s%s%s", exe, folders[i], object);
        /* Never closed: the driver's threads outlive a device. */
        *is_there = !access(path, R_OK);
        if (*is_there) return dlopen(path, RTLD_NOW | RTLD_LOCAL);
    }
    return NULL;
}

/* Of the shared object, when it was built with this table of ops; else why there is none. */
static const struct cuda_entry *open_cuda(const char **why) {
    bool is_there = false;
    void *so = open_object(&is_there);
    const struct cuda_entry *entry = so ? dlsym(so, "mlxcel_cuda") : NULL;
    if (!is_there) *why = "mlxcel-cuda.so is not beside this program (make CUDA=1 builds it)";
    else if (!so) *why = "mlxcel-cuda.so is there, but cannot be loaded";
    else if (!entry || entry->ops_bytes != sizeof(struct device_ops))
        *why = "mlxcel-cuda.so is from another build than this program";
    else if (entry->count() < 1) *why = "there is no NVIDIA GPU here, or no driver for it";
    else return entry;
    return NULL;
}

const struct device_ops *device_find(const char *name, struct err *err) {
    bool any = !name || !strcmp(name, "auto");
    const char *why = NULL;
    if (!any && !strcmp(name, "cpu")) return &device_cpu;
    if (!any && strcmp(name, "cuda")) {
        err_code(err, ERR_USAGE, "device %s: unknown; there is: auto, cpu, cuda", name);
        return NULL;
    }
    const struct cuda_entry *cuda = open_cuda(&why);
    if (cuda) return cuda->ops;
    if (any) return &device_cpu;
    err_code(err, ERR_DEVICE, "device cuda: %s; there is: cpu", why);
    return NULL;
}
