/* device.c - devices by name. */
#include "device/device.h"

const struct device_ops *device_find(const char *name, struct err *err) {
    if (!name || str_is(str_of(name), "auto") || str_is(str_of(name), "cpu")) return &device_cpu;
    if (str_is(str_of(name), "cuda"))
        err_code(err, ERR_DEVICE, "device cuda: this build has no CUDA; there is: cpu");
    else err_code(err, ERR_USAGE, "device %s: unknown; there is: auto, cpu", name);
    return NULL;
}
