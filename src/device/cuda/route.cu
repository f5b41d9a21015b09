/* route.cu - choosing experts: a warp for each row, which picks in the order of the definition. */
#include "device/cuda/cuda.h"

/* In shared memory, by the whole warp: a lane's numbers ascending, then the lanes in one tree. */
__device__ static void softmax(float *x, int n) {
    const int lane = (int)threadIdx.x;
    float max = -INFINITY;
    double sum = 0;
    for (int i = lane; i < n; i += 32) max = fmaxf(max, x[i]);
    max = warp_max(max);
    for (int i = lane; i < n; i += 32) sum += (double)(x[i] = expf(x[i] - max));
    for (int k = 16; k > 0; k /= 2) sum += __shfl_xor_sync(~0u, sum, k);
    for (int i = lane; i < n; i += 32) x[i] = (float)((double)x[i] / sum);
    __syncwarp();
}

__device__ static int largest(const float *x, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

/* The same by the whole warp: the lowest index among equals, in every lane. */
__device__ static int largest_of_warp(const float *x, int n) {
    int best = (int)threadIdx.x;
    float top = best < n ? x[best] : -INFINITY;
    if (best >= n) best = n;
    for (int i = (int)threadIdx.x + 32; i < n; i += 32)
        if (x[i] > top) top = x[best = i];
    for (int k = 16; k > 0; k /= 2) {
        const float other = __shfl_xor_sync(~0u, top, k);
        const int index = __shfl_xor_sync(~0u, best, k);
        if (other > top || (other == top && index < best)) top = other, best = index;
    }
    /* With NaN lanes may differ; lane 0 always has one of the experts. */
    return __shfl_sync(~0u, best, 0);
}

/* A group counts by the sum of its best one or two; experts of the others are out. A group that
 * is kept leaves the contest by a score of minus infinity, and is marked by NaN. */
__device__ static void drop_groups(float *choice, float *score, const struct route_args &a) {
    const int size = a.experts / a.groups;
    for (int g = 0; g < a.groups; g++) {
        const float *x = choice + g * size;
        const int first = largest(x, size);
        float second = -INFINITY;
        for (int i = 0; i < size; i++)
            if (i != first) second = fmaxf(second, x[i]);
        score[g] = x[first] + (a.group_top > 1 && size > 1 ? second : 0);
    }
    for (int n = 0; n < a.groups_active; n++) {
        int best = -1;
        for (int g = 0; g < a.groups; g++)
            if (!isnan(score[g]) && (best < 0 || score[g] > score[best])) best = g;
        if (best >= 0) score[best] = NAN;
    }
    for (int g = 0; g < a.groups; g++)
        for (int i = 0; i < size && !isnan(score[g]); i++) choice[g * size + i] = -INFINITY;
}

/* Dynamic shared memory: three floats for each expert, and a float for each that is active. */
__global__ static void __launch_bounds__(32) route(struct tensor ids, struct tensor share,
                                                   struct tensor logits, struct route_args a) {
    extern __shared__ float work[];
    let_next_begin();
    after_previous();
    const int64_t r = blockIdx.x;
    const int lane = (int)threadIdx.x;
    float *score = work, *choice = work + a.experts, *groups = work + 2 * a.experts;
    float *part = work + 3 * a.experts, *shares = (float *)share.at + r * share.stride[0];
    const float *from = (const float *)logits.at + r * logits.stride[0];
    int *id = (int *)ids.at + r * ids.stride[0];
    for (int e = lane; e < a.experts; e += 32)
        score[e] = a.score == SCORE_SIGMOID ? sigmoid(from[e]) : from[e];
    __syncwarp();
    if (a.score == SCORE_SOFTMAX) softmax(score, a.experts);
    for (int e = lane; e < a.experts; e += 32) choice[e] = score[e] + (a.bias ? a.bias[e] : 0);
    __syncwarp();
    if (a.groups > 1 && lane == 0) drop_groups(choice, groups, a);
    __syncwarp();
    double sum = 0;
    for (int k = 0; k < a.active; k++) {
        const int best = largest_of_warp(choice, a.experts);
        __syncwarp();                /* all have read what lane 0 writes */
        sum += (double)score[best];
        if (lane == 0) {
            choice[best] = -INFINITY;
            id[k] = best;
            part[k] = score[best];
        }
        __syncwarp();
    }
    if (a.score == SCORE_SOFTMAX_OF_TOP) softmax(part, a.active);
    for (int k = lane; k < a.active; k += 32) {
        float p = part[k];
        if (a.renormalize) p = (float)((double)p / (sum + (double)a.renormalize_eps));
        shares[k] = p * a.scale;
    }
}

void cuda_route(struct device *dev, struct tensor *ids, struct tensor *share,
                const struct tensor *logits, const struct route_args *args) {
    struct route_args a = *args;
    a.bias = (const float *)cuda_there(dev, a.bias);
    cuda_start(cuda_of(dev), route, (unsigned)logits->shape[0], 32,
               (size_t)(3 * a.experts + a.active) * sizeof(float), *ids, *share, *logits, a);
    cuda_check(dev);
}
