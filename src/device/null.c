/* null.c - a device whose ops do nothing. A pass over it measures what the pass needs
 * of scratch, with no second description of the layers that could be wrong. */
#include "device/device.h"

#include <stdio.h>

static bool open_null(struct device *d, const struct device_options *o, struct err *e) {
    (void)o;
    (void)e;
    d->impl = NULL;
    return true;
}
static void close_null(struct device *d) { (void)d; }
static void describe(const struct device *d, char *text, size_t size) {
    (void)d;
    snprintf(text, size, "null");
}
static void *alloc(struct device *d, size_t n) { (void)d; (void)n; return NULL; }
static void release(struct device *d, void *p, size_t n) { (void)d; (void)p; (void)n; }
static bool adopt(struct device *d, const void *p, size_t n) {
    (void)d; (void)p; (void)n;
    return true;
}
static void copy_bytes(struct device *d, void *to, const void *from, size_t n) {
    (void)d; (void)to; (void)from; (void)n;
}
static bool sync(struct device *d, struct err *e) { (void)d; (void)e; return true; }

static void embed(struct device *d, struct tensor *y, const struct tensor *t,
                  const struct tensor *ids, float s) {
    (void)d; (void)y; (void)t; (void)ids; (void)s;
}
static void linear(struct device *d, struct tensor *y, const struct linear *w,
                   const struct tensor *x) {
    (void)d; (void)y; (void)w; (void)x;
}
static void norm(struct device *d, struct tensor *y, const struct tensor *w, const struct tensor *b,
                 const struct tensor *x, enum norm kind, float eps) {
    (void)d; (void)y; (void)w; (void)b; (void)x; (void)kind; (void)eps;
}
static void rope(struct device *d, struct tensor *x, const struct rope_args *a) {
    (void)d; (void)x; (void)a;
}
static void gate(struct device *d, struct tensor *y, const struct tensor *g, const struct tensor *u,
                 const struct gate_args *a) {
    (void)d; (void)y; (void)g; (void)u; (void)a;
}
static void add(struct device *d, struct tensor *y, const struct tensor *x, float s) {
    (void)d; (void)y; (void)x; (void)s;
}
static void copy(struct device *d, struct tensor *y, const struct tensor *x) {
    (void)d; (void)y; (void)x;
}
static void scale(struct device *d, struct tensor *x, float s, float clip, float cap) {
    (void)d; (void)x; (void)s; (void)clip; (void)cap;
}
static void temperature(struct device *d, struct tensor *x, const struct rows *r, float beta,
                        float original, int shift) {
    (void)d; (void)x; (void)r; (void)beta; (void)original; (void)shift;
}
static void kv_store(struct device *d, const struct attend *a, const struct tensor *k,
                     const struct tensor *v) {
    (void)d; (void)a; (void)k; (void)v;
}
static void attention(struct device *d, struct tensor *y, const struct tensor *q,
                      const struct attend *a) {
    (void)d; (void)y; (void)q; (void)a;
}
static void conv(struct device *d, struct tensor *y, const struct tensor *w, const struct tensor *b,
                 const struct tensor *x, const struct rows *r, const struct state_view *s,
                 enum act act) {
    (void)d; (void)y; (void)w; (void)b; (void)x; (void)r; (void)s; (void)act;
}
static void ssm(struct device *d, struct tensor *y, const struct ssm_args *a) {
    (void)d; (void)y; (void)a;
}
static void delta(struct device *d, struct tensor *y, const struct delta_args *a) {
    (void)d; (void)y; (void)a;
}
static void route(struct device *d, struct tensor *ids, struct tensor *share,
                  const struct tensor *logits, const struct route_args *a) {
    (void)d; (void)ids; (void)share; (void)logits; (void)a;
}
static void experts(struct device *d, struct tensor *y, const struct tensor *x,
                    const struct expert_args *a) {
    (void)d; (void)y; (void)x; (void)a;
}

const struct device_ops device_null = {
    .name = "null", .open = open_null, .close = close_null, .describe = describe, .alloc = alloc,
    .free = release, .adopt = adopt, .copy_in = copy_bytes, .copy_out = copy_bytes,
    .move = copy_bytes, .sync = sync, .embed = embed, .linear = linear, .norm = norm,
    .rope = rope, .gate = gate, .add = add, .copy = copy, .scale = scale,
    .temperature = temperature, .kv_store = kv_store, .attention = attention, .conv = conv,
    .ssm = ssm, .delta = delta, .route = route, .experts = experts,
};
