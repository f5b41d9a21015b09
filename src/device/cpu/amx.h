/* amx.h - the tiles of AMX: eight registers of up to 16 rows of 64 bytes, and products of whole
 * tiles. As macros over assembly, for the intrinsics of some compilers do not say which memory
 * they read, and what is stored before them may come too late. T, A, B and C are numbers of
 * tiles, 0 to 7, and literals. For the .c files of AMX alone.
 *
 * Whoever uses tiles configures them first and releases them in the same function: a thread that
 * holds none is switched faster. */
#pragma once
#include <stdint.h>

/* What an ldtilecfg reads. */
struct amx_config {
    uint8_t palette, start_row, zero[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

static inline void amx_shape(struct amx_config *c, int tile, int rows, int row_bytes) {
    c->rows[tile] = (uint8_t)rows;
    c->row_bytes[tile] = (uint16_t)row_bytes;
}

/* All tiles are zeros then. */
static inline void amx_configure(struct amx_config *c) {
    c->palette = 1;
    __asm__ volatile("ldtilecfg %0" : : "m"(*c));
}

static inline void amx_release(void) {
    __asm__ volatile("tilerelease");
}

#define AMX_ZERO(T) __asm__ volatile("tilezero %%tmm" #T : :)
/* Rows of a tile lie `stride` bytes apart. */
#define AMX_LOAD(T, at, stride)                                                                    \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #T                                               \
                     : : "r"((const void *)(at)), "r"((int64_t)(stride)) : "memory")
#define AMX_STORE(T, at, stride)                                                                   \
    __asm__ volatile("tilestored %%tmm" #T ", (%0,%1,1)"                                           \
                     : : "r"((void *)(at)), "r"((int64_t)(stride)) : "memory")
/* C += A B: signed bytes of A times unsigned ones of B, four of a row of A and four of a column
 * of B at a time; */
#define AMX_INT8(C, A, B) __asm__ volatile("tdpbsud %%tmm" #B ", %%tmm" #A ", %%tmm" #C : :)
/* the same for pairs of bf16. */
#define AMX_BF16(C, A, B) __asm__ volatile("tdpbf16ps %%tmm" #B ", %%tmm" #A ", %%tmm" #C : :)
