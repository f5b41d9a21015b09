/* device.c - devices by name. The CUDA device is a shared object of its own, opened when it is
 * asked for: one program serves machines with and without a GPU. */
#include "device/device.h"
#include "base/log.h"

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
static const struct cuda_entry *open_cuda(char *why, size_t size, bool *is_there) {
    *is_there = false;
    void *so = open_object(is_there);
    const char *loading = *is_there && !so ? dlerror() : NULL;
    const struct cuda_entry *entry = so ? dlsym(so, "mlxcel_cuda") : NULL;
    if (!*is_there)
        snprintf(why, size, "mlxcel-cuda.so is not beside this program (make CUDA=1 builds it)");
    else if (!so)
        snprintf(why, size, "mlxcel-cuda.so cannot be loaded: %s", loading ? loading : "?");
    else if (!entry || entry->ops_bytes != sizeof(struct device_ops) ||
             entry->tensor_bytes != sizeof(struct tensor))
        snprintf(why, size, "mlxcel-cuda.so is from another build than this program");
    else {
        const char *unusable = entry->unusable();
        if (!unusable) return entry;
        snprintf(why, size, "%s", unusable);
    }
    return NULL;
}

const struct device_ops *device_find(const char *name, struct err *err) {
    bool any = !name || !strcmp(name, "auto"), is_there;
    char why[300];
    if (!any && !strcmp(name, "cpu")) return &device_cpu;
    if (!any && strcmp(name, "cuda")) {
        err_code(err, ERR_USAGE, "device %s: unknown; there is: auto, cpu, cuda", name);
        return NULL;
    }
    const struct cuda_entry *cuda = open_cuda(why, sizeof why, &is_there);
    if (cuda && any) log_line(LOG_INFO, "device auto: cuda is taken, there is a GPU to use");
    if (cuda) return cuda->ops;
    if (!any) {
        err_code(err, ERR_DEVICE, "device cuda: %s; there is: cpu", why);
        return NULL;
    }
    /* Who put the object there expects it to be used. */
    log_line(is_there ? LOG_WARN : LOG_INFO, "device auto: the CPU is taken, %s", why);
    return &device_cpu;
}
