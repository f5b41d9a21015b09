/* attention_mma.h - what the bf16 kernels of attention are given, and the instructions of those on
 * mma. */
#pragma once
#include "device/cuda/attention.h"
#include "device/cuda/hopper.h"

enum { ROW_BYTES = 128 };                /* of a box: 64 bf16, 128 bytes */

__device__ static inline void matrices(unsigned r[4], const void *at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_at(at)) : "memory");
}

__device__ static inline void matrices_turned(unsigned r[4], const void *at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_at(at)) : "memory");
}

/* c[16, 8] += a[16, 16] b[16, 8]. */
__device__ static inline void mma(float c[4], const unsigned a[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},"
        "{%8,%9},{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Which 16 bytes of a row hold its columns from 8 unit on. */
__device__ static inline const unsigned char *unit_at(const unsigned char *rows, int row,
                                                     int unit) {
    return rows + row * ROW_BYTES + ((unit ^ row) & 7) * 16;
}

/* Row number i % each of sequence i / each, if that has at most `each` of them. -1: there is
 * none. */
__device__ static inline int64_t few_row(const struct rows &rows, int each, int i) {
    if (each == 1 && rows.n_rows == rows.n_seqs) return i;
    const int seq = i / each, first = rows.first[seq], n = rows.first[seq + 1] - first;
    return n > each || i % each >= n ? -1 : first + i % each;
}

struct kv_maps { CUtensorMap k, v; };    /* [pages, kv_heads * page_tokens, dims] */

/* In boxes of so many rows and 128 bytes; numbers are of `width` bytes. False: there are none. */
static inline bool kv_maps_of(struct kv_maps *maps, const struct attend &a, int box_rows,
                              size_t width) {
    const int rows = a.kv_heads * a.kv.page_tokens;
    const int64_t bytes = (int64_t)a.kv.page_bytes;
    const char *values = (const char *)a.kv.pages + values_at(a, width);
    return cuda_page_map(&maps->k, a.kv.pages, rows, a.k_dim, bytes, box_rows, width) &&
           cuda_page_map(&maps->v, values, rows, a.v_dim, bytes, box_rows, width);
}

struct attention_job {
    struct tensor y, q;
    __nv_bfloat16 *next;                 /* [rows, heads, v_dim] y for the next product; NULL */
    char *few;                           /* the same as fragments; NULL */
    struct attend a;                     /* sinks with the device's address */
    struct kv_maps maps;
    int blocks;                          /* that the table's width has */
    int each;                            /* sequences of at most so many rows: few_row */
};

/* Sequences of at most `each` rows; those of more. True: all rows are left as fragments too. */
bool cuda_attention_few(struct cuda *, const struct attention_job &);
/* The same where there are many of them; false, and nothing done: there are not, or it cannot. */
bool cuda_attention_rows(struct cuda *, const struct attention_job &);
/* Whether heads wait for this attention, which then makes them ready. True of the second: all rows
 * are left as fragments too. */
bool cuda_one_can(const struct cuda *, const struct attention_job &);
bool cuda_attention_one(struct cuda *, const struct attention_job &);
void cuda_attention_many(struct cuda *, const struct attention_job &);
