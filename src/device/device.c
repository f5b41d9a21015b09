/* device.c - devices by name. The CUDA device is a shared object of its own, opened when it is
 * asked for: one program serves machines with and without a GPU. */
#include "device/device.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char object[] = "mlxcel-cuda.so";

/* Beside the program, where `make install` puts it, and above a test program. */
static void *open_object(void) {
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
        void *found = access(path, R_OK) ? NULL : dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (found) return found;
    }
    return NULL;
}

/* NULL: no shared object, or one that was built from other sources. */
static const struct device_ops *cuda_ops(const struct cuda_entry **entry) {
    void *so = open_object();
    *entry = so ? dlsym(so, "mlxcel_cuda") : NULL;
    return *entry && (*entry)->ops_bytes == sizeof(struct device_ops) ? (*entry)->ops : NULL;
}

const struct device_ops *device_find(const char *name, struct err *err) {
    const struct cuda_entry *entry;
    const struct device_ops *cuda = NULL;
    bool any = !name || !strcmp(name, "auto");
    if (!any && !strcmp(name, "cpu")) return &device_cpu;
    if (!any && strcmp(name, "cuda")) {
        err_code(err, ERR_USAGE, "device %s: unknown; there is: auto, cpu, cuda", name);
        return NULL;
    }
    cuda = cuda_ops(&entry);
    if (any) return cuda && entry->count() > 0 ? cuda : &device_cpu;
    if (!cuda) err_code(err, ERR_DEVICE, "device cuda: %s", entry
        ? "mlxcel-cuda.so is from another build than this program"
        : "mlxcel-cuda.so is not beside this program (make CUDA=1 builds it); there is: cpu");
    else if (entry->count() < 1) err_code(err, ERR_DEVICE,
        "device cuda: there is no NVIDIA GPU here, or no driver for it; there is: cpu");
    else return cuda;
    return NULL;
}
