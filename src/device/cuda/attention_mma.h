/* attention_mma.h - what the two bf16 kernels of attention are given. */
#pragma once
#include "device/cuda/attention.h"
#include "device/cuda/hopper.h"

enum { ROW_BYTES = 128 };                /* of a box: 64 bf16, 128 numbers of 8 bits */

struct kv_maps { CUtensorMap k, v; };    /* [pages, kv_heads * page_tokens, dims] */

struct attention_job {
    struct tensor y, q;
    __nv_bfloat16 *next;                 /* [rows, heads, v_dim] y for the next product; NULL */
    char *few;                           /* the same as fragments; NULL */
    struct attend a;                     /* sinks with the device's address */
    struct kv_maps maps;
    int blocks;                          /* that the table's width has */
    int each;                            /* sequences of at most so many rows: attention_few.cu */
};

/* Sequences of at most `each` rows; those of more. True: all rows are left as fragments too. */
bool cuda_attention_few(struct cuda *, const struct attention_job &);
void cuda_attention_many(struct cuda *, const struct attention_job &);
