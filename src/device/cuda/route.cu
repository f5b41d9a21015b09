/* route.cu - choosing experts: a thread for each row, in the order of the definition. */
#include "device/cuda/cuda.h"

__device__ static void softmax(float *x, int n) {
    float max = x[0];
    double sum = 0;
    for (int i = 1; i < n; i++) max = fmaxf(max, x[i]);
    for (int i = 0; i < n; i++) sum += (double)(x[i] = expf(x[i] - max));
    for (int i = 0; i < n; i++) x[i] = (float)((double)x[i] / sum);
}

__device__ static int largest(const float *x, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
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

/* Dynamic shared memory: three floats for each expert. */
__global__ static void route(struct tensor ids, struct tensor share, struct tensor logits,
                             struct route_args a) {
    extern __shared__ float work[];
    const int64_t r = blockIdx.x;
    float *score = work, *choice = work + a.experts, *groups = work + 2 * a.experts;
    const float *from = (const float *)logits.at + r * logits.stride[0];
    int *id = (int *)ids.at + r * ids.stride[0];
    float *part = (float *)share.at + r * share.stride[0];
    for (int e = threadIdx.x; e < a.experts; e += blockDim.x)
        score[e] = a.score == SCORE_SIGMOID ? sigmoid(from[e]) : from[e];
    __syncthreads();
    if (threadIdx.x) return;
    if (a.score == SCORE_SOFTMAX) softmax(score, a.experts);
    for (int e = 0; e < a.experts; e++) choice[e] = score[e] + (a.bias ? a.bias[e] : 0);
    if (a.groups > 1) drop_groups(choice, groups, a);
    double sum = 0;
    for (int k = 0; k < a.active; k++) {
        const int best = largest(choice, a.experts);
        choice[best] = -INFINITY;
        id[k] = best;
        part[k] = score[best];
        sum += (double)part[k];
    }
    if (a.score == SCORE_SOFTMAX_OF_TOP) softmax(part, a.active);
    for (int k = 0; k < a.active; k++) {
        if (a.renormalize) part[k] = (float)((double)part[k] / (sum + (double)a.renormalize_eps));
        part[k] *= a.scale;
    }
}

void cuda_route(struct device *dev, struct tensor *ids, struct tensor *share,
                const struct tensor *logits, const struct route_args *args) {
    struct route_args a = *args;
    a.bias = (const float *)cuda_there(dev, a.bias);
    route<<<(unsigned)logits->shape[0], 32, 3 * (size_t)a.experts * sizeof(float),
            cuda_of(dev)->stream>>>(*ids, *share, *logits, a);
    cuda_check(dev);
}
