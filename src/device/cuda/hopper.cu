/* hopper.cu - views of the device's memory for the tensor copy engine. */
#include "device/cuda/hopper.h"

typedef CUresult encode_fn(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                           const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                           const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                           CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* The driver is not linked: the runtime knows where its functions are. */
static encode_fn *encoder(void) {
    static encode_fn *fn;
    void *at = NULL;
    cudaDriverEntryPointQueryResult found;
    if (!fn && cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &at, 12000,
                                                cudaEnableDefault, &found) == cudaSuccess &&
        found == cudaDriverEntryPointSuccess)
        fn = (encode_fn *)at;
    return fn;
}

/* Rows of a box are 128 bytes, whose 16-byte units are exchanged by row. */
static bool map_of(CUtensorMap *map, const void *at, int rank, const cuuint64_t *size,
                   const cuuint64_t *stride, const cuuint32_t *box, size_t width = 2,
                   CUtensorMapL2promotion asked = CU_TENSOR_MAP_L2_PROMOTION_L2_256B) {
    const cuuint32_t step[4] = { 1, 1, 1, 1 };
    encode_fn *encode = encoder();
    bool lined = (uintptr_t)at % 16 == 0;
    for (int i = 0; i < rank - 1; i++) lined = lined && stride[i] % 16 == 0;
    return encode && lined &&
           encode(map, width == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8
                                  : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                  (cuuint32_t)rank, (void *)(uintptr_t)at, size, stride, box, step,
                  CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, asked,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

bool cuda_tensor_map(CUtensorMap *map, const void *at, int64_t rows, int64_t cols,
                     int64_t row_bytes, int box_rows) {
    const cuuint64_t size[2] = { (cuuint64_t)cols, (cuuint64_t)rows };
    const cuuint64_t stride[1] = { (cuuint64_t)row_bytes };
    const cuuint32_t box[2] = { 64, (cuuint32_t)box_rows };
    return map_of(map, at, 2, size, stride, box);
}

bool cuda_tensor_map_blocks(CUtensorMap *map, const void *at, int64_t rows, int64_t cols,
                            int64_t row_bytes, int box_rows, int box_blocks) {
    const cuuint64_t size[3] = { 64, (cuuint64_t)rows, (cuuint64_t)(cols / 64) };
    const cuuint64_t stride[2] = { (cuuint64_t)row_bytes, 128 };
    const cuuint32_t box[3] = { 64, (cuuint32_t)box_rows, (cuuint32_t)box_blocks };
    return map_of(map, at, 3, size, stride, box);
}

/* Page numbers come from the cache: there is no need to know how many there are. */
static const cuuint64_t PAGES = (cuuint64_t)1 << 24;

bool cuda_page_map(CUtensorMap *map, const void *at, int64_t rows, int64_t cols,
                   int64_t page_bytes, int box_rows, size_t width) {
    const cuuint64_t size[3] = { (cuuint64_t)cols, (cuuint64_t)rows, PAGES };
    const cuuint64_t stride[2] = { (cuuint64_t)cols * width, (cuuint64_t)page_bytes };
    const cuuint32_t box[3] = { (cuuint32_t)(128 / width), (cuuint32_t)box_rows, 1 };
    return map_of(map, at, 3, size, stride, box, width);
}

/* The second cache asks the memory for 128 bytes at a time: where 256 may be asked for, pages that
 * lie apart come a tenth slower. */
bool cuda_page_map_whole(CUtensorMap *map, const void *at, int64_t rows, int64_t cols,
                         int64_t page_bytes, int box_rows, size_t width) {
    const int64_t each = 128 / (int64_t)width, parts = (cols + each - 1) / each;
    const cuuint64_t size[4] = { (cuuint64_t)(cols < each ? cols : each), (cuuint64_t)rows,
                                 (cuuint64_t)parts, PAGES };
    const cuuint64_t stride[3] = { (cuuint64_t)cols * width, 128, (cuuint64_t)page_bytes };
    const cuuint32_t box[4] = { (cuuint32_t)each, (cuuint32_t)box_rows, (cuuint32_t)parts, 1 };
    return map_of(map, at, 4, size, stride, box, width, CU_TENSOR_MAP_L2_PROMOTION_L2_128B);
}
