/* Next-token loss of a block of logits on a CPU: softmax, loss and gradient in one pass a row. */
#include "simd.h"

/* logits [rows, V] (floats or, with `half`, bf16) become the gradient of
 * scales[0] * sum over rows of (-log p(label) + scales[1] * lse^2), lse = log-sum-exp of the row;
 * *loss gets that sum, without scales[0]. V is a multiple of LANES. */
int emo_cross_entropy(long rows, long V, long half, void *logits, const int64_t *labels,
                      const float *scales, float *loss) {
    float *widened = aligned_alloc(64, V * sizeof *widened);
    if (!widened) return 1;
    double total = 0;
    for (long m = 0; m < rows; m++) {
        float *row = half ? widened : (float *)logits + m * V;
        for (long j = 0; half && j < V; j += LANES) *(vec *)(row + j) = load(logits, m * V + j, 1);
        const float label_logit = row[labels[m]], top = largest(row, V);
        const float exps = exponentials(row, V, top), lse = top + logf(exps);
        total += lse - label_logit + scales[1] * lse * lse;
        const float weight = scales[0] * (1 + 2 * scales[1] * lse) / exps;
        row[labels[m]] -= scales[0] / weight;
        for (long j = 0; j < V; j += LANES)
            store(logits, m * V + j, *(vec *)(row + j) * weight, half);
    }
    *loss = (float)total;
    free(widened);
    return 0;
}
