/* inflate.c - compressed bodies become plain ones, block by block.
 *
 * A thousand bytes can stand for a million, and a short request for a long time, so every block
 * that comes out is counted against the limit for requests before the next one is made: what a
 * stream says of its own size is never believed. Both formats may have several streams in a
 * row, which is why an end is not yet the end. */
#include "api/inflate.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

/* A stream of few bytes costs a start, so their number has a limit as well. */
enum { BLOCK = 16 << 10, WINDOW_LOG = 23, STREAMS_MAX = 1024, GZIP_ONLY = 16 };

const char inflate_names[] = "gzip, deflate, zstd, identity";

static bool is_plain(const char *encoding) {
    return !encoding || !*encoding || !strcasecmp(encoding, "identity");
}

/* As HTTP names it: "deflate" is a zlib stream, not the bare blocks. */
static int zlib_window(const char *encoding) {
    if (!strcasecmp(encoding, "gzip") || !strcasecmp(encoding, "x-gzip"))
        return MAX_WBITS + GZIP_ONLY;
    return strcasecmp(encoding, "deflate") ? 0 : MAX_WBITS;
}

bool inflate_knows(const char *encoding) {
    return is_plain(encoding) || zlib_window(encoding) || !strcasecmp(encoding, "zstd");
}

static bool damaged(struct fault *f, const char *encoding) {
    return fault_set(f, 400, "Content-Encoding", "The body is not what Content-Encoding says: its "
                     "%s data is damaged or cut short.", encoding);
}

/* One block more, if there is room for it. */
static bool take(struct buf *to, const char *block, size_t n, size_t max, struct fault *f) {
    if (n > max || to->len > max - n)
        return fault_set(f, 413, NULL, "the body has more bytes than the limit of %zu when it is "
                         "decompressed", max);
    buf_put(to, block, n);
    return true;
}

/* ---- gzip, deflate ---- */

static bool from_zlib(struct str from, const char *encoding, size_t max, struct buf *to,
                      struct fault *f) {
    char block[BLOCK];
    z_stream z = { .next_in = (Bytef *)(uintptr_t)from.at, .avail_in = (uInt)from.len };
    int code = inflateInit2(&z, zlib_window(encoding));
    if (code != Z_OK) return fault_set(f, 500, NULL, "there is no memory to decompress the body");
    bool ok = true;
    for (int n_streams = 0; ok;) {
        z.next_out = (Bytef *)block;
        z.avail_out = BLOCK;
        code = inflate(&z, Z_NO_FLUSH);
        ok = (code == Z_OK || code == Z_STREAM_END) || damaged(f, encoding);
        ok = ok && take(to, block, BLOCK - z.avail_out, max, f);
        if (code != Z_STREAM_END) continue;      /* without progress the next code says so */
        if (!z.avail_in) break;
        ok = ok && (++n_streams < STREAMS_MAX || damaged(f, encoding));
        inflateReset(&z);
    }
    inflateEnd(&z);
    return ok;
}

/* ---- zstd ---- */

static bool from_zstd(struct str from, size_t max, struct buf *to, struct fault *f) {
    char block[BLOCK];
    ZSTD_DStream *z = ZSTD_createDStream();
    if (!z) return fault_set(f, 500, NULL, "there is no memory to decompress the body");
    ZSTD_DCtx_setParameter(z, ZSTD_d_windowLogMax, WINDOW_LOG);
    ZSTD_inBuffer in = { from.at, from.len, 0 };
    size_t left = 1;                   /* 0: a frame is over and all of it was given out */
    bool ok = true;
    for (int n_frames = 0; ok && (left || in.pos < in.size);) {
        ZSTD_outBuffer out = { block, BLOCK, 0 };
        size_t before = in.pos;
        left = ZSTD_decompressStream(z, &out, &in);
        /* It asks for more than there is: a call that neither takes nor gives is the end. */
        bool moved = out.pos || in.pos > before;
        if (ZSTD_getErrorCode(left) == ZSTD_error_frameParameter_windowTooLarge)
            ok = fault_set(f, 400, "Content-Encoding", "The body's zstd window is above %d MiB.",
                           1 << (WINDOW_LOG - 20));
        n_frames += !left;
        ok = (ok && !ZSTD_isError(left) && moved && n_frames < STREAMS_MAX) || damaged(f, "zstd");
        ok = ok && take(to, block, out.pos, max, f);
    }
    ZSTD_freeDStream(z);
    return ok;
}

bool inflate_body(struct str from, const char *encoding, size_t max, struct buf *to,
                  struct fault *f) {
    if (is_plain(encoding)) return take(to, from.at, from.len, max, f);
    if (from.len > UINT32_MAX) return fault_set(f, 413, NULL, "the body is too long");
    if (!from.len) return damaged(f, encoding);
    return zlib_window(encoding) ? from_zlib(from, encoding, max, to, f)
                                 : from_zstd(from, max, to, f);
}
